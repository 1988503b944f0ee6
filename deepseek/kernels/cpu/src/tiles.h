// The five AMX instructions that integer_amx.h needs, on the tile registers 0 to 7.
//
// In assembly rather than by the compiler's intrinsics, so that the file they stand in needs no further compiler flag: a
// library with AMX in it still builds and runs everywhere. The tests compile with AMX_EMULATED and put a plain C model of
// these instructions in their place.
#pragma once

#if defined(AMX_EMULATED)
#include "amx_emulated.h"
#else

#include <cstdint>

namespace {

// Palette 1: eight registers of up to 16 rows of 64 bytes.
struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64, "the processor reads 64 bytes");

inline void tiles_configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
inline void tiles_release() { asm volatile("tilerelease"); }

template <int T>
inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
inline void tile_load(const void* rows, int64_t stride) {  // stride in bytes
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void tile_store(void* rows, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(T) : "memory");
}
// C[m][n] += sum over k, i of A[m][4k + i] (signed bytes) * B[k][4n + i] (unsigned bytes), in 32-bit integers.
template <int C, int A, int B>
inline void tile_dot() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

}  // namespace

#endif
