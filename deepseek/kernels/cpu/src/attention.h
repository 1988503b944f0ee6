// Causal attention over paged keys and values, in tiles of 64 keys counted from position 0.
//
// For a (token, head) row and a tile:  s_j = scale * q . k_j;  m' = max(m, max s);  p_j = exp(s_j - m');
// l = l * exp(m - m') + sum p;  o = o * exp(m - m') + sum_j p_j v_j, j in order  (online softmax, Milakov & Gimelshein
// 2018). Rows only share the loads of keys and values: no operation of a row depends on which rows stand beside it, and
// no key behind a row's own position is ever multiplied, so what lies in unused slots cannot reach a result.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"
#include "scores.h"
#include "simd.h"

namespace {

constexpr int VALUE_ROWS = W == 16 ? 6 : 2;  // rows x 4 vectors of output held in registers

// o[r] = o[r] * correction[r] + sum_j p[r][j] v[j], j < n, on V vectors of the value dimension (the last one `width` wide).
template <int R, int V>
INLINE void value_block(float* const* o, const float* correction, const float* p, const float* const* v, int64_t n,
                        int64_t d, int64_t width, bool first, const Ahead& ahead) {
    VF acc[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
        for (int i = 0; i < V; i++) {
            VF old = V == 1 ? load_n(o[r] + d, width) : load(o[r] + d + i * W);
            acc[r][i] = first ? zero() : mul(old, set1(correction[r]));
        }
    for (int64_t j = 0; j < n; j++) {
        ahead.call(j);
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
            bool first, const Ahead& ahead) {
    int64_t d = 0;
    for (; d + 4 * W <= dim; d += 4 * W) value_block<R, 4>(o, correction, p, v, n, d, W, first, d == 0 ? ahead : Ahead{});
    for (; d < dim; d += W)
        value_block<R, 1>(o, correction, p, v, n, d, dim - d < W ? dim - d : W, first, d == 0 ? ahead : Ahead{});
}

typedef void (*ValuesFn)(float* const*, const float*, const float*, const float* const*, int64_t, int64_t, bool,
                         const Ahead&);
#if defined(ISA_AVX512)
const ValuesFn values_fns[] = {nullptr, values<1>, values<2>, values<3>, values<4>, values<5>, values<6>};
#else
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

// The slots of a sequence's keys one after another, without a division for each.
class Slots {
  public:
    INLINE Slots(const int32_t* table, int64_t block_size, int64_t first)
        : block_(table + first / block_size), size_(block_size), offset_(first % block_size) {}
    INLINE int64_t next() {
        if (offset_ == size_) offset_ = 0, block_++;
        return *block_ * size_ + offset_++;
    }

  private:
    const int32_t* block_;
    int64_t size_, offset_;
};

// The rows of one task, (token, head) by token, and what the online softmax knows of each so far.
struct Rows {
    const float* q[QROWS];
    float *o[QROWS], maximum[QROWS], sum[QROWS];
    int64_t position[QROWS];
};

// Rows [r0, r1) over the keys from `base`, a multiple of KEYS, up to `end` of the sequence with this block table.
void over_keys(const AttentionArgs& a, Rows& rows, int64_t r0, int64_t r1, int64_t kvh, const int32_t* table, int64_t base,
               int64_t end) {
    alignas(64) float s[QROWS * KEYS];
    float correction[QROWS];
    Slots slots(table, a.block_size, base);
    // Rows of keys and values lie scattered, which the processor cannot foresee, and few query rows would wait for most of
    // them: the scores call this tile's values in, the values the next tile's keys.
    const bool few = r1 - r0 <= 16;
    const float *k[KEYS], *v[KEYS], *next_k[KEYS], *next_v[KEYS];
    int64_t keys = 0, next = 0;
    const auto look_ahead = [&](int64_t from) {
        next = end - from < KEYS ? end - from : KEYS;
        for (int64_t j = 0; j < next; j++) {
            const int64_t slot = slots.next();
            next_k[j] = a.k + slot * a.k_slot + kvh * a.k_head;
            next_v[j] = a.v + slot * a.v_slot + kvh * a.v_head;
        }
    };
    look_ahead(base);
    if (few)
        for (int64_t j = 0; j < next; j++) Ahead{next_k, next, a.dk}.call(j);
    for (; base < end; base += KEYS) {
        keys = next;
        memcpy(k, next_k, keys * sizeof(float*));
        memcpy(v, next_v, keys * sizeof(float*));
        look_ahead(base + KEYS);
        scores(rows.q + r0, r1 - r0, k, keys, a.dk, a.scale, s, few && a.v != a.k ? Ahead{v, keys, a.dv} : Ahead{});
        const Ahead ahead = few ? Ahead{next_k, next, a.dk} : Ahead{};
        for (int64_t r = r0; r < r1;) {
            // A run of rows that see the same number of this tile's keys.
            const int64_t seen = rows.position[r] + 1 - base, n = seen > KEYS ? KEYS : seen;
            int64_t stop = r + 1;
            for (; stop < r1; stop++) {
                const int64_t other = rows.position[stop] + 1 - base;
                if ((other > KEYS ? KEYS : other) != n) break;
            }
            if (n > 0) {
                float* p = s + (r - r0) * KEYS;
                for (int64_t i = 0; i < stop - r; i++)
                    correction[i] = softmax_tile(p + i * KEYS, n, rows.maximum + r + i, rows.sum + r + i);
                const int64_t parts = (stop - r + VALUE_ROWS - 1) / VALUE_ROWS;
                for (int64_t part = 0; part < parts; part++) {
                    const int64_t i = (stop - r) * part / parts, after = (stop - r) * (part + 1) / parts;
                    values_fns[after - i](rows.o + r + i, correction + i, p + i * KEYS, v, n, a.dv, base == 0,
                                          r + i == r0 ? ahead : Ahead{});
                }
            }
            r = stop;
        }
    }
}

void attention(const AttentionArgs& a, int64_t t0, int64_t t1, int64_t shared, int64_t kvh, int64_t h0, int64_t h1) {
    const int64_t heads = h1 - h0, count = (t1 - t0) * heads;
    Rows rows;
    int64_t last = 0;
    for (int64_t r = 0; r < count; r++) {
        const int64_t t = t0 + r / heads, h = h0 + r % heads;
        rows.q[r] = a.q + t * a.q_token + h * a.q_head;
        rows.o[r] = a.out + (t * a.q_heads + h) * a.dv;
        rows.maximum[r] = -INFINITY;
        rows.sum[r] = 0.0f;
        rows.position[r] = a.positions[t];
        if (a.positions[t] > last) last = a.positions[t];
    }
    const auto table = [&](int64_t t) { return a.block_tables + (int64_t)a.seq[t] * a.max_blocks; };
    if (shared > last) {
        over_keys(a, rows, 0, count, kvh, table(t0), 0, last + 1);
    } else {
        if (shared) over_keys(a, rows, 0, count, kvh, table(t0), 0, shared);
        for (int64_t t = t0; t < t1; t++)
            over_keys(a, rows, (t - t0) * heads, (t - t0 + 1) * heads, kvh, table(t), shared, a.positions[t] + 1);
    }
    for (int64_t r = 0; r < count; r++) {
        const VF inverse = set1(1.0f / rows.sum[r]);
        float* o = rows.o[r];
        int64_t d = 0;
        for (; d + W <= a.dv; d += W) store(o + d, mul(load(o + d), inverse));
        if (d < a.dv) store_n(o + d, mul(load_n(o + d, a.dv - d), inverse), a.dv - d);
    }
}

}  // namespace
