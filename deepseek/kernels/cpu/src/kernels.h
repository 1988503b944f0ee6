// What the orchestration (work.cpp, layers.cpp) and the per-instruction-set kernels (linear.h, attention.h, rows.h) share:
// plain structs and a table of function pointers, one table for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr int PANEL = 32;     // weight rows (output features) stored side by side
constexpr int KBLOCK = 128;   // inputs summed in one chain before joining the total; also the FP8 scale block
constexpr int MBLOCK = 192;   // rows of one task; a multiple of every row tile (12 and 6)
constexpr int PGROUP = 16;    // panels that share one packing of the input
constexpr int KEYS = 64;      // keys of one attention tile, counted from position 0
constexpr int QROWS = 48;     // (token, head) rows of one attention task
constexpr int64_t PACKED_INPUT = 2 * MBLOCK * KBLOCK;  // floats of packed input a task holds at once
constexpr int64_t LINEAR_SCRATCH = PACKED_INPUT + KBLOCK * PANEL + PGROUP * MBLOCK * PANEL;

enum DType : int32_t { F32 = 0, BF16 = 1, F16_ = 2, FP8 = 3, INT8_ = 4, INT4_ = 5 };

// A weight [n, k] as panels [ceil(n / 32)][k][32], in its stored type. `scales` [ceil(n/128), ceil(k/128)] is for FP8.
// Integer panels carry their bfloat16 scales with them. 8 bits, for every 128 inputs: [32][32 outputs][4 inputs] codes
// + 128, then 32 scales. 4 bits, for every 32 inputs: [4][32 outputs][4 inputs] bytes of codes + 8 (low half: the first
// 16 inputs, high half: the others), then 32 scales.
struct Weight {
    const void* data;
    const float* scales;
    int64_t n, k;
    int64_t dtype;
};

static inline bool is_integer(int64_t dtype) { return dtype == INT8_ || dtype == INT4_; }

// Bytes of one integer panel over k inputs.
static inline int64_t panel_bytes(int bits, int64_t k) {
    return bits == 8 ? (k + 3) / 4 * 128 + (k + KBLOCK - 1) / KBLOCK * 64 : (k + 31) / 32 * 576;
}

// Input rows as 8-bit codes, for integer weights: codes [blocks of 128][rows][128], scales [blocks][rows], and the sums
// of every 32 codes [blocks][rows][4].
struct QuantRows {
    int8_t* codes;
    float* scales;
    int32_t* sums;
    int64_t rows;
};

// y[i] = x[gather ? gather[i] : i] @ w^T + bias, for i < m.
struct LinearJob {
    const float* x;
    const int64_t* gather;
    int64_t ldx, m;
    const Weight* w;
    const float* bias;
    float* y;
    int64_t ldy;
    const QuantRows* quantised;  // the m rows from `quantised_first` on, where w is integer
    int64_t quantised_first;
};

struct AttentionArgs {
    const float *q, *k, *v;
    int64_t tokens, q_heads, kv_heads, dk, dv;
    int64_t q_token, q_head, k_slot, k_head, v_slot, v_head;  // strides in floats
    const int64_t* positions;
    const int32_t* block_tables;
    int64_t max_blocks, block_size;
    const int32_t* seq;
    float scale;
    float* out;  // [tokens, q_heads, dv]
};

struct RopeArgs {
    const float* x;
    int64_t tokens, heads, dim, x_token, x_head;  // strides in floats
    const int64_t* positions;
    const float *cos, *sin;
    int64_t interleaved;
    float* y;
    int64_t y_token, y_head;
};

struct KernelTable {
    const char* name;
    void (*linear)(const LinearJob&, int64_t m0, int64_t m1, int64_t p0, int64_t p1, float* scratch);
    void (*quantise_rows)(const float* x, const int64_t* gather, int64_t ldx, int64_t k, const QuantRows& out, int64_t t0,
                          int64_t t1);
    // Heads [h0, h1) of the group of kv head `kvh`, tokens [t0, t1); (t1 - t0) * (h1 - h0) <= QROWS. The first `shared` keys, a
    // multiple of KEYS, lie in the same blocks for all these tokens; all keys do where they are of one sequence.
    void (*attention)(const AttentionArgs&, int64_t t0, int64_t t1, int64_t shared, int64_t kvh, int64_t h0, int64_t h1);
    void (*rms_norm)(const float* x, int64_t ldx, const float* residual, int64_t ldr, const float* weight, float eps,
                     int64_t dim, float* y, float* sum, const QuantRows* quantised, int64_t t0, int64_t t1);
    void (*silu_mul)(const float* x, int64_t ldx, int64_t f, float* y, int64_t ldy, const QuantRows* quantised, int64_t t0,
                     int64_t t1);
    void (*sigmoid)(const float* x, float* y, int64_t i0, int64_t i1);
    void (*softmax)(const float* x, int64_t ldx, int64_t e, float* y, int64_t t0, int64_t t1);
    void (*combine)(const float* rows, const int64_t* row_of, const float* weights, int64_t topk, int64_t dim, float* y,
                    int64_t t0, int64_t t1);
    void (*rope)(const RopeArgs&, int64_t t0, int64_t t1);
};

// Null where this build lacks the set.
extern "C" {
#define MAYBE __attribute__((weak))
MAYBE const KernelTable* ds_table_portable();
MAYBE const KernelTable* ds_table_neon();
MAYBE const KernelTable* ds_table_avx2();
MAYBE const KernelTable* ds_table_avx512();
MAYBE const KernelTable* ds_table_avx512vnni();
MAYBE const KernelTable* ds_table_amx();
#undef MAYBE
}
