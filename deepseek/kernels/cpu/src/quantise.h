// Input rows as 8-bit codes, for integer weights: in blocks of 128, sx = max|x| / 127, q = round(x / sx).
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

// Row t of a matrix to codes, with their scales and the sums of every 32 codes. A block whose largest magnitude is below
// 2^-100 counts as zeros; one that holds anything not finite gets scale NaN, so that the output says so.
INLINE void quantise_row(const float* row, int64_t k, const QuantRows& out, int64_t t) {
    for (int64_t b = 0; b * KBLOCK < k; b++) {
        const float* x = row + b * KBLOCK;
        const int64_t len = k - b * KBLOCK < KBLOCK ? k - b * KBLOCK : KBLOCK, place = b * out.rows + t;
        int8_t* q = out.codes + place * KBLOCK;
        float padded[KBLOCK];
        if (len < KBLOCK) {
            memset(padded, 0, sizeof padded);
            memcpy(padded, x, len * sizeof(float));
            x = padded;
        }
        uint32_t top = 0;  // magnitudes compare like integers, NaN above infinity above all else
        for (int i = 0; i < KBLOCK; i++) {
            uint32_t bits;
            memcpy(&bits, x + i, 4);
            bits &= 0x7FFFFFFF;
            top = bits > top ? bits : top;
        }
        float largest;
        memcpy(&largest, &top, 4);
        const bool finite = top < 0x7F800000, zero = largest < 7.888609052210118e-31f;
        out.scales[place] = !finite ? __builtin_nanf("") : zero ? 0.0f : largest / 127.0f;
        const float inverse = !finite || zero ? 0.0f : 127.0f / largest;
        for (int s = 0; s < KBLOCK / 32; s++) {
            int32_t sum = 0;
            for (int i = 0; i < 32; i++) {
                // 1.5 * 2^23 rounds half to even and leaves the integer in the low bits; NaN never gets here.
                const float rounded = (finite ? x[s * 32 + i] : 0.0f) * inverse + 12582912.0f;
                int32_t code;
                memcpy(&code, &rounded, 4);
                code -= 0x4B400000;
                code = code > 127 ? 127 : code < -127 ? -127 : code;
                q[s * 32 + i] = (int8_t)code;
                sum += code;
            }
            out.sums[place * (KBLOCK / 32) + s] = sum;
        }
    }
}

void quantise_rows(const float* x, const int64_t* gather, int64_t ldx, int64_t k, const QuantRows& out, int64_t t0, int64_t t1) {
    for (int64_t t = t0; t < t1; t++) quantise_row(x + (gather ? gather[t] : t) * ldx, k, out, t);
}

// Neighbouring rows of one block of 128 inputs.
struct RowBlock {
    const int8_t* codes;  // [rows][128]
    const int32_t* sums;  // [rows][4]
    const float* scales;  // [rows]

    INLINE RowBlock from(int64_t m) const { return {codes + m * KBLOCK, sums + m * (KBLOCK / 32), scales + m}; }
};

}  // namespace
