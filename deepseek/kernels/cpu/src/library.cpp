// The C interface of single operations: checks indices, cuts work into tasks (work.cpp), and calls the chosen instruction
// set.
//
// Every function returns 0, or 1 + the place of the first index that is out of range (nothing is computed then), or
// OUT_OF_MEMORY. Shapes, types and layouts are checked by the Python side before.
#include <cstring>

#include "work.h"

extern "C" {

int64_t ds_abi_version() { return 3; }

void ds_set_threads(int64_t n) { Pool::get().set_threads((int)n); }
int64_t ds_threads() { return Pool::get().threads(); }

int64_t ds_linear(const float* x, int64_t ldx, int64_t m, const Weight* w, const float* bias, float* y) {
    LinearJob job = {x, nullptr, ldx, m, w, bias, y, w->n, nullptr, 0};
    return run_linear(&job, 1);
}

// x [m, heads, k] and y [m, heads, n] with strides, weights [heads].
int64_t ds_head_linear(const float* x, int64_t x_token, int64_t x_head, int64_t m, int64_t heads, const Weight* w, float* y,
                       int64_t y_token, int64_t y_head) {
    std::vector<LinearJob> jobs;
    for (int64_t h = 0; h < heads; h++)
        jobs.push_back({x + h * x_head, nullptr, x_token, m, w + h, nullptr, y + h * y_head, y_token, nullptr, 0});
    return run_linear(jobs.data(), heads);
}

int64_t ds_expert_ffn(const float* x, int64_t ldx, int64_t tokens, int64_t topk, const int64_t* ids, const float* weights,
                      int64_t experts, const Weight* gate, const Weight* up, const Weight* down, float* y) {
    for (int64_t i = 0; i < tokens * topk; i++)
        if (ids[i] < 0 || ids[i] >= experts) return 1 + i;
    return run_experts({x, ldx, tokens, topk, ids, weights, experts, gate, up, down, nullptr, nullptr, nullptr, nullptr, y});
}

void ds_rms_norm(const float* x, int64_t ldx, const float* residual, int64_t ldr, const float* weight, float eps, int64_t tokens,
                 int64_t dim, float* y, float* sum) {
    rows_parallel(tokens, tokens * dim * 2, [&](int64_t a, int64_t b) {
        kernels().rms_norm(x, ldx, residual, ldr, weight, eps, dim, y, sum, nullptr, a, b);
    });
}

void ds_silu_mul(const float* x, int64_t ldx, int64_t tokens, int64_t f, float* y) {
    rows_parallel(tokens, tokens * f * 8, [&](int64_t a, int64_t b) { kernels().silu_mul(x, ldx, f, y, f, nullptr, a, b); });
}

void ds_sigmoid(const float* x, int64_t n, float* y) {
    rows_parallel(ceil_div(n, 64), n * 8, [&](int64_t a, int64_t b) {
        kernels().sigmoid(x, y, a * 64, std::min<int64_t>(n, b * 64));
    });
}

void ds_softmax(const float* x, int64_t ldx, int64_t tokens, int64_t e, float* y) {
    rows_parallel(tokens, tokens * e * 8, [&](int64_t a, int64_t b) { kernels().softmax(x, ldx, e, y, a, b); });
}

int64_t ds_rope(const float* x, int64_t tokens, int64_t heads, int64_t dim, int64_t x_token, int64_t x_head,
                const int64_t* positions, const float* cos, const float* sin, int64_t table_rows, int64_t interleaved, float* y,
                int64_t y_token, int64_t y_head) {
    for (int64_t t = 0; t < tokens; t++)
        if (positions[t] < 0 || positions[t] >= table_rows) return 1 + t;
    const RopeArgs args = {x, tokens, heads, dim, x_token, x_head, positions, cos, sin, interleaved, y, y_token, y_head};
    rows_parallel(tokens, tokens * heads * dim * 2, [&](int64_t a, int64_t b) { kernels().rope(args, a, b); });
    return 0;
}

// `slots` bounds the pools, `sequences` the block tables. Place of an error: the token.
int64_t ds_attention(const float* q, const float* k, const float* v, int64_t tokens, int64_t q_heads, int64_t kv_heads, int64_t dk,
                     int64_t dv, int64_t q_token, int64_t q_head, int64_t k_slot, int64_t k_head, int64_t v_slot, int64_t v_head,
                     int64_t slots, const int64_t* positions, const int32_t* block_tables, int64_t sequences, int64_t max_blocks,
                     int64_t block_size, const int32_t* seq, float scale, float* out) {
    const AttentionArgs a = {q, k, v, tokens, q_heads, kv_heads, dk, dv, q_token, q_head, k_slot, k_head, v_slot, v_head,
                             positions, block_tables, max_blocks, block_size, seq, scale, out};
    if (const int64_t bad = check_attention(a, sequences, slots)) return bad;
    run_attention(a);
    return 0;
}

// pool[slots[i]] = values[i], rows of `heads` runs of `dim` floats; a negative slot is skipped.
int64_t ds_write_kv(float* pool, int64_t p_slot, int64_t p_head, int64_t pool_slots, const int64_t* slots, int64_t count,
                    const float* values, int64_t v_token, int64_t v_head, int64_t heads, int64_t dim) {
    for (int64_t i = 0; i < count; i++)
        if (slots[i] >= pool_slots) return 1 + i;
    for (int64_t i = 0; i < count; i++)
        if (slots[i] >= 0)
            for (int64_t h = 0; h < heads; h++)
                memcpy(pool + slots[i] * p_slot + h * p_head, values + i * v_token + h * v_head, dim * sizeof(float));
    return 0;
}

}  // extern "C"
