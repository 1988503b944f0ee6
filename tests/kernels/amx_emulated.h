// A model of the AMX instructions in plain C++, for kernels compiled with AMX_EMULATED: tiles.h's functions, after the
// pseudo-code of Intel's Software Developer's Manual, volume 2 (LDTILECFG, TILELOADD, TILESTORED, TDPBSUD). What would fault on
// a processor ends the process here: no configuration, a tile that is too large, shapes that do not match.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// A processor that gets products wrong: set by the test of the check that must notice it.
extern "C" {
int ds_emulated_fault = 0;
}

namespace {

struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

struct TileRegisters {
    bool configured = false;
    TileConfig config;
    uint8_t data[8][16][64];

    void need(bool condition, const char* what) const {
        if (condition) return;
        fprintf(stderr, "amx emulation: %s\n", what);
        abort();
    }
    int rows(int t) const {
        need(configured, "a tile is used without a configuration");
        need(config.rows[t] > 0, "a tile without rows is used");
        return config.rows[t];
    }
    int row_bytes(int t) const { return rows(t) ? config.row_bytes[t] : 0; }
};

thread_local TileRegisters tiles;

void tiles_configure(const TileConfig& config) {
    tiles.need(config.palette == 1 && config.start_row == 0, "the palette is 1");
    for (int t = 0; t < 16; t++) {
        tiles.need(t < 8 || (!config.rows[t] && !config.row_bytes[t]), "there are eight tiles");
        tiles.need(config.rows[t] <= 16 && config.row_bytes[t] <= 64, "a tile holds 16 rows of 64 bytes");
        tiles.need(!config.rows[t] == !config.row_bytes[t], "a tile has rows and bytes or neither");
    }
    tiles.configured = true;
    tiles.config = config;
    memset(tiles.data, 0, sizeof tiles.data);
}

void tiles_release() { tiles.configured = false; }

template <int T>
void tile_zero() {
    tiles.rows(T);
    memset(tiles.data[T], 0, sizeof tiles.data[T]);
}

template <int T>
void tile_load(const void* rows, int64_t stride) {
    tile_zero<T>();  // what lies beyond the configured shape becomes zero
    for (int r = 0; r < tiles.rows(T); r++) memcpy(tiles.data[T][r], (const char*)rows + r * stride, tiles.row_bytes(T));
}

template <int T>
void tile_store(void* rows, int64_t stride) {
    for (int r = 0; r < tiles.rows(T); r++) memcpy((char*)rows + r * stride, tiles.data[T][r], tiles.row_bytes(T));
}

template <int C, int A, int B>
void tile_dot() {
    const int height = tiles.rows(C), width = tiles.row_bytes(C) / 4, depth = tiles.row_bytes(A) / 4;
    tiles.need(tiles.rows(A) == height && tiles.row_bytes(B) == width * 4 && tiles.rows(B) == depth, "shapes do not match");
    tiles.need(C != A && C != B && A != B, "three different tiles");
    for (int m = 0; m < height; m++)
        for (int k = 0; k < depth; k++)
            for (int n = 0; n < width; n++) {
                int32_t sum;
                memcpy(&sum, tiles.data[C][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) {
                    const int a = (int8_t)tiles.data[A][m][4 * k + i], b = tiles.data[B][k][4 * n + i];
                    sum += ds_emulated_fault ? a * (int8_t)b : a * b;
                }
                memcpy(tiles.data[C][m] + 4 * n, &sum, 4);
            }
}

}  // namespace
