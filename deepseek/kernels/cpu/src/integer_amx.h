// Integer products of many rows on AMX tiles: up to 16 rows by 16 outputs by 64 inputs in one instruction.
//
// Tested in emulation (tests/kernels/test_amx.py), not yet run on the hardware. Therefore isa.cpp compares a few products
// with those of the VNNI kernels, bit for bit, before it ever hands this instruction set out.
//
// A block of a panel, [inputs / 4][32 outputs][4 inputs], is a tile of weights as it lies: its left and right half are two
// tiles with rows 128 bytes apart. Codes with their offset are unsigned, the quantised rows signed. The integer sums are
// exact, and what follows them are integer_tile's steps, so the results are the VNNI kernels' bits. Those also do what is too
// small for tiles: few rows, and a last block of less than 128 inputs.
#pragma once

#include "integer.h"
#include "tiles.h"

namespace {

constexpr int TILE_ROWS = 16, TILE_OUTPUTS = 16, AMX_ROWS = 8;

// A task's rows as tiles of one height, for one configuration to serve them all. The last tile starts early enough to be a
// full one; of the rows that it shares with the one before, nothing is added twice.
// Registers: 0 to 3 sums (two tiles of rows by two halves of a panel), 4 and 5 rows, 6 and 7 weights.
class Tiling {
  public:
    Tiling(int64_t rows, int inputs) : rows_(rows), count_((rows + TILE_ROWS - 1) / TILE_ROWS), height_((rows + count_ - 1) / count_) {
        TileConfig config;
        for (int t = 0; t < 8; t++) {
            config.rows[t] = (uint8_t)(t < 6 ? height_ : inputs / 4);
            config.row_bytes[t] = (uint16_t)(t == 4 || t == 5 ? inputs : 4 * TILE_OUTPUTS);
        }
        tiles_configure(config);
    }
    ~Tiling() { tiles_release(); }
    Tiling(const Tiling&) = delete;

    int64_t count() const { return count_; }
    int64_t begin(int64_t tile) const { return tile * height_ < rows_ - height_ ? tile * height_ : rows_ - height_; }
    int64_t fresh(int64_t tile) const { return tile * height_; }
    int64_t end(int64_t tile) const { return begin(tile) + height_; }

  private:
    int64_t rows_, count_, height_;
};

// What is summed under one scale: all 128 inputs of 8-bit codes, in two steps of a tile, or 32 of 4-bit codes in one.
template <int BITS> constexpr int PARTS = BITS == 8 ? 1 : KBLOCK / 32;
template <int BITS> constexpr int TILE_INPUTS = BITS == 8 ? 64 : 32;

typedef int32_t PartDots[TILE_ROWS][PANEL];

// 4-bit codes of 128 inputs to bytes [32][32 outputs][4 inputs].
INLINE void unpack4(const char* w, uint8_t* codes) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int part = 0; part < PARTS<4>; part++)
        for (int i = 0; i < 512; i += 64) {
            const __m512i both = _mm512_loadu_si512(w + part * 576 + i);
            _mm512_storeu_si512(codes + part * 1024 + i, _mm512_and_si512(both, low));
            _mm512_storeu_si512(codes + part * 1024 + 512 + i, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
        }
}

// The integer sums of a part, for two tiles of rows (or one, where `pair` is false).
template <int BITS>
INLINE void tile_dots(const int8_t* upper, const int8_t* lower, bool pair, const uint8_t* codes, PartDots& up, PartDots& down) {
    constexpr int INPUTS = TILE_INPUTS<BITS>, STEPS = KBLOCK / PARTS<BITS> / INPUTS;
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    for (int step = 0; step < STEPS; step++) {
        tile_load<6>(codes + step * INPUTS * PANEL, 4 * PANEL);
        tile_load<7>(codes + step * INPUTS * PANEL + 4 * TILE_OUTPUTS, 4 * PANEL);
        tile_load<4>(upper + step * INPUTS, KBLOCK);
        tile_dot<0, 4, 6>(), tile_dot<1, 4, 7>();
        if (pair) {
            tile_load<5>(lower + step * INPUTS, KBLOCK);
            tile_dot<2, 5, 6>(), tile_dot<3, 5, 7>();
        }
    }
    tile_store<0>(up[0], 4 * PANEL), tile_store<1>(up[0] + TILE_OUTPUTS, 4 * PANEL);
    if (pair) tile_store<2>(down[0], 4 * PANEL), tile_store<3>(down[0] + TILE_OUTPUTS, 4 * PANEL);
}

// The float steps of integer_tile for rows [m, end) of a tile that begins at row `begin`.
template <int BITS>
INLINE void add_dots(const RowBlock& rows, int64_t begin, int64_t m, int64_t end, const PartDots* dots,
                     const VF (&scales)[PARTS<BITS>][2], float* c, bool first) {
    for (; m < end; m++) {
        const int32_t* sums = rows.sums + m * (KBLOCK / 32);
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            VF total = zero();
#pragma GCC unroll 4
            for (int part = 0; part < PARTS<BITS>; part++) {
                const int32_t offset = BITS == 8 ? -128 * (sums[0] + sums[1] + sums[2] + sums[3]) : -8 * sums[part];
                const __m512i dot = _mm512_loadu_si512(dots[part][m - begin] + v * W);
                const VF exact = _mm512_cvtepi32_ps(_mm512_add_epi32(dot, _mm512_set1_epi32(offset)));
                total = part == 0 ? mul(exact, scales[part][v]) : fma(exact, scales[part][v], total);
            }
            float* p = c + m * PANEL + v * W;
            store(p, fma(total, set1(rows.scales[m]), first ? zero() : load(p)));
        }
    }
}

template <int BITS>
void amx_block(const Tiling& tiling, const RowBlock& rows, const char* w, float* c, bool first) {
    alignas(64) uint8_t unpacked[BITS == 8 ? 64 : KBLOCK * PANEL];
    alignas(64) PartDots dots[2][PARTS<BITS>];
    const uint8_t* codes = BITS == 8 ? (const uint8_t*)w : unpacked;
    if (BITS == 4) unpack4(w, unpacked);
    VF scales[PARTS<BITS>][2];
    for (int part = 0; part < PARTS<BITS>; part++) {
        const Bf16* scale = (const Bf16*)(BITS == 8 ? w + KBLOCK * PANEL : w + part * 576 + 512);
        scales[part][0] = widen(scale, zero());
        scales[part][1] = widen(scale + W, zero());
    }
    for (int64_t tile = 0; tile < tiling.count(); tile += 2) {
        const bool pair = tile + 1 < tiling.count();
        const int8_t* upper = rows.from(tiling.begin(tile)).codes;
        const int8_t* lower = rows.from(tiling.begin(pair ? tile + 1 : tile)).codes;
        for (int part = 0; part < PARTS<BITS>; part++) {
            const int input = part * 32;
            tile_dots<BITS>(upper + input, lower + input, pair, codes + input * PANEL, dots[0][part], dots[1][part]);
        }
        for (int64_t t = tile; t <= tile + pair; t++)
            add_dots<BITS>(rows, tiling.begin(t), tiling.fresh(t), tiling.end(t), dots[t - tile], scales, c, first);
    }
}

template <int BITS>
void integer_amx(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* sums) {
    const Tiling tiling(m1 - m0, TILE_INPUTS<BITS>);
    integer_panels<BITS>(job, m0, m1, p0, p1, sums,
                         [&](const RowBlock& all, int64_t rows, const char* w, int64_t len, float* c, bool first) {
                             if (len == KBLOCK) return amx_block<BITS>(tiling, all, w, c, first);
                             integer_block<BITS>(all, rows, w, len, c, first);
                         });
}

}  // namespace
