// Integer products of integer.h on AVX2 (and on AVX-512 without VNNI).
//
// Pairs of products must fit 16 bits. 8-bit codes: |w| * sign(x, w), both within 127, so 2 * 127^2 = 32258 does. 4-bit
// codes: eight sums of 2 * 15 * 127 = 3810 make 30480.
#pragma once

#include "quantise.h"

namespace {

constexpr int INT_ROWS = 6;
typedef __m256i VI32;
constexpr int INT_W = 8;  // outputs of one vector
constexpr int vectors_for(int, int) { return 2; }

INLINE VI32 four(const int8_t* q) {
    int32_t a;
    memcpy(&a, q, 4);
    return _mm256_set1_epi32(a);
}

template <int MR, int NV>
INLINE void dots8(const RowBlock& rows, const char* w, int64_t groups, int column, VI32 (*acc)[NV]) {
    const VI32 ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8((char)0x80);
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++) acc[m][0] = acc[m][1] = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; g++) {
        VI32 code[NV], magnitude[NV];
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            code[v] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i*)(w + g * 128 + column * 4 + v * 32)), offset);
            magnitude[v] = _mm256_abs_epi8(code[v]);
        }
#pragma GCC unroll 16
        for (int m = 0; m < MR; m++) {
            const VI32 b = four(rows.codes + m * KBLOCK + g * 4);
#pragma GCC unroll 2
            for (int v = 0; v < NV; v++) {
                const VI32 pairs = _mm256_maddubs_epi16(magnitude[v], _mm256_sign_epi8(b, code[v]));
                acc[m][v] = _mm256_add_epi32(acc[m][v], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

template <int MR, int NV>
INLINE void dots4(const RowBlock& rows, const char* w, int sub, int column, VI32 (*acc)[NV]) {
    const VI32 low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++) acc[m][0] = acc[m][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++) {
            const VI32 both = _mm256_loadu_si256((const __m256i*)(w + g * 128 + column * 4 + v * 32));
            const VI32 w0 = _mm256_and_si256(both, low), w1 = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 16
            for (int m = 0; m < MR; m++) {
                const int8_t* q = rows.codes + m * KBLOCK + sub * 32 + g * 4;
                acc[m][v] = _mm256_add_epi16(acc[m][v], _mm256_maddubs_epi16(w0, four(q)));
                acc[m][v] = _mm256_add_epi16(acc[m][v], _mm256_maddubs_epi16(w1, four(q + 16)));
            }
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 2
        for (int v = 0; v < NV; v++)
            acc[m][v] = _mm256_add_epi32(_mm256_madd_epi16(acc[m][v], ones), _mm256_set1_epi32(-8 * rows.sums[m * 4 + sub]));
}

#if defined(ISA_AVX512)
template <int NV>
INLINE VF to_float(const VI32 (&acc)[NV], int) {
    return _mm512_cvtepi32_ps(_mm512_inserti64x4(_mm512_castsi256_si512(acc[0]), acc[1], 1));
}
#else
template <int NV>
INLINE VF to_float(const VI32 (&acc)[NV], int v) { return _mm256_cvtepi32_ps(acc[v]); }
#endif

}  // namespace
