// Scores of one tile of keys: s[r][j] = scale * q_r . k_j, for the rows of one attention task and up to 64 keys.
//
// Two forms, chosen by the width of a key alone, so that a score's order of additions never depends on anything else. Narrow
// keys (one head's, up to 128) are turned first, so that lanes run along keys and a dot product is one chain over the
// dimension. Wide ones (latent attention's 576) are read as they lie, lanes along the dimension, and each dot product ends in
// a fixed tree, which such a length makes cheap.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int NARROW = 128;

// Rows that will be wanted soon: called into the cache one by one, between the operations of a loop.
struct Ahead {
    const float* const* rows = nullptr;
    int64_t count = 0, dim = 0;

    INLINE void call(int64_t i) const {
        if (i < count)
            for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(rows[i] + d, 0, 2);
    }
};

constexpr int SCORE_ROWS = W == 16 ? 6 : 2;  // rows whose dot products with four vectors of keys, or four keys, fit in registers

// ---- wide keys ------------------------------------------------------------------------------------------------------


// s[r][0..3] = scale * q[r] . k[0..3]; one chain of multiply-adds over the dimension per lane, then a fixed tree.
template <int R>
void score_block(const float* const* q, const float* const* k, int64_t dim, float scale, float* s) {
    VF acc[R][4];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int j = 0; j < 4; j++) acc[r][j] = zero();
    int64_t d = 0;
    for (; d + W <= dim; d += W) {
        VF qv[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) qv[r] = load(q[r] + d);
#pragma GCC unroll 16
        for (int j = 0; j < 4; j++) {
            VF kv = load(k[j] + d);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) acc[r][j] = fma(qv[r], kv, acc[r][j]);
        }
    }
    if (d < dim)
        for (int j = 0; j < 4; j++) {
            VF kv = load_n(k[j] + d, dim - d);
            for (int r = 0; r < R; r++) acc[r][j] = fma(load_n(q[r] + d, dim - d), kv, acc[r][j]);
        }
    for (int r = 0; r < R; r++) {
        float* out = s + r * KEYS;
        hsum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3], out);
        for (int j = 0; j < 4; j++) out[j] *= scale;
    }
}

// ---- narrow keys ----------------------------------------------------------------------------------------------------

// W rows of W numbers to W columns: out[i * KEYS + j] = rows[j][d + i], for i < count. What lies beyond `count` is not read.
INLINE void turn(const float* const* rows, int64_t d, int64_t count, float* out) {
    VF a[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; j++) a[j] = count < W ? load_n(rows[j] + d, count) : load(rows[j] + d);
    transpose(a);
    if (count == W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) store(out + i * KEYS, a[i]);
    } else {
        for (int64_t i = 0; i < count; i++) store(out + i * KEYS, a[i]);
    }
}

template <int R>
void score_turned(const float* const* q, const float* turned, int64_t dim, float scale, float* s, const Ahead& ahead) {
    for (int first = 0; first < KEYS; first += 4 * W) {
        VF acc[R][4];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) acc[r][v] = zero();
        for (int64_t d = 0; d < dim; d++) {
            if (first == 0) ahead.call(d);
            VF k[4];
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) k[v] = load(turned + d * KEYS + first + v * W);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                const VF x = set1(q[r][d]);
#pragma GCC unroll 4
                for (int v = 0; v < 4; v++) acc[r][v] = fma(x, k[v], acc[r][v]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) store(s + r * KEYS + first + v * W, mul(acc[r][v], set1(scale)));
    }
}

typedef void (*ScoreFn)(const float* const*, const float* const*, int64_t, float, float*);
typedef void (*TurnedFn)(const float* const*, const float*, int64_t, float, float*, const Ahead&);
#if defined(ISA_AVX512)
const ScoreFn score_fns[] = {nullptr,        score_block<1>, score_block<2>, score_block<3>,
                             score_block<4>, score_block<5>, score_block<6>};
const TurnedFn turned_fns[] = {nullptr,         score_turned<1>, score_turned<2>, score_turned<3>,
                               score_turned<4>, score_turned<5>, score_turned<6>};
#else
const ScoreFn score_fns[] = {nullptr, score_block<1>, score_block<2>};
const TurnedFn turned_fns[] = {nullptr, score_turned<1>, score_turned<2>};
#endif

// All rows; s [rows][KEYS]. k holds `keys` addresses and room for KEYS; scores beyond `keys` are undefined.
void scores(const float* const* q, int64_t rows, const float** k, int64_t keys, int64_t dim, float scale, float* s,
            const Ahead& ahead) {
    const int64_t parts = (rows + SCORE_ROWS - 1) / SCORE_ROWS;
    const int64_t padded = dim <= NARROW ? (keys + W - 1) / W * W : (keys + 3) / 4 * 4;
    for (int64_t j = keys; j < padded; j++) k[j] = k[0];
    alignas(64) float turned[NARROW * KEYS];
    if (dim <= NARROW)
        for (int64_t j = 0; j < padded; j += W)
            for (int64_t d = 0; d < dim; d += W) turn(k + j, d, dim - d < W ? dim - d : W, turned + d * KEYS + j);
    for (int64_t part = 0; part < parts; part++) {
        const int64_t r = rows * part / parts, end = rows * (part + 1) / parts;
        if (dim <= NARROW)
            turned_fns[end - r](q + r, turned, dim, scale, s + r * KEYS, part == 0 ? ahead : Ahead{});
        else
            for (int64_t j = 0; j < keys; j += 4) score_fns[end - r](q + r, k + j, dim, scale, s + r * KEYS + j);
    }
}

}  // namespace
