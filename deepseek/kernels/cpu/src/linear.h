// y = x @ w^T with one reduction order for every shape.
//
// An output element is the sum over blocks of 128 inputs, in order; a block is one chain of fused multiply-adds from
// zero, in order. Vector lanes run along the outputs, so neither the number of rows, nor a row's place, nor the split of
// the work over threads can reach that order. Few rows widen the stored weight in registers; many rows
// widen a [128, 32] tile once and reuse it. Both run the same operations on each element.
#pragma once

#include "integer.h"
#include "kernels.h"
#include "simd.h"

namespace {

constexpr int NV = 2;                            // vectors side by side in a register tile
constexpr int TILE_COLUMNS = NV * W;             // 32 (AVX-512) or 16
constexpr int ROW_TILE = W == 16 ? 12 : 6;       // rows of a register tile
constexpr int PV = PANEL / W;                    // vectors in a panel row

INLINE VF block_scale(const Weight& w, int64_t panel, int64_t kb) {
    if (!w.scales) return zero();
    int64_t columns = (w.k + 127) / 128;
    return set1(w.scales[(panel * PANEL / 128) * columns + kb] * 256.0f);  // see widen(Fp8): the half is value / 256
}

// One or two rows: NP panels over the whole of K, weights widened in registers.
template <class T, int MR, int NP>
void gemv(const LinearJob& job, const float* const* rows, int64_t m0, int64_t panel) {
    const Weight& w = *job.w;
    const int64_t k = w.k;
    const T* base = (const T*)w.data + panel * k * PANEL;
    VF total[MR][NP * PV];
    for (int64_t k0 = 0; k0 < k; k0 += KBLOCK) {
        const int64_t k1 = k - k0 < KBLOCK ? k : k0 + KBLOCK;
        VF scale[NP];
        for (int p = 0; p < NP; p++) scale[p] = block_scale(w, panel + p, k0 / KBLOCK);
        VF acc[MR][NP * PV];
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 16
            for (int v = 0; v < NP * PV; v++) acc[m][v] = zero();
#pragma GCC unroll 2
        for (int64_t i = k0; i < k1; i++) {
            VF a[MR];
#pragma GCC unroll 16
            for (int m = 0; m < MR; m++) a[m] = set1(rows[m][i]);
#pragma GCC unroll 16
            for (int p = 0; p < NP; p++) {
                const T* b = base + (p * k + i) * PANEL;
#pragma GCC unroll 16
                for (int v = 0; v < PV; v++) {
                    VF bv = widen(b + v * W, scale[p]);
#pragma GCC unroll 16
                    for (int m = 0; m < MR; m++) acc[m][p * PV + v] = fma(a[m], bv, acc[m][p * PV + v]);
                }
            }
        }
        for (int m = 0; m < MR; m++)
            for (int v = 0; v < NP * PV; v++) total[m][v] = k0 == 0 ? acc[m][v] : add(total[m][v], acc[m][v]);
    }
    for (int m = 0; m < MR; m++)
        for (int v = 0; v < NP * PV; v++) {
            const int64_t column = panel * PANEL + v * W;
            const int64_t n = w.n - column;
            if (n <= 0) continue;
            float* y = job.y + (m0 + m) * job.ldy + column;
            VF value = total[m][v];
            if (n >= W)
                store(y, job.bias ? add(value, load(job.bias + column)) : value);
            else
                store_n(y, job.bias ? add(value, load_n(job.bias + column, n)) : value, n);
        }
}

template <class T, int MR, int NP>
void gemv_panels(const LinearJob& job, const float* const* rows, int64_t m0, int64_t p0, int64_t p1) {
    for (; p0 + NP <= p1; p0 += NP) gemv<T, MR, NP>(job, rows, m0, p0);
    if (NP > 1)
        for (; p0 < p1; p0++) gemv<T, MR, 1>(job, rows, m0, p0);
}

template <class T>
void gemv_rows(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1) {
    const float* rows[2];
    for (int64_t m = m0; m < m1; m++) rows[m - m0] = job.x + (job.gather ? job.gather[m] : m) * job.ldx;
    // Eight independent chains hide the latency of the multiply-add.
    if (m1 - m0 == 1) gemv_panels<T, 1, 8 / PV>(job, rows, m0, p0, p1);
    if (m1 - m0 == 2) gemv_panels<T, 2, (W == 16 ? 2 : 1)>(job, rows, m0, p0, p1);
}

// One register tile over one block of inputs: c[MR][NV * W] = (first ? 0 : c) + a[MR][len] @ b[len][32]. With AHEAD the
// weights one block further on are called into the cache meanwhile: they lie right behind this block.
template <class T, int MR, bool AHEAD>
void tile(const float* a, const T* b, VF scale, int64_t len, float* c, bool first) {
    VF acc[MR][NV];
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) acc[m][v] = zero();
    for (int64_t i = 0; i < len; i++) {
        VF bv[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) {
            bv[v] = widen(b + i * PANEL + v * W, scale);
            if (AHEAD && v * W * sizeof(T) % 64 == 0) __builtin_prefetch(b + (i + KBLOCK) * PANEL + v * W, 0, 2);
        }
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++) {
            VF am = set1(a[m * KBLOCK + i]);
#pragma GCC unroll 16
            for (int v = 0; v < NV; v++) acc[m][v] = fma(am, bv[v], acc[m][v]);
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) {
            float* p = c + m * PANEL + v * W;
            store(p, first ? acc[m][v] : add(load(p), acc[m][v]));
        }
}

template <class T, bool AHEAD>
INLINE void tile_rows(int64_t rows, const float* a, const T* b, VF scale, int64_t len, float* c, bool first) {
    switch (rows) {
#define CASE(MR) case MR: return tile<T, MR, AHEAD>(a, b, scale, len, c, first);
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if defined(ISA_AVX512)
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
}

template <class T>
void gemm(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* scratch) {
    const Weight& w = *job.w;
    const int64_t rows = m1 - m0, blocks = (w.k + KBLOCK - 1) / KBLOCK;
    float* packed = scratch;                 // [blocks at once][rows][KBLOCK]
    float* widened = packed + PACKED_INPUT;  // [KBLOCK][PANEL]
    float* sums = widened + KBLOCK * PANEL;  // [panels][rows][PANEL]; dense, since rows of y may all fall on one cache set
    // As many input blocks as fit beside the weights in the second-level cache: with few rows a panel is then
    // streamed in long runs.
    const int64_t at_once = PACKED_INPUT / (rows * KBLOCK);
    for (int64_t kb0 = 0; kb0 < blocks; kb0 += at_once) {
        const int64_t kb1 = kb0 + at_once < blocks ? kb0 + at_once : blocks;
        for (int64_t kb = kb0; kb < kb1; kb++) {
            const int64_t k0 = kb * KBLOCK, len = w.k - k0 < KBLOCK ? w.k - k0 : KBLOCK;
            for (int64_t m = 0; m < rows; m++) {
                const float* x = job.x + (job.gather ? job.gather[m0 + m] : m0 + m) * job.ldx + k0;
                memcpy(packed + ((kb - kb0) * rows + m) * KBLOCK, x, len * sizeof(float));
            }
        }
        for (int64_t panel = p0; panel < p1; panel++)
            for (int64_t kb = kb0; kb < kb1; kb++) {
                const int64_t k0 = kb * KBLOCK, len = w.k - k0 < KBLOCK ? w.k - k0 : KBLOCK;
                const T* b = (const T*)w.data + (panel * w.k + k0) * PANEL;
                const VF scale = block_scale(w, panel, kb);
                const float* a = packed + (kb - kb0) * rows * KBLOCK;
                float* c = sums + (panel - p0) * rows * PANEL;
                // Widening anew in each of a few tiles is cheaper than a round through memory.
                const bool direct = sizeof(T) == sizeof(float) || rows <= 4 * ROW_TILE;
                if (!direct)
                    for (int64_t i = 0; i < len * PANEL; i += W) store(widened + i, widen(b + i, scale));
                for (int64_t m = 0; m < rows; m += ROW_TILE)
                    for (int column = 0; column < PANEL; column += TILE_COLUMNS) {
                        const int64_t count = rows - m < ROW_TILE ? rows - m : ROW_TILE;
                        const float* am = a + m * KBLOCK;
                        float* cm = c + m * PANEL + column;
                        if (direct)
                            tile_rows<T, true>(count, am, b + column, scale, len, cm, kb == 0);
                        else
                            tile_rows<float, false>(count, am, widened + column, scale, len, cm, kb == 0);
                    }
            }
    }
    for (int64_t panel = p0; panel < p1; panel++) {
        const int64_t width = w.n - panel * PANEL < PANEL ? w.n - panel * PANEL : PANEL;
        for (int64_t m = 0; m < rows; m++) {
            const float* sum = sums + ((panel - p0) * rows + m) * PANEL;
            float* y = job.y + (m0 + m) * job.ldy + panel * PANEL;
            for (int64_t j = 0; j < width; j++) y[j] = job.bias ? sum[j] + job.bias[panel * PANEL + j] : sum[j];
        }
    }
}

template <class T>
void linear_of(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* scratch) {
    if (m1 - m0 <= 2) return gemv_rows<T>(job, m0, m1, p0, p1);
    for (; p0 < p1; p0 += PGROUP) gemm<T>(job, m0, m1, p0, p0 + PGROUP < p1 ? p0 + PGROUP : p1, scratch);
}

void linear(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* scratch) {
    if (job.w->dtype == F32) linear_of<float>(job, m0, m1, p0, p1, scratch);
    if (job.w->dtype == BF16) linear_of<Bf16>(job, m0, m1, p0, p1, scratch);
    if (job.w->dtype == F16_) linear_of<F16>(job, m0, m1, p0, p1, scratch);
    if (job.w->dtype == FP8) linear_of<Fp8>(job, m0, m1, p0, p1, scratch);
    if (job.w->dtype == INT8_) integer_of<8>(job, m0, m1, p0, p1, scratch);
    if (job.w->dtype == INT4_) integer_of<4>(job, m0, m1, p0, p1, scratch);
}

}  // namespace
