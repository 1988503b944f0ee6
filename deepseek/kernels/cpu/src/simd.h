// One small vector vocabulary over several instruction sets: a vector `VF` of W floats and what the kernels do with it.
//
// Each kernel file is compiled once per instruction set, with ISA_AVX512, ISA_AVX2, ISA_NEON or ISA_PORTABLE defined.
// Everything lives in an anonymous namespace, and no standard-library template is used here or in the kernels: a template
// instantiated in a file compiled for AVX-512 could otherwise be the copy that the linker keeps for everybody.
//
// The portable vocabulary rounds the product and the sum of `fma` separately; the others round once. So results are equal
// bit for bit within an instruction set; across them only where the number of lanes and the rounding agree (NEON with AVX2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define INLINE inline __attribute__((always_inline))

namespace {

typedef uint16_t bf16_bits;
struct Bf16 { bf16_bits bits; };
struct F16 { uint16_t bits; };
struct Fp8 { uint8_t bits; };  // e4m3fn: one sign, four exponent (bias 7) and three mantissa bits, no infinity

}  // namespace

#if defined(ISA_AVX512)
#include "simd_avx512.h"
#elif defined(ISA_AVX2)
#include "simd_avx2.h"
#elif defined(ISA_NEON)
#include "simd_neon.h"
#else
#include "simd_portable.h"
#endif

namespace {

INLINE float hsum(VF a) {
    float out[4];
    hsum4(a, a, a, a, out);
    return out[0];
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
