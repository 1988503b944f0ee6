// The vocabulary of simd.h on AVX2 with FMA and F16C: eight floats.
#pragma once

#include <immintrin.h>

namespace {

typedef __m256 VF;
constexpr int W = 8;
INLINE __m256i lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE VF zero() { return _mm256_setzero_ps(); }
INLINE VF set1(float a) { return _mm256_set1_ps(a); }
INLINE VF load(const float* p) { return _mm256_loadu_ps(p); }
INLINE void store(float* p, VF a) { _mm256_storeu_ps(p, a); }
INLINE VF load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, lanes(n)); }
INLINE void store_n(float* p, VF a, int64_t n) { _mm256_maskstore_ps(p, lanes(n), a); }
INLINE VF fma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
INLINE VF add(VF a, VF b) { return _mm256_add_ps(a, b); }
INLINE VF sub(VF a, VF b) { return _mm256_sub_ps(a, b); }
INLINE VF mul(VF a, VF b) { return _mm256_mul_ps(a, b); }
INLINE VF div(VF a, VF b) { return _mm256_div_ps(a, b); }
INLINE VF vmin(VF a, VF b) { return _mm256_min_ps(a, b); }  // b when either is NaN
INLINE VF vmax(VF a, VF b) { return _mm256_max_ps(a, b); }
INLINE VF zero_below(VF x, float limit, VF a) {
    return _mm256_and_ps(_mm256_cmp_ps(x, set1(limit), _CMP_NLT_UQ), a);
}
INLINE VF scale_by_pow2(VF a, VF t) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
INLINE VF widen(const float* p, VF) { return load(p); }
INLINE VF widen(const Bf16* p, VF) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
INLINE VF widen(const F16* p, VF) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
INLINE VF widen(const Fp8* p, VF scale256) {
    __m128i h = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)p)), 7);
    h = _mm_and_si128(h, _mm_set1_epi16((short)0xBF80));
    return mul(_mm256_cvtph_ps(h), scale256);
}
INLINE void hsum4(VF a, VF b, VF c, VF d, float* out) {
    VF ab = add(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    VF cd = add(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    VF s = add(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

INLINE void transpose(VF* a) {
    __m256 b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
        a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xEE);
        a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
        a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        b[c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x20);
        b[4 + c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) a[i] = b[i];
}

INLINE float hmax(VF a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

}  // namespace
