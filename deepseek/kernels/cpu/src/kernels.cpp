// All kernels of one instruction set; build.py compiles this file once for each.
#include "attention.h"
#include "linear.h"
#include "rows.h"

#if defined(ISA_AVX512)
#define TABLE ds_table_avx512
#define NAME "avx512"
#elif defined(ISA_AVX2)
#define TABLE ds_table_avx2
#define NAME "avx2"
#else
#define TABLE ds_table_portable
#define NAME "portable"
#endif

extern "C" const KernelTable* TABLE() {
    static const KernelTable table = {NAME, linear, attention, rms_norm, silu_mul, sigmoid, softmax, combine, rope};
    return &table;
}
