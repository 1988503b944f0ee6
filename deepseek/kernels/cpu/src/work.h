// How an operation is cut into tasks that own whole outputs: shared by the single operations (library.cpp) and by the
// decoder stack (layers.cpp). Indices are checked before, shapes by the Python side.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels.h"
#include "pool.h"

constexpr int64_t OUT_OF_MEMORY = -1;

extern std::atomic<const KernelTable*> chosen_table;

static inline const KernelTable& kernels() { return *chosen_table.load(std::memory_order_relaxed); }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows split over threads in contiguous runs; `cost` (multiply-adds, roughly) is for all of them.
template <class F>
void rows_parallel(int64_t rows, int64_t cost, F&& f) {
    const int64_t parts = std::min<int64_t>(rows, Pool::get().threads() * 4);
    if (parts <= 0) return;
    parallel(parts, cost, [&](int64_t i) { f(rows * i / parts, rows * (i + 1) / parts); });
}

// Bytes of the quantised form of m rows of k inputs, and that form laid out in such memory.
size_t quantised_bytes(int64_t m, int64_t k);
QuantRows quantised_in(void* memory, int64_t m, int64_t k);

// Runs all jobs as one pool of tasks. Inputs of integer weights are quantised first, each once, unless a job brings its
// quantised rows along. 0 or OUT_OF_MEMORY.
int64_t run_linear(LinearJob* jobs, int64_t count);

// The experts of `tokens` rows of x: routed ones by ids and weights [tokens, topk] (none where topk is 0), and one shared
// by all rows (none where shared_gate is null); y [tokens, dim] = routed + shared.
struct ExpertArgs {
    const float* x;
    int64_t ldx, tokens, topk;
    const int64_t* ids;
    const float* weights;
    int64_t experts;
    const Weight *gate, *up, *down;
    const Weight *shared_gate, *shared_up, *shared_down;
    const QuantRows* quantised;  // of x, if it is at hand
    float* y;
};
int64_t run_experts(const ExpertArgs& a);

// 0, or 1 + the first token whose position, sequence or block table points outside.
int64_t check_attention(const AttentionArgs& a, int64_t sequences, int64_t slots);
void run_attention(const AttentionArgs& a);

// How a router picks: the meaning of models/experts.py.
struct RouteArgs {
    int64_t experts, topk, groups, top_groups, group_best;  // group_best: scores of a group that make its own
    int64_t sigmoid, normalise;
    float scale, closed;  // closed: what a shut group's scores become
    const float* bias;    // steers the choice only; may be null
};
// logits [tokens, experts] (overwritten with scores) to ids and weights [tokens, topk], best first.
void run_route(float* logits, int64_t tokens, const RouteArgs& a, int64_t* ids, float* weights);
