// Integer products of integer.h with Arm's dot product instruction (FEAT_DotProd): four products of signed bytes a lane.
#pragma once

#include "quantise.h"

namespace {

constexpr int INT_ROWS = 6;
typedef int32x4_t VI32;
constexpr int INT_W = 4;  // outputs of one vector
constexpr int vectors_for(int, int rows) { return rows > 2 ? 4 : 8; }  // at most 24 of 32 registers hold sums

INLINE int8x16_t four(const int8_t* q) {
    int32_t a;
    memcpy(&a, q, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(a));
}

template <int MR, int NV>
INLINE void dots8(const RowBlock& rows, const char* w, int64_t groups, int column, VI32 (*acc)[NV]) {
    const uint8x16_t offset = vdupq_n_u8(0x80);  // code + 128 with its top bit turned is the signed code
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) acc[m][v] = vdupq_n_s32(0);
    for (int64_t g = 0; g < groups; g++) {
        int8x16_t code[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++)
            code[v] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8((const uint8_t*)w + g * 128 + column * 4 + v * 16), offset));
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++) {
            const int8x16_t b = four(rows.codes + m * KBLOCK + g * 4);
#pragma GCC unroll 8
            for (int v = 0; v < NV; v++) acc[m][v] = vdotq_s32(acc[m][v], code[v], b);
        }
    }
}

// 32 inputs of 4-bit codes; `sub` is their place in the block of 128.
template <int MR, int NV>
INLINE void dots4(const RowBlock& rows, const char* w, int sub, int column, VI32 (*acc)[NV]) {
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) acc[m][v] = vdupq_n_s32(-8 * rows.sums[m * 4 + sub]);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++)
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) {
            const uint8x16_t both = vld1q_u8((const uint8_t*)w + g * 128 + column * 4 + v * 16);
            const int8x16_t w0 = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
            const int8x16_t w1 = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
#pragma GCC unroll 16
            for (int m = 0; m < MR; m++) {
                const int8_t* q = rows.codes + m * KBLOCK + sub * 32 + g * 4;
                acc[m][v] = vdotq_s32(acc[m][v], w0, four(q));
                acc[m][v] = vdotq_s32(acc[m][v], w1, four(q + 16));
            }
        }
}

template <int NV>
INLINE VF to_float(const VI32 (&acc)[NV], int v) { return {vcvtq_f32_s32(acc[2 * v]), vcvtq_f32_s32(acc[2 * v + 1])}; }

}  // namespace
