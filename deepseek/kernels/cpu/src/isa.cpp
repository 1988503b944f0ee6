// Which instruction sets this build, processor and system have, and the choice of one of them.
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

#include "work.h"

extern "C" void ds_pack_integer(const int8_t* codes, const uint16_t* scales, void* panels, int64_t n, int64_t k, int64_t bits);

namespace {

enum Status : int64_t { HERE = 0, ABSENT = 1, REFUSED = 2 };

#if defined(__x86_64__)

bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() { return has_avx2() && __builtin_cpu_supports("avx512f"); }

bool has_avx512vnni() {
    return has_avx512() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

// AMX of the processor, its registers saved by the system, and leave to use them: a process has to ask for it once (Linux,
// Documentation/arch/x86/xstate.rst), and its threads then all have it.
bool has_amx() {
#if defined(AMX_EMULATED)
    return has_avx512vnni();
#elif defined(__linux__)
    unsigned a, b, c, d;
    if (!has_avx512vnni() || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
    constexpr unsigned TILE = 1u << 24, TILE_INT8 = 1u << 25, TILE_STATE = 3u << 17;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (TILE | TILE_INT8)) != (TILE | TILE_INT8)) return false;
    asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    if ((a & TILE_STATE) != TILE_STATE) return false;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

// Integer products by two tables, for both widths, several heights of tiles, a panel that is not full, a last block that is not
// full, and the largest codes: true where all bits agree.
bool same_products(const KernelTable& table, const KernelTable& oracle) {
    const int64_t n = 70, k = 300, most = 50;
    uint32_t state = 1;
    const auto random = [&state](int low, int high) {
        state = state * 1664525u + 1013904223u;
        return low + (int)((state >> 8) % (uint32_t)(high - low + 1));
    };
    std::vector<float> x(most * k), scratch(LINEAR_SCRATCH);
    for (int64_t i = 0; i < most * k; i++) x[i] = i < 2 * k ? (i < k ? 127.0f : -127.0f) : (float)random(-1000, 1000);
    std::vector<char> memory(quantised_bytes(most, k));
    const QuantRows rows = quantised_in(memory.data(), most, k);
    oracle.quantise_rows(x.data(), nullptr, k, k, rows, 0, most);
    for (const int bits : {8, 4}) {
        const int low = bits == 8 ? -127 : -8, high = bits == 8 ? 127 : 7;
        const int64_t panels = ceil_div(n, PANEL), columns = ceil_div(k, bits == 8 ? KBLOCK : 32);
        std::vector<int8_t> codes(n * k);
        for (int64_t i = 0; i < n * k; i++) codes[i] = (int8_t)(i < 2 * k ? (i < k ? low : high) : random(low, high));
        std::vector<uint16_t> scales(n * columns);
        for (uint16_t& scale : scales) scale = (uint16_t)(0x3C00 + random(0, 255));  // bfloat16, around 2^-7
        std::vector<char> data(panels * panel_bytes(bits, k));
        ds_pack_integer(codes.data(), scales.data(), data.data(), n, k, bits);
        const Weight w = {data.data(), nullptr, n, k, bits == 8 ? INT8_ : INT4_};
        for (const int64_t m : {8, 17, 50}) {
            std::vector<float> ours(m * n), theirs(m * n);
            LinearJob job = {x.data(), nullptr, k, m, &w, nullptr, ours.data(), n, &rows, 0};
            table.linear(job, 0, m, 0, panels, scratch.data());
            job.y = theirs.data();
            oracle.linear(job, 0, m, 0, panels, scratch.data());
            if (memcmp(ours.data(), theirs.data(), ours.size() * sizeof(float))) return false;
        }
    }
    return true;
}

Status amx_status() {
    static const Status status = !ds_table_amx || !has_amx() ? ABSENT
                                 : same_products(*ds_table_amx(), *ds_table_avx512vnni()) ? HERE : REFUSED;
    return status;
}

#endif

#if defined(__aarch64__)
bool has_dot_product() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
    return true;  // every Apple processor with this architecture
#else
    return false;
#endif
}
#endif

// The table of a set by name (null: unknown), and whether it can be used.
const KernelTable* find(const char* name, Status* status) {
    const auto is = [name](const char* other) { return !strcmp(name, other); };
    const auto answer = [status](const KernelTable* (*table)(), bool here) {
        *status = table && here ? HERE : ABSENT;
        return *status == HERE ? table() : nullptr;
    };
    if (is("portable")) return answer(ds_table_portable, true);
#if defined(__aarch64__)
    if (is("neon")) return answer(ds_table_neon, has_dot_product());
#endif
#if defined(__x86_64__)
    if (is("avx2")) return answer(ds_table_avx2, has_avx2());
    if (is("avx512")) return answer(ds_table_avx512, has_avx512());
    if (is("avx512vnni")) return answer(ds_table_avx512vnni, has_avx512vnni());
    if (is("amx")) {
        *status = amx_status();
        return *status == HERE ? ds_table_amx() : nullptr;
    }
#endif
    *status = ABSENT;
    return nullptr;
}

}  // namespace

extern "C" {

// 0: the instruction set `name` works here; 1: this processor or build lacks it; 2: it is here, but computed other bits than
// the set that it must agree with, and is not used.
int64_t ds_check_isa(const char* name) {
    Status status;
    find(name, &status);
    return status;
}

// Chooses the instruction set; the return value is ds_check_isa's, and nothing changes unless it is 0.
int64_t ds_set_isa(const char* name) {
    Status status;
    const KernelTable* table = find(name, &status);
    if (table) chosen_table = table;
    return status;
}

const char* ds_isa() { return chosen_table.load() ? kernels().name : ""; }

}  // extern "C"
