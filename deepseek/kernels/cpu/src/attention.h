// Causal attention over paged keys and values, in tiles of 64 keys counted from position 0.
//
// For a (token, head) row and a tile:  s_j = scale * q . k_j;  m' = max(m, max s);  p_j = exp(s_j - m');
// l = l * exp(m - m') + sum p;  o = o * exp(m - m') + sum_j p_j v_j, j in order  (online softmax, Milakov & Gimelshein
// 2018). Rows only share the loads of keys and values: no operation of a row depends on which rows stand beside it, and
// no key behind a row's own position is ever multiplied, so what lies in unused slots cannot reach a result.
#pragma once

#include <cmath>

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int SCORE_ROWS = W == 16 ? 6 : 2;  // rows x 4 keys of dot products held in registers
constexpr int VALUE_ROWS = W == 16 ? 6 : 2;  // rows x 4 vectors of output held in registers

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

// o[r] = o[r] * correction[r] + sum_j p[r][j] v[j], j < n, on V vectors of the value dimension (the last one `width` wide).
template <int R, int V>
INLINE void value_block(float* const* o, const float* correction, const float* p, const float* const* v, int64_t n,
                        int64_t d, int64_t width, bool first) {
    VF acc[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int i = 0; i < V; i++) {
            VF old = V == 1 ? load_n(o[r] + d, width) : load(o[r] + d + i * W);
            acc[r][i] = first ? zero() : mul(old, set1(correction[r]));
        }
    for (int64_t j = 0; j < n; j++) {
        VF vv[V];
#pragma GCC unroll 16
        for (int i = 0; i < V; i++) vv[i] = V == 1 ? load_n(v[j] + d, width) : load(v[j] + d + i * W);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            VF pr = set1(p[r * KEYS + j]);
#pragma GCC unroll 16
            for (int i = 0; i < V; i++) acc[r][i] = fma(pr, vv[i], acc[r][i]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int i = 0; i < V; i++) {
            if (V == 1)
                store_n(o[r] + d, acc[r][i], width);
            else
                store(o[r] + d + i * W, acc[r][i]);
        }
}

template <int R>
void values(float* const* o, const float* correction, const float* p, const float* const* v, int64_t n, int64_t dim,
            bool first) {
    int64_t d = 0;
    for (; d + 4 * W <= dim; d += 4 * W) value_block<R, 4>(o, correction, p, v, n, d, W, first);
    for (; d < dim; d += W) value_block<R, 1>(o, correction, p, v, n, d, dim - d < W ? dim - d : W, first);
}

typedef void (*ScoreFn)(const float* const*, const float* const*, int64_t, float, float*);
typedef void (*ValuesFn)(float* const*, const float*, const float*, const float* const*, int64_t, int64_t, bool);
#if defined(ISA_AVX512)
const ScoreFn score_fns[] = {nullptr,        score_block<1>, score_block<2>, score_block<3>,
                             score_block<4>, score_block<5>, score_block<6>};
const ValuesFn values_fns[] = {nullptr, values<1>, values<2>, values<3>, values<4>, values<5>, values<6>};
#else
const ScoreFn score_fns[] = {nullptr, score_block<1>, score_block<2>};
const ValuesFn values_fns[] = {nullptr, values<1>, values<2>};
#endif

// Scores of one row and tile to probabilities in place; updates the running maximum and sum, returns the correction.
INLINE float softmax_tile(float* s, int64_t n, float* maximum, float* sum) {
    for (int64_t j = n; j % W; j++) s[j] = -INFINITY;
    VF top = load(s);
    for (int64_t j = W; j < n; j += W) top = vmax(top, load(s + j));
    const float old = *maximum, tile_top = hmax(top), now = tile_top > old ? tile_top : old;
    VF total = zero();
    for (int64_t j = 0; j < n; j += W) {
        VF p = vexp(sub(load(s + j), set1(now)));
        store(s + j, p);
        total = add(total, p);
    }
    float shift[W];
    store(shift, vexp(set1(old - now)));
    *sum = *sum * shift[0] + hsum(total);
    *maximum = now;
    return shift[0];
}

void attention(const AttentionArgs& a, int64_t t0, int64_t t1, int64_t kvh, int64_t h0, int64_t h1) {
    const int64_t heads = h1 - h0, rows = (t1 - t0) * heads;
    const float* q[QROWS];
    float *o[QROWS], maximum[QROWS], sum[QROWS], correction[QROWS];
    alignas(64) float s[QROWS * KEYS];
    int64_t last = 0;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t t = t0 + r / heads, h = h0 + r % heads;
        q[r] = a.q + t * a.q_token + h * a.q_head;
        o[r] = a.out + (t * a.q_heads + h) * a.dv;
        maximum[r] = -INFINITY;
        sum[r] = 0.0f;
        if (a.positions[t] > last) last = a.positions[t];
    }
    const int32_t* table = a.block_tables + (int64_t)a.seq[t0] * a.max_blocks;
    const float *k[KEYS], *v[KEYS];
    for (int64_t base = 0; base <= last; base += KEYS) {
        const int64_t keys = last + 1 - base < KEYS ? last + 1 - base : KEYS;
        for (int64_t j = 0; j < keys; j++) {
            const int64_t slot = table[(base + j) / a.block_size] * a.block_size + (base + j) % a.block_size;
            k[j] = a.k + slot * a.k_slot + kvh * a.k_head;
            v[j] = a.v + slot * a.v_slot + kvh * a.v_head;
        }
        for (int64_t j = keys; j % 4; j++) k[j] = k[0];
        for (int64_t r = 0; r < rows; r += SCORE_ROWS) {
            const ScoreFn fn = score_fns[rows - r < SCORE_ROWS ? rows - r : SCORE_ROWS];
            for (int64_t j = 0; j < keys; j += 4) fn(q + r, k + j, a.dk, a.scale, s + r * KEYS + j);
        }
        for (int64_t r = 0; r < rows;) {
            // A run of tokens that see the same number of this tile's keys.
            int64_t n = a.positions[t0 + r / heads] + 1 - base, end = r + heads;
            n = n > KEYS ? KEYS : n;
            while (end < rows) {
                const int64_t next = a.positions[t0 + end / heads] + 1 - base;
                if ((next > KEYS ? KEYS : next) != n) break;
                end += heads;
            }
            if (n > 0) {
                for (int64_t i = r; i < end; i++) correction[i] = softmax_tile(s + i * KEYS, n, maximum + i, sum + i);
                for (int64_t i = r; i < end; i += VALUE_ROWS)
                    values_fns[end - i < VALUE_ROWS ? end - i : VALUE_ROWS](o + i, correction + i, s + i * KEYS, v, n,
                                                                         a.dv, base == 0);
            }
            r = end;
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        const VF inverse = set1(1.0f / sum[r]);
        int64_t d = 0;
        for (; d + W <= a.dv; d += W) store(o[r] + d, mul(load(o[r] + d), inverse));
        if (d < a.dv) store_n(o[r] + d, mul(load_n(o[r] + d, a.dv - d), inverse), a.dv - d);
    }
}

}  // namespace
