// The vocabulary of simd.h on 64-bit Arm: eight floats in two registers. Every operation rounds as its AVX2 namesake does, and
// sums have the same trees, so the two instruction sets give the same bits.
#pragma once

#include <arm_neon.h>

namespace {

struct VF { float32x4_t lo, hi; };
constexpr int W = 8;
INLINE VF set1(float a) { return {vdupq_n_f32(a), vdupq_n_f32(a)}; }
INLINE VF zero() { return set1(0.0f); }
INLINE VF load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
INLINE void store(float* p, VF a) {
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}
INLINE VF load_n(const float* p, int64_t n) {
    float t[W] = {0};
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    return load(t);
}
INLINE void store_n(float* p, VF a, int64_t n) {
    float t[W];
    store(t, a);
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}
INLINE VF fma(VF a, VF b, VF c) { return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }
INLINE VF add(VF a, VF b) { return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
INLINE VF sub(VF a, VF b) { return {vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
INLINE VF mul(VF a, VF b) { return {vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
INLINE VF div(VF a, VF b) { return {vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
// The processor's own minimum and maximum would give NaN when either is NaN; ours give b.
INLINE VF vmin(VF a, VF b) {
    return {vbslq_f32(vcltq_f32(a.lo, b.lo), a.lo, b.lo), vbslq_f32(vcltq_f32(a.hi, b.hi), a.hi, b.hi)};
}
INLINE VF vmax(VF a, VF b) {
    return {vbslq_f32(vcgtq_f32(a.lo, b.lo), a.lo, b.lo), vbslq_f32(vcgtq_f32(a.hi, b.hi), a.hi, b.hi)};
}
INLINE VF zero_below(VF x, float limit, VF a) {  // x < limit ? 0 : a
    const float32x4_t l = vdupq_n_f32(limit), z = vdupq_n_f32(0.0f);
    return {vbslq_f32(vcltq_f32(x.lo, l), z, a.lo), vbslq_f32(vcltq_f32(x.hi, l), z, a.hi)};
}
INLINE float32x4_t scale_by_pow2(float32x4_t a, float32x4_t t) {
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), vshlq_n_s32(vreinterpretq_s32_f32(t), 23)));
}
INLINE VF scale_by_pow2(VF a, VF t) { return {scale_by_pow2(a.lo, t.lo), scale_by_pow2(a.hi, t.hi)}; }
INLINE VF widen(const float* p, VF) { return load(p); }
INLINE VF widen(const Bf16* p, VF) {
    const uint16x8_t h = vld1q_u16((const uint16_t*)p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
}
INLINE VF widen_halves(uint16x8_t h) {
    const float16x8_t f = vreinterpretq_f16_u16(h);
    return {vcvt_f32_f16(vget_low_f16(f)), vcvt_high_f32_f16(f)};
}
INLINE VF widen(const F16* p, VF) { return widen_halves(vld1q_u16((const uint16_t*)p)); }
INLINE VF widen(const Fp8* p, VF scale256) {
    const int16x8_t h = vshlq_n_s16(vmovl_s8(vld1_s8((const int8_t*)p)), 7);
    return mul(widen_halves(vandq_u16(vreinterpretq_u16_s16(h), vdupq_n_u16(0xBF80))), scale256);
}
INLINE float32x4_t fold4(float32x4_t a, float32x4_t b, float32x4_t c, float32x4_t d) {  // (x0 + x2) + (x1 + x3) of each
    const float32x4_t ab = vaddq_f32(vzip1q_f32(a, b), vzip2q_f32(a, b)), cd = vaddq_f32(vzip1q_f32(c, d), vzip2q_f32(c, d));
    return vaddq_f32(vcombine_f32(vget_low_f32(ab), vget_low_f32(cd)), vcombine_f32(vget_high_f32(ab), vget_high_f32(cd)));
}
INLINE void hsum4(VF a, VF b, VF c, VF d, float* out) {
    vst1q_f32(out, vaddq_f32(fold4(a.lo, b.lo, c.lo, d.lo), fold4(a.hi, b.hi, c.hi, d.hi)));
}

INLINE void transpose4(float32x4_t& a, float32x4_t& b, float32x4_t& c, float32x4_t& d) {
    const float64x2_t ab0 = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), ab1 = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    const float64x2_t cd0 = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), cd1 = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
    a = vreinterpretq_f32_f64(vzip1q_f64(ab0, cd0));
    b = vreinterpretq_f32_f64(vzip1q_f64(ab1, cd1));
    c = vreinterpretq_f32_f64(vzip2q_f64(ab0, cd0));
    d = vreinterpretq_f32_f64(vzip2q_f64(ab1, cd1));
}

INLINE void transpose(VF* a) {  // a[i] lane j <-> a[j] lane i: quarters turned, then the off-diagonal ones swapped
    transpose4(a[0].lo, a[1].lo, a[2].lo, a[3].lo);
    transpose4(a[0].hi, a[1].hi, a[2].hi, a[3].hi);
    transpose4(a[4].lo, a[5].lo, a[6].lo, a[7].lo);
    transpose4(a[4].hi, a[5].hi, a[6].hi, a[7].hi);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const float32x4_t t = a[i].hi;
        a[i].hi = a[4 + i].lo;
        a[4 + i].lo = t;
    }
}

// The largest number; NaN does not count here, and reaches a result through its own exponential.
INLINE float hmax(VF a) { return vmaxnmvq_f32(vmaxnmq_f32(a.lo, a.hi)); }

}  // namespace
