// All kernels of one instruction set; build.py compiles this file once for each. AMX is the VNNI kernels with another form of
// one of them, so they share a file.
#include "attention.h"
#include "integer.h"
#include "linear.h"
#include "rows.h"

#if defined(ISA_AVX512) && defined(INTEGER_VNNI)
#define TABLE ds_table_avx512vnni
#define NAME "avx512vnni"
#elif defined(ISA_AVX512)
#define TABLE ds_table_avx512
#define NAME "avx512"
#elif defined(ISA_AVX2)
#define TABLE ds_table_avx2
#define NAME "avx2"
#elif defined(ISA_NEON)
#define TABLE ds_table_neon
#define NAME "neon"
#else
#define TABLE ds_table_portable
#define NAME "portable"
#endif

extern "C" const KernelTable* TABLE() {
    static const KernelTable table = {NAME, linear, quantise_rows, attention, rms_norm, silu_mul, sigmoid, softmax, combine, rope};
    return &table;
}

#if defined(INTEGER_VNNI) && ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#include "integer_amx.h"

namespace {

void linear_amx(const LinearJob& job, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* scratch) {
    if (m1 - m0 >= AMX_ROWS && job.w->dtype == INT8_) return integer_amx<8>(job, m0, m1, p0, p1, scratch);
    if (m1 - m0 >= AMX_ROWS && job.w->dtype == INT4_) return integer_amx<4>(job, m0, m1, p0, p1, scratch);
    linear(job, m0, m1, p0, p1, scratch);
}

}  // namespace

extern "C" const KernelTable* ds_table_amx() {
    static const KernelTable table = [] {
        KernelTable t = *ds_table_avx512vnni();
        t.name = "amx";
        t.linear = linear_amx;
        return t;
    }();
    return &table;
}
#endif
