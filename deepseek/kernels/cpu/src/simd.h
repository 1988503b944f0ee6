// One small vector vocabulary over three instruction sets: a vector `VF` of W floats and what the kernels do with it.
//
// Each kernel file is compiled once per instruction set, with ISA_AVX512, ISA_AVX2 or ISA_PORTABLE defined. Everything
// lives in an anonymous namespace, and no standard-library template is used here or in the kernels: a template
// instantiated in a file compiled for AVX-512 could otherwise be the copy that the linker keeps for everybody.
//
// The portable vocabulary rounds the product and the sum of `fma` separately; the other two round once. So results are
// equal bit for bit within an instruction set, not across them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(ISA_AVX512) || defined(ISA_AVX2)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

typedef uint16_t bf16_bits;
struct Bf16 { bf16_bits bits; };
struct F16 { uint16_t bits; };
struct Fp8 { uint8_t bits; };  // e4m3fn: one sign, four exponent (bias 7) and three mantissa bits, no infinity

#if defined(ISA_AVX512)

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

#elif defined(ISA_AVX2)

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

#else  // ISA_PORTABLE: the compiler's own vectors, on any processor

typedef float VF __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t VI __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t VU __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int W = 8;
INLINE VF zero() { return VF{}; }
INLINE VF set1(float a) { return VF{a, a, a, a, a, a, a, a}; }
INLINE VF load(const float* p) { return *(const VF*)p; }
INLINE void store(float* p, VF a) { *(VF*)p = a; }
INLINE VF load_n(const float* p, int64_t n) {
    float t[W] = {0};
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    return load(t);
}
INLINE void store_n(float* p, VF a, int64_t n) {
    for (int64_t i = 0; i < n; i++) p[i] = a[i];
}
INLINE VF fma(VF a, VF b, VF c) { return a * b + c; }
INLINE VF add(VF a, VF b) { return a + b; }
INLINE VF sub(VF a, VF b) { return a - b; }
INLINE VF mul(VF a, VF b) { return a * b; }
INLINE VF div(VF a, VF b) { return a / b; }
INLINE VF vmin(VF a, VF b) { return a < b ? a : b; }  // b when either is NaN
INLINE VF vmax(VF a, VF b) { return a > b ? a : b; }
INLINE VF zero_below(VF x, float limit, VF a) { return x < set1(limit) ? zero() : a; }
INLINE VF scale_by_pow2(VF a, VF t) { return (VF)((VU)a + ((VU)t << 23)); }
INLINE VF widen(const float* p, VF) { return load(p); }
INLINE VF widen(const Bf16* p, VF) {
    VU u;
    for (int i = 0; i < W; i++) u[i] = (uint32_t)p[i].bits << 16;
    return (VF)u;
}
INLINE float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
INLINE float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3FF;
    if (exponent == 0) {  // subnormal: an integer count of 2^-24, so no float subnormal is ever touched
        float m = (float)mantissa * 5.9604644775390625e-8f;
        return sign ? -m : m;
    }
    return from_bits(sign | ((exponent == 31 ? 255 : exponent + 112) << 23) | (mantissa << 13));
}
INLINE VF widen(const F16* p, VF) {
    VF a;
    for (int i = 0; i < W; i++) a[i] = half_to_float(p[i].bits);
    return a;
}
INLINE VF widen(const Fp8* p, VF scale256) {
    VF a;
    for (int i = 0; i < W; i++) a[i] = half_to_float(((p[i].bits & 0x80) << 8) | ((p[i].bits & 0x7F) << 7));
    return a * scale256;
}
INLINE void hsum4(VF a, VF b, VF c, VF d, float* out) {
    VF v[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        VF x = v[i];
        out[i] = ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
    }
}

#endif

INLINE float hsum(VF a) {
    float out[4];
    hsum4(a, a, a, a, out);
    return out[0];
}

INLINE float hmax(VF a) {
    float t[W];
    store(t, a);
    float m = t[0];
    for (int i = 1; i < W; i++) m = t[i] > m ? t[i] : m;
    return m;
}

// exp(x) by x = n ln 2 + r, |r| <= ln 2 / 2, and the Taylor polynomial of degree 7 (relative error < 2 ulp).
// Exactly 1 at 0, exactly 0 below -87, and held at exp(88) above 88; NaN stays NaN.
INLINE VF vexp(VF x) {
    const VF magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer kept in the low bits
    VF y = vmin(set1(88.0f), vmax(set1(-87.0f), x));
    VF t = fma(y, set1(1.44269504f), magic);
    VF n = sub(t, magic);
    VF r = fma(n, set1(-0.693359375f), y);
    r = fma(n, set1(2.12194440e-4f), r);
    VF p = set1(1.98412698e-4f);
    p = fma(p, r, set1(1.38888889e-3f));
    p = fma(p, r, set1(8.33333333e-3f));
    p = fma(p, r, set1(4.16666667e-2f));
    p = fma(p, r, set1(1.66666667e-1f));
    p = fma(p, r, set1(0.5f));
    p = fma(p, r, set1(1.0f));
    p = fma(p, r, set1(1.0f));
    return zero_below(x, -87.0f, scale_by_pow2(p, t));
}

INLINE VF vsigmoid(VF x) { return div(set1(1.0f), add(set1(1.0f), vexp(sub(zero(), x)))); }

}  // namespace
