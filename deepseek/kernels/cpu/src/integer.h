// y = x @ w^T with 8-bit or 4-bit weights and 8-bit activations: integer products, exact sums, one order of float steps.
//
// An input row is quantised in blocks of 128: sx = max|x| / 127, q = round(x / sx). A weight is code * scale, with one
// bfloat16 scale for 128 inputs of an output (8 bits) or for 32 (4 bits). An output element is
//     sum over blocks of 128, in order, of  sx * (sum over the scales' blocks inside, in order, of scale * float(dot)),
// each sum a chain of fused multiply-adds from zero. The dots are integers: any order of theirs is exact, which is what
// lets every instruction set, every tile and every number of rows compute the same bits.
//
// Codes are stored with an offset that makes them unsigned (+128, +8), because the instructions multiply unsigned by
// signed; offset * sum(q) is taken off again, exactly.
#pragma once

#include "quantise.h"

// Each gives INT_ROWS (rows of the largest tile), VI32 (INT_W int32 sums, one an output), vectors_for(bits, rows) (VI32 side
// by side in a tile), dots8 and dots4 (the integer sums of a tile) and to_float (the sums of W outputs).
#if defined(ISA_AVX512) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define INTEGER_VNNI
#include "integer_vnni.h"
#elif defined(ISA_AVX512) || defined(ISA_AVX2)
#include "integer_avx2.h"
#elif defined(ISA_NEON)
#include "integer_neon.h"
#else
#include "integer_portable.h"
#endif

namespace {


// One block of up to 128 inputs for MR rows and a panel, into the totals c [MR][PANEL].
template <int BITS, int MR>
void integer_tile(const RowBlock& rows, const char* w, int64_t len, float* c, bool first) {
    constexpr int NV = vectors_for(BITS, MR), COLUMNS = NV * INT_W, FV = COLUMNS / W;
    const int64_t groups = (len + 3) / 4, subs = (len + 31) / 32;
    for (int column = 0; column < PANEL; column += COLUMNS) {
        VF sum[MR][FV];
        VI32 acc[MR][NV];
        if (BITS == 8) {
            dots8<MR, NV>(rows, w, groups, column, acc);
            const Bf16* scale = (const Bf16*)(w + groups * 128) + column;
#pragma GCC unroll 4
            for (int v = 0; v < FV; v++) {
                const VF s = widen(scale + v * W, zero());
#pragma GCC unroll 16
                for (int m = 0; m < MR; m++) sum[m][v] = mul(to_float(acc[m], v), s);
            }
        } else {
            for (int64_t sub = 0; sub < subs; sub++) {
                dots4<MR, NV>(rows, w + sub * 576, (int)sub, column, acc);
                const Bf16* scale = (const Bf16*)(w + sub * 576 + 512) + column;
#pragma GCC unroll 4
                for (int v = 0; v < FV; v++) {
                    const VF s = widen(scale + v * W, zero());
#pragma GCC unroll 16
                    for (int m = 0; m < MR; m++)
                        sum[m][v] = sub == 0 ? mul(to_float(acc[m], v), s) : fma(to_float(acc[m], v), s, sum[m][v]);
                }
            }
        }
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
            for (int v = 0; v < FV; v++) {
                float* p = c + m * PANEL + column + v * W;
                store(p, fma(sum[m][v], set1(rows.scales[m]), first ? zero() : load(p)));
            }
    }
}

template <int BITS>
INLINE void integer_tile_rows(int64_t count, const RowBlock& rows, const char* w, int64_t len, float* c, bool first) {
    switch (count) {
#define CASE(MR) \
    case MR: \
        if constexpr (MR <= INT_ROWS) return integer_tile<BITS, MR>(rows, w, len, c, first); \
        break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
    }
}

// The same for any number of rows, in tiles of nearly equal height.
template <int BITS>
void integer_block(const RowBlock& all, int64_t rows, const char* w, int64_t len, float* c, bool first) {
    const int64_t tiles = (rows + INT_ROWS - 1) / INT_ROWS;
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t m = rows * tile / tiles, end = rows * (tile + 1) / tiles;
        integer_tile_rows<BITS>(end - m, all.from(m), w, len, c + m * PANEL, first);
    }
}

// Rows [m0, m1) and panels [p0, p1) of a job, by calls of `block` as of integer_block.
template <int BITS, class Block>
void integer_panels(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* sums, const Block& block) {
    const Weight& w = *job.w;
    const QuantRows& x = *job.quantised;
    const int64_t rows = m1 - m0, blocks = (w.k + KBLOCK - 1) / KBLOCK, stride = panel_bytes(BITS, w.k);
    for (int64_t panel = p0; panel < p1; panel++) {
        const char* at = (const char*)w.data + panel * stride;
        for (int64_t kb = 0; kb < blocks; kb++) {
            const int64_t len = w.k - kb * KBLOCK < KBLOCK ? w.k - kb * KBLOCK : KBLOCK;
            const RowBlock all = RowBlock{x.codes, x.sums, x.scales}.from(kb * x.rows + job.quantised_first + m0);
            block(all, rows, at, len, sums, kb == 0);
            at += panel_bytes(BITS, len);
        }
        const int64_t width = w.n - panel * PANEL < PANEL ? w.n - panel * PANEL : PANEL;
        for (int64_t m = 0; m < rows; m++) {
            const float* sum = sums + m * PANEL;
            float* y = job.y + (m0 + m) * job.ldy + panel * PANEL;
            for (int64_t j = 0; j < width; j++) y[j] = job.bias ? sum[j] + job.bias[panel * PANEL + j] : sum[j];
        }
    }
}

template <int BITS>
void integer_of(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* sums) {
    integer_panels<BITS>(job, m0, m1, p0, p1, sums, integer_block<BITS>);
}

}  // namespace
