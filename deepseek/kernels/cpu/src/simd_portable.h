// The vocabulary of simd.h in the compiler's own vectors, on any processor: eight floats.
#pragma once

namespace {

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

INLINE void transpose(VF* a) {
    VF b[W];
    for (int i = 0; i < W; i++)
        for (int j = 0; j < W; j++) b[i][j] = a[j][i];
    for (int i = 0; i < W; i++) a[i] = b[i];
}

INLINE float hmax(VF a) {
    float t[W];
    store(t, a);
    float m = t[0];
    for (int i = 1; i < W; i++) m = t[i] > m ? t[i] : m;
    return m;
}

}  // namespace
