// The C interface: checks indices, cuts work into tasks that own whole outputs, and calls the chosen instruction set.
//
// Every function returns 0, or 1 + the place of the first index that is out of range (nothing is computed then), or
// OUT_OF_MEMORY. Shapes, types and layouts are checked by the Python side before.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "pool.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

constexpr int64_t OUT_OF_MEMORY = -1;

std::atomic<const KernelTable*> chosen{nullptr};

const KernelTable& kernels() { return *chosen.load(std::memory_order_relaxed); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct LinearTask {
    int64_t job, m0, m1, p0, p1;
};

// Cuts jobs into (rows x panels) tasks, a few for each thread, and runs them.
int64_t run_linear(const LinearJob* jobs, int64_t count) {
    const int64_t threads = Pool::get().threads();
    int64_t cost = 0;
    for (int64_t j = 0; j < count; j++) cost += (jobs[j].m + 3) * jobs[j].w->n * jobs[j].w->k / 4;
    const int64_t share = std::max<int64_t>(cost / (threads * 4), 16384);
    std::vector<LinearTask> tasks;
    for (int64_t j = 0; j < count; j++) {
        const Weight& w = *jobs[j].w;
        const int64_t panels = ceil_div(w.n, PANEL);
        for (int64_t m0 = 0; m0 < jobs[j].m; m0 += MBLOCK) {
            const int64_t m1 = std::min<int64_t>(jobs[j].m, m0 + MBLOCK);
            int64_t step = panels;
            if (threads > 1) {
                const int64_t panel_cost = std::max<int64_t>((m1 - m0 + 3) * PANEL * w.k / 4, 1);
                // Multiples of four: the one-row kernel takes four panels at a time.
                step = std::min<int64_t>(panels, ceil_div(std::max<int64_t>(share / panel_cost, 1), 4) * 4);
            }
            for (int64_t p0 = 0; p0 < panels; p0 += step)
                tasks.push_back({j, m0, m1, p0, std::min<int64_t>(panels, p0 + step)});
        }
    }
    std::atomic<bool> failed{false};
    parallel((int64_t)tasks.size(), cost, [&](int64_t i) {
        const LinearTask& t = tasks[i];
        float* scratch = thread_scratch(LINEAR_SCRATCH);
        if (!scratch) {
            failed = true;
            return;
        }
        kernels().linear(jobs[t.job], t.m0, t.m1, t.p0, t.p1, scratch);
    });
    return failed ? OUT_OF_MEMORY : 0;
}

// Rows split over threads in contiguous runs; `cost` is for all of them.
template <class F>
void rows_parallel(int64_t rows, int64_t cost, F&& f) {
    const int64_t parts = std::min<int64_t>(rows, Pool::get().threads() * 4);
    if (parts <= 0) return;
    parallel(parts, cost, [&](int64_t i) { f(rows * i / parts, rows * (i + 1) / parts); });
}

int64_t element_bytes(int64_t dtype) { return dtype == F32 ? 4 : dtype == FP8 ? 1 : 2; }

// Row-major [n, k] (row stride ldw elements) to panels, or back.
template <class T, bool PACK>
void move_panel(T* rows, int64_t ldw, T* panels, int64_t n, int64_t k, int64_t panel) {
    T* p = panels + panel * k * PANEL;
    const int64_t count = std::min<int64_t>(PANEL, n - panel * PANEL);
    for (int64_t k0 = 0; k0 < k; k0 += 64) {
        const int64_t k1 = std::min<int64_t>(k, k0 + 64);
        for (int64_t j = 0; j < count; j++) {
            T* row = rows + (panel * PANEL + j) * ldw;
            for (int64_t i = k0; i < k1; i++) {
                if (PACK) p[i * PANEL + j] = row[i];
                else row[i] = p[i * PANEL + j];
            }
        }
        if (PACK)
            for (int64_t j = count; j < PANEL; j++)
                for (int64_t i = k0; i < k1; i++) p[i * PANEL + j] = T(0);
    }
}

template <bool PACK>
void move(void* rows, int64_t ldw, void* panels, int64_t n, int64_t k, int64_t dtype) {
    parallel(ceil_div(n, PANEL), n * k, [&](int64_t panel) {
        switch (element_bytes(dtype)) {
            case 4: return move_panel<uint32_t, PACK>((uint32_t*)rows, ldw, (uint32_t*)panels, n, k, panel);
            case 2: return move_panel<uint16_t, PACK>((uint16_t*)rows, ldw, (uint16_t*)panels, n, k, panel);
            default: return move_panel<uint8_t, PACK>((uint8_t*)rows, ldw, (uint8_t*)panels, n, k, panel);
        }
    });
}

}  // namespace

extern "C" {

int64_t ds_abi_version() { return 2; }

// Chooses "portable", "avx2" or "avx512"; 0 when this processor or build has it, 1 otherwise.
int64_t ds_set_isa(const char* name) {
    const KernelTable* table = nullptr;
    if (!strcmp(name, "portable")) table = ds_table_portable();
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (!strcmp(name, "avx2") && avx2) table = ds_table_avx2();
    if (!strcmp(name, "avx512") && avx2 && __builtin_cpu_supports("avx512f")) table = ds_table_avx512();
#endif
    if (!table) return 1;
    chosen = table;
    return 0;
}

const char* ds_isa() { return chosen.load() ? kernels().name : ""; }
void ds_set_threads(int64_t n) { Pool::get().set_threads((int)n); }
int64_t ds_threads() { return Pool::get().threads(); }

// Asks for large pages before the weights are written: decode reads them end to end at every step.
void ds_advise_huge(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 1 << 21, begin = ((uintptr_t)data + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes) / page * page;
    if (end > begin) (void)madvise((void*)begin, end - begin, MADV_HUGEPAGE);  // advice only: a refusal costs speed alone
#else
    (void)data, (void)bytes;
#endif
}

// FP8 may not contain NaN (0x7F, 0xFF): returns 1 + its place.
int64_t ds_pack(const void* rows, int64_t ldw, void* panels, int64_t n, int64_t k, int64_t dtype) {
    if (dtype == FP8)
        for (int64_t i = 0; i < n; i++) {
            const uint8_t* row = (const uint8_t*)rows + i * ldw;
            int bad = 0;
            for (int64_t j = 0; j < k; j++) bad |= (row[j] & 0x7F) == 0x7F;
            if (bad)
                for (int64_t j = 0; j < k; j++)
                    if ((row[j] & 0x7F) == 0x7F) return 1 + i * k + j;
        }
    move<true>((void*)rows, ldw, panels, n, k, dtype);
    return 0;
}

void ds_unpack(void* rows, const void* panels, int64_t n, int64_t k, int64_t dtype) {
    move<false>(rows, k, (void*)panels, n, k, dtype);
}

// Rows of a packed weight in its stored type (an embedding that shares its storage with the output layer).
int64_t ds_gather_rows(const Weight* w, const int64_t* ids, int64_t count, void* out) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= w->n) return 1 + i;
    const int64_t bytes = element_bytes(w->dtype);
    for (int64_t i = 0; i < count; i++) {
        const char* source = (const char*)w->data + ((ids[i] / PANEL) * w->k * PANEL + ids[i] % PANEL) * bytes;
        char* row = (char*)out + i * w->k * bytes;
        for (int64_t k = 0; k < w->k; k++) memcpy(row + k * bytes, source + k * PANEL * bytes, bytes);
    }
    return 0;
}

int64_t ds_linear(const float* x, int64_t ldx, int64_t m, const Weight* w, const float* bias, float* y) {
    const LinearJob job = {x, nullptr, ldx, m, w, bias, y, w->n};
    return run_linear(&job, 1);
}

// x [m, heads, k] and y [m, heads, n] with strides, weights [heads].
int64_t ds_head_linear(const float* x, int64_t x_token, int64_t x_head, int64_t m, int64_t heads, const Weight* w, float* y,
                       int64_t y_token, int64_t y_head) {
    std::vector<LinearJob> jobs;
    for (int64_t h = 0; h < heads; h++)
        jobs.push_back({x + h * x_head, nullptr, x_token, m, w + h, nullptr, y + h * y_head, y_token});
    return run_linear(jobs.data(), heads);
}

int64_t ds_expert_ffn(const float* x, int64_t ldx, int64_t tokens, int64_t topk, const int64_t* ids, const float* weights,
                      int64_t experts, const Weight* gate, const Weight* up, const Weight* down, float* y) {
    const int64_t pairs = tokens * topk, dim = gate->k, width = down->k;
    for (int64_t i = 0; i < pairs; i++)
        if (ids[i] < 0 || ids[i] >= experts) return 1 + i;
    // Counting sort of (token, choice) pairs by expert.
    std::vector<int64_t> start(experts + 1, 0), token_of(pairs), row_of(pairs);
    for (int64_t i = 0; i < pairs; i++) start[ids[i] + 1]++;
    for (int64_t e = 0; e < experts; e++) start[e + 1] += start[e];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < pairs; i++) {
        row_of[i] = next[ids[i]]++;
        token_of[row_of[i]] = i / topk;
    }
    float* buffer = (float*)malloc(std::max<int64_t>(pairs * (3 * width + dim), 1) * sizeof(float));
    if (!buffer) return OUT_OF_MEMORY;
    float *hidden = buffer, *activated = hidden + pairs * 2 * width, *rows = activated + pairs * width;
    std::vector<LinearJob> jobs;
    for (int64_t e = 0; e < experts; e++)
        if (const int64_t m = start[e + 1] - start[e])
            for (const Weight* w : {gate + e, up + e})
                jobs.push_back({x, token_of.data() + start[e], ldx, m, w, nullptr,
                                hidden + start[e] * 2 * width + (w == up + e ? width : 0), 2 * width});
    int64_t status = run_linear(jobs.data(), jobs.size());
    rows_parallel(pairs, pairs * width * 8, [&](int64_t a, int64_t b) {
        kernels().silu_mul(hidden, 2 * width, width, activated, a, b);
    });
    jobs.clear();
    for (int64_t e = 0; e < experts; e++)
        if (const int64_t m = start[e + 1] - start[e])
            jobs.push_back({activated + start[e] * width, nullptr, width, m, down + e, nullptr, rows + start[e] * dim, dim});
    if (!status) status = run_linear(jobs.data(), jobs.size());
    rows_parallel(tokens, pairs * dim, [&](int64_t a, int64_t b) {
        kernels().combine(rows, row_of.data(), weights, topk, dim, y, a, b);
    });
    free(buffer);
    return status;
}

void ds_rms_norm(const float* x, int64_t ldx, const float* residual, int64_t ldr, const float* weight, float eps, int64_t tokens,
                 int64_t dim, float* y, float* sum) {
    rows_parallel(tokens, tokens * dim * 2, [&](int64_t a, int64_t b) {
        kernels().rms_norm(x, ldx, residual, ldr, weight, eps, dim, y, sum, a, b);
    });
}

void ds_silu_mul(const float* x, int64_t ldx, int64_t tokens, int64_t f, float* y) {
    rows_parallel(tokens, tokens * f * 8, [&](int64_t a, int64_t b) { kernels().silu_mul(x, ldx, f, y, a, b); });
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
    int64_t keys = 0;
    for (int64_t t = 0; t < a.tokens; t++) {
        const int64_t p = a.positions[t];
        if (a.seq[t] < 0 || a.seq[t] >= sequences || p < 0 || p / a.block_size >= a.max_blocks) return 1 + t;
        // Consecutive tokens of a sequence share the walk: only blocks not yet seen are looked at.
        int64_t block = 0;
        if (t && a.seq[t] == a.seq[t - 1] && p >= a.positions[t - 1]) block = a.positions[t - 1] / a.block_size;
        const int32_t* table = a.block_tables + (int64_t)a.seq[t] * a.max_blocks;
        for (; block <= p / a.block_size; block++) {
            // The last block may be partly outside a pool that is no multiple of the block; only used slots count.
            const int64_t end = block == p / a.block_size ? p % a.block_size : a.block_size - 1;
            if (table[block] < 0 || table[block] * a.block_size + end >= slots) return 1 + t;
        }
        keys += p + 1;
    }
    const int64_t group = a.q_heads / a.kv_heads, cost = keys * a.q_heads * (a.dk + a.dv);
    const int64_t threads = Pool::get().threads();
    // Heads of one task: the whole group where it fits, less where there would be too few tasks to go round.
    int64_t heads = std::min<int64_t>(group, QROWS);
    if (a.tokens * a.kv_heads < threads && cost > 300000) heads = std::min(heads, ceil_div(group, threads));
    const int64_t width = std::max<int64_t>(1, QROWS / heads);
    struct Tile {
        int64_t t0, t1, kvh, h0, h1;
    };
    std::vector<Tile> tiles;
    for (int64_t t0 = 0; t0 < a.tokens;) {
        int64_t t1 = t0 + 1;
        while (t1 < a.tokens && t1 - t0 < width && a.seq[t1] == a.seq[t0]) t1++;
        for (int64_t kvh = 0; kvh < a.kv_heads; kvh++)
            for (int64_t h = 0; h < group; h += heads)
                tiles.push_back({t0, t1, kvh, kvh * group + h, kvh * group + std::min(group, h + heads)});
        t0 = t1;
    }
    parallel((int64_t)tiles.size(), cost, [&](int64_t i) {
        // Longest first: later tokens of a prompt see more keys.
        const Tile& t = tiles[tiles.size() - 1 - i];
        kernels().attention(a, t.t0, t.t1, t.kvh, t.h0, t.h1);
    });
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
