// Integer products of integer.h with AVX-512 VNNI: four products of unsigned by signed bytes a lane and instruction.
#pragma once

#include "quantise.h"

namespace {

constexpr int64_t AHEAD = 4160;  // one block of 8-bit codes on: large tiles are too slow for the processor to see a stream
constexpr int INT_ROWS = 12;
typedef __m512i VI32;
constexpr int INT_W = 16;  // outputs of one vector
constexpr int vectors_for(int bits, int rows) { return bits == 4 && rows > 6 ? 1 : 2; }

INLINE VI32 four(const int8_t* q) {
    int32_t a;
    memcpy(&a, q, 4);
    return _mm512_set1_epi32(a);
}

// acc += four products a lane. In assembly because gcc, given the intrinsic, copies accumulators around in large tiles.
INLINE void dot(VI32& acc, VI32 codes, VI32 b) { asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(b)); }

template <int MR, int NV>
INLINE void dots8(const RowBlock& rows, const char* w, int64_t groups, int column, VI32 (*acc)[NV]) {
    // Few rows: several sums side by side hide the latency of the instruction.
    constexpr int CHAINS = MR <= 2 ? 2 : 1;
    VI32 part[CHAINS][MR][NV];
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++) {
        const int32_t* s = rows.sums + m * 4;
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
            part[0][m][v] = _mm512_set1_epi32(-128 * (s[0] + s[1] + s[2] + s[3]));
#pragma GCC unroll 4
            for (int c = 1; c < CHAINS; c++) part[c][m][v] = _mm512_setzero_si512();
        }
    }
    w += column * 4;
    int64_t g = 0;
    for (; g + CHAINS <= groups; g += CHAINS)
#pragma GCC unroll 4
        for (int c = 0; c < CHAINS; c++) {
            VI32 code[NV];
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) {
                code[v] = _mm512_loadu_si512(w + (g + c) * 128 + v * 64);
                if (MR > 6) __builtin_prefetch(w + (g + c) * 128 + v * 64 + AHEAD, 0, 3);
            }
#pragma GCC unroll 16
            for (int m = 0; m < MR; m++) {
                const VI32 b = four(rows.codes + m * KBLOCK + (g + c) * 4);
#pragma GCC unroll 2
                for (int v = 0; v < NV; v++) dot(part[c][m][v], code[v], b);
            }
        }
    for (; CHAINS > 1 && g < groups; g++)
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++) {
            const VI32 b = four(rows.codes + m * KBLOCK + g * 4);
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++)
                dot(part[0][m][v], _mm512_loadu_si512(w + g * 128 + v * 64), b);
        }
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) {
            acc[m][v] = part[0][m][v];
#pragma GCC unroll 4
            for (int c = 1; c < CHAINS; c++) acc[m][v] = _mm512_add_epi32(acc[m][v], part[c][m][v]);
        }
}

// 32 inputs of 4-bit codes; `sub` is their place in the block of 128.
template <int MR, int NV>
INLINE void dots4(const RowBlock& rows, const char* w, int sub, int column, VI32 (*acc)[NV]) {
    const VI32 low = _mm512_set1_epi8(15);
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) acc[m][v] = _mm512_set1_epi32(-8 * rows.sums[m * 4 + sub]);
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            const VI32 both = _mm512_loadu_si512(w + g * 128 + column * 4 + v * 64);
            if (MR > 6) __builtin_prefetch(w + g * 128 + column * 4 + v * 64 + AHEAD, 0, 3);
            const VI32 w0 = _mm512_and_si512(both, low), w1 = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 16
            for (int m = 0; m < MR; m++) {
                const int8_t* q = rows.codes + m * KBLOCK + sub * 32 + g * 4;
                dot(acc[m][v], w0, four(q));
                dot(acc[m][v], w1, four(q + 16));
            }
        }
}

template <int NV>
INLINE VF to_float(const VI32 (&acc)[NV], int v) { return _mm512_cvtepi32_ps(acc[v]); }

}  // namespace
