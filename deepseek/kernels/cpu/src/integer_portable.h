// Integer products of integer.h in plain C++.
#pragma once

#include "quantise.h"

namespace {

constexpr int INT_ROWS = 4;
constexpr int INT_W = 8;
constexpr int vectors_for(int, int) { return 1; }
struct VI32 { int32_t lane[8]; };

template <int MR, int NV>
INLINE void dots8(const RowBlock& rows, const char* w, int64_t groups, int column, VI32 (*acc)[NV]) {
    for (int m = 0; m < MR; m++) {
        const int32_t* s = rows.sums + m * 4;
        for (int j = 0; j < 8; j++) acc[m][0].lane[j] = -128 * (s[0] + s[1] + s[2] + s[3]);
        for (int64_t g = 0; g < groups; g++)
            for (int j = 0; j < 8; j++) {
                const uint8_t* code = (const uint8_t*)w + g * 128 + (column + j) * 4;
                const int8_t* q = rows.codes + m * KBLOCK + g * 4;
                acc[m][0].lane[j] += code[0] * q[0] + code[1] * q[1] + code[2] * q[2] + code[3] * q[3];
            }
    }
}

template <int MR, int NV>
INLINE void dots4(const RowBlock& rows, const char* w, int sub, int column, VI32 (*acc)[NV]) {
    for (int m = 0; m < MR; m++) {
        for (int j = 0; j < 8; j++) acc[m][0].lane[j] = -8 * rows.sums[m * 4 + sub];
        for (int g = 0; g < 4; g++)
            for (int j = 0; j < 8; j++) {
                const uint8_t* code = (const uint8_t*)w + g * 128 + (column + j) * 4;
                const int8_t* q = rows.codes + m * KBLOCK + sub * 32 + g * 4;
                for (int i = 0; i < 4; i++) acc[m][0].lane[j] += (code[i] & 15) * q[i] + (code[i] >> 4) * q[16 + i];
            }
    }
}

template <int NV>
INLINE VF to_float(const VI32 (&acc)[NV], int) {
    VF a;
    for (int j = 0; j < 8; j++) a[j] = (float)acc[0].lane[j];
    return a;
}

}  // namespace
