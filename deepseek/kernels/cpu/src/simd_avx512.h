// The vocabulary of simd.h on AVX-512: sixteen floats.
#pragma once

#include <immintrin.h>

namespace {

typedef __m512 VF;
constexpr int W = 16;
INLINE __mmask16 lanes(int64_t n) { return (__mmask16)((1u << n) - 1); }
INLINE VF zero() { return _mm512_setzero_ps(); }
INLINE VF set1(float a) { return _mm512_set1_ps(a); }
INLINE VF load(const float* p) { return _mm512_loadu_ps(p); }
INLINE void store(float* p, VF a) { _mm512_storeu_ps(p, a); }
INLINE VF load_n(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(lanes(n), p); }
INLINE void store_n(float* p, VF a, int64_t n) { _mm512_mask_storeu_ps(p, lanes(n), a); }
INLINE VF fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
INLINE VF add(VF a, VF b) { return _mm512_add_ps(a, b); }
INLINE VF sub(VF a, VF b) { return _mm512_sub_ps(a, b); }
INLINE VF mul(VF a, VF b) { return _mm512_mul_ps(a, b); }
INLINE VF div(VF a, VF b) { return _mm512_div_ps(a, b); }
INLINE VF vmin(VF a, VF b) { return _mm512_min_ps(a, b); }  // b when either is NaN
INLINE VF vmax(VF a, VF b) { return _mm512_max_ps(a, b); }
INLINE VF zero_below(VF x, float limit, VF a) {  // x < limit ? 0 : a
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set1(limit), _CMP_NLT_UQ), a);
}
INLINE VF scale_by_pow2(VF a, VF t) {  // a * 2^(low bits of t read as an integer)
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
}
INLINE VF widen(const float* p, VF) { return load(p); }
INLINE VF widen(const Bf16* p, VF) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
INLINE VF widen(const F16* p, VF) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INLINE VF widen(const Fp8* p, VF scale256) {
    __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)), 7);
    h = _mm256_and_si256(h, _mm256_set1_epi16((short)0xBF80));
    return mul(_mm512_cvtph_ps(h), scale256);
}
INLINE __m128 fold4(VF a) {  // the four 128-bit quarters added as (q0 + q2) + (q1 + q3)
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
INLINE void hsum4(VF a, VF b, VF c, VF d, float* out) {  // out[i] = the sum of the lanes of the i-th vector
    VF ab = add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    VF cd = add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    VF lo = _mm512_shuffle_ps(ab, cd, 0x44), hi = _mm512_shuffle_ps(ab, cd, 0xEE);
    _mm_storeu_ps(out, fold4(add(lo, hi)));
}

INLINE void transpose(VF* a) {  // a[i] lane j <-> a[j] lane i
    __m512 b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {  // a[4i + c]: column c of each 4 x 4 block of rows 4i...
        a[4 * i] = _mm512_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
        a[4 * i + 1] = _mm512_shuffle_ps(b[4 * i], b[4 * i + 2], 0xEE);
        a[4 * i + 2] = _mm512_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
        a[4 * i + 3] = _mm512_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512 x = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88), y = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
        const __m512 z = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xDD), w = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xDD);
        b[c] = _mm512_shuffle_f32x4(x, y, 0x88);
        b[8 + c] = _mm512_shuffle_f32x4(x, y, 0xDD);
        b[4 + c] = _mm512_shuffle_f32x4(z, w, 0x88);
        b[12 + c] = _mm512_shuffle_f32x4(z, w, 0xDD);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = b[i];
}

INLINE float hmax(VF a) { return _mm512_reduce_max_ps(a); }

}  // namespace
