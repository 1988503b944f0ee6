#include "work.h"

#include <cmath>
#include <cstring>

std::atomic<const KernelTable*> chosen_table{nullptr};

size_t quantised_bytes(int64_t m, int64_t k) {
    const size_t places = m * ceil_div(k, KBLOCK);
    return (places * (KBLOCK + sizeof(float) + KBLOCK / 32 * sizeof(int32_t)) + 63) / 64 * 64;
}

QuantRows quantised_in(void* memory, int64_t m, int64_t k) {
    const int64_t places = m * ceil_div(k, KBLOCK);
    QuantRows rows;
    rows.codes = (int8_t*)memory;
    rows.sums = (int32_t*)(rows.codes + places * KBLOCK);
    rows.scales = (float*)(rows.sums + places * (KBLOCK / 32));
    rows.rows = m;
    return rows;
}

namespace {

struct LinearTask {
    int64_t job, m0, m1, p0, p1;
};

bool same_input(const LinearJob& a, const LinearJob& b) {
    return a.x == b.x && a.gather == b.gather && a.ldx == b.ldx && a.m == b.m && a.w->k == b.w->k;
}

// Quantises the inputs of all jobs with integer weights, those that several jobs share once. False: no memory.
bool quantise_inputs(LinearJob* jobs, int64_t count, std::vector<QuantRows>& quantised) {
    quantised.reserve(count);  // jobs point into it
    std::vector<const LinearJob*> owners;
    std::vector<size_t> offsets;
    size_t bytes = 0;
    for (int64_t j = 0; j < count; j++) {
        LinearJob& job = jobs[j];
        if (!is_integer(job.w->dtype) || job.quantised || !job.m) continue;
        size_t i = owners.size();
        while (i > 0 && !same_input(*owners[i - 1], job)) i--;
        if (i == 0) {
            owners.push_back(&job);
            offsets.push_back(bytes);
            quantised.push_back({});
            bytes += quantised_bytes(job.m, job.w->k);
            i = owners.size();
        }
        job.quantised = &quantised[i - 1];
    }
    if (owners.empty()) return true;
    char* memory = (char*)thread_scratch<QuantRows>(bytes);
    if (!memory) return false;
    for (size_t i = 0; i < owners.size(); i++) {
        const LinearJob& job = *owners[i];
        quantised[i] = quantised_in(memory + offsets[i], job.m, job.w->k);
        rows_parallel(job.m, job.m * job.w->k, [&](int64_t a, int64_t b) {
            kernels().quantise_rows(job.x, job.gather, job.ldx, job.w->k, quantised[i], a, b);
        });
    }
    return true;
}

}  // namespace

namespace {

// Tasks of about `share` multiply-adds over a job's rows and panels: `grain` panels or a multiple, `most` at most.
void cut(int64_t job, int64_t m, const Weight& w, int64_t share, int64_t grain, int64_t most, std::vector<LinearTask>& tasks) {
    const int64_t panels = ceil_div(w.n, PANEL);
    for (int64_t m0 = 0; m0 < m; m0 += MBLOCK) {
        const int64_t m1 = std::min<int64_t>(m, m0 + MBLOCK);
        const int64_t panel_cost = std::max<int64_t>((m1 - m0 + 3) * PANEL * w.k / 4, 1);
        const int64_t step = std::min(most, ceil_div(std::max<int64_t>(share / panel_cost, 1), grain) * grain);
        for (int64_t p0 = 0; p0 < panels; p0 += step) tasks.push_back({job, m0, m1, p0, std::min<int64_t>(panels, p0 + step)});
    }
}

int64_t cost_of(const LinearJob& job) { return (job.m + 3) * job.w->n * job.w->k / 4; }

// Four tasks a thread: fewer leave one waiting at the end, more break up the streams that memory is read in.
int64_t share_of(int64_t cost) {
    const int64_t threads = Pool::get().threads();
    return threads > 1 ? std::max<int64_t>(cost / (threads * 4), 16384) : INT64_MAX / 2;
}

}  // namespace

int64_t run_linear(LinearJob* jobs, int64_t count) {
    std::vector<QuantRows> quantised;
    if (!quantise_inputs(jobs, count, quantised)) return OUT_OF_MEMORY;
    int64_t cost = 0;
    for (int64_t j = 0; j < count; j++) cost += cost_of(jobs[j]);
    std::vector<LinearTask> tasks;
    for (int64_t j = 0; j < count; j++) {
        const Weight& w = *jobs[j].w;
        // The one-row kernel of the float formats takes four panels at a time.
        cut(j, jobs[j].m, w, share_of(cost), is_integer(w.dtype) ? 1 : 4, INT64_MAX / 8, tasks);
    }
    std::atomic<bool> failed{false};
    parallel((int64_t)tasks.size(), cost, [&](int64_t i) {
        const LinearTask& t = tasks[i];
        float* scratch = (float*)thread_scratch<LinearTask>(LINEAR_SCRATCH * sizeof(float));
        if (!scratch) {
            failed = true;
            return;
        }
        kernels().linear(jobs[t.job], t.m0, t.m1, t.p0, t.p1, scratch);
    });
    return failed ? OUT_OF_MEMORY : 0;
}

namespace {

// silu(gate(x)) * up(x) of some rows: two jobs of one shape, and where their product goes: `activated` [m][width], or
// the rows from `quantised_first` on of `quantised` where the next matrix is integer.
struct GatedJob {
    LinearJob gate, up;
    float* activated;
    const QuantRows* quantised;
    int64_t quantised_first;
};

constexpr int64_t BLOCK_PANELS = KBLOCK / PANEL;  // what is quantised must be whole blocks
constexpr int64_t GATED_PANELS = 8;  // gate and up of one task stay in the second-level cache

void run_gated_task(const LinearJob& gate, const LinearJob& up, const GatedJob& job, const LinearTask& t, float* scratch) {
    const int64_t first = t.p0 * PANEL, width = std::min(gate.w->n, t.p1 * PANEL) - first, rows = t.m1 - t.m0;
    float *both = scratch + LINEAR_SCRATCH, *product = both + MBLOCK * GATED_PANELS * PANEL * 2;
    for (const LinearJob* half : {&gate, &up}) {
        LinearJob part = *half;
        // The kernel writes element (m, n) to y + m * ldy + n.
        part.y = both + (half == &up ? width : 0) - t.m0 * 2 * width - first;
        part.ldy = 2 * width;
        kernels().linear(part, t.m0, t.m1, t.p0, t.p1, scratch);
    }
    if (!job.quantised) {
        kernels().silu_mul(both, 2 * width, width, job.activated + t.m0 * gate.w->n + first, gate.w->n, nullptr, 0, rows);
        return;
    }
    const QuantRows& q = *job.quantised;
    const int64_t place = first / KBLOCK * q.rows + job.quantised_first + t.m0;
    const QuantRows here = {q.codes + place * KBLOCK, q.scales + place, q.sums + place * (KBLOCK / 32), q.rows};
    kernels().silu_mul(both, 2 * width, width, product, width, &here, 0, rows);
}

int64_t run_gated(const std::vector<GatedJob>& jobs) {
    std::vector<LinearJob> halves;
    for (const GatedJob& job : jobs) halves.insert(halves.end(), {job.gate, job.up});
    std::vector<QuantRows> quantised;
    if (!quantise_inputs(halves.data(), halves.size(), quantised)) return OUT_OF_MEMORY;
    int64_t cost = 0;
    for (const LinearJob& half : halves) cost += cost_of(half);
    std::vector<LinearTask> tasks;
    for (size_t j = 0; j < jobs.size(); j++) cut(j, jobs[j].gate.m, *jobs[j].gate.w, share_of(cost) / 2, BLOCK_PANELS, GATED_PANELS, tasks);
    std::atomic<bool> failed{false};
    parallel((int64_t)tasks.size(), cost, [&](int64_t i) {
        const LinearTask& t = tasks[i];
        float* scratch = (float*)thread_scratch<GatedJob>((LINEAR_SCRATCH + MBLOCK * GATED_PANELS * PANEL * 3) * sizeof(float));
        if (!scratch) {
            failed = true;
            return;
        }
        run_gated_task(halves[2 * t.job], halves[2 * t.job + 1], jobs[t.job], t, scratch);
    });
    return failed ? OUT_OF_MEMORY : 0;
}

// One gated MLP's, or all routed ones', rows between their matrices.
struct Hidden {
    float* activated;     // [rows][width]
    QuantRows quantised;  // instead, where the next matrix is integer

    static size_t bytes(int64_t rows, int64_t width) {
        return (rows * width * sizeof(float) + 63) / 64 * 64 + quantised_bytes(rows, width);
    }
    static Hidden in(char* memory, int64_t rows, int64_t width) {
        return {(float*)memory, quantised_in(memory + (rows * width * sizeof(float) + 63) / 64 * 64, rows, width)};
    }
    GatedJob job(const LinearJob& gate, const Weight* up, const Weight* down, int64_t first) const {
        LinearJob other = gate;
        other.w = up;
        const bool integer = is_integer(down->dtype);
        return {gate, other, activated + first * gate.w->n, integer ? &quantised : nullptr, first};
    }
    LinearJob down(const Weight* w, int64_t first, int64_t m, float* y) const {
        const bool integer = is_integer(w->dtype);
        return {activated + first * w->k, nullptr, w->k, m, w, nullptr, y, w->n, integer ? &quantised : nullptr, first};
    }
};

}  // namespace

int64_t run_experts(const ExpertArgs& a) {
    const bool shared = a.shared_gate;
    const int64_t pairs = a.tokens * a.topk, dim = shared ? a.shared_gate->k : a.gate->k;
    // Counting sort of (token, choice) pairs by expert.
    std::vector<int64_t> start(a.experts + 1, 0), token_of(pairs), row_of(pairs);
    for (int64_t i = 0; i < pairs; i++) start[a.ids[i] + 1]++;
    for (int64_t e = 0; e < a.experts; e++) start[e + 1] += start[e];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < pairs; i++) {
        row_of[i] = next[a.ids[i]]++;
        token_of[row_of[i]] = i / a.topk;
    }
    const int64_t width = pairs ? a.down->k : 0, shared_width = shared ? a.shared_down->k : 0;
    const size_t routed_bytes = Hidden::bytes(pairs, width), shared_bytes = Hidden::bytes(a.tokens, shared_width);
    const size_t rows_bytes = pairs * dim * sizeof(float), own_bytes = pairs && shared ? a.tokens * dim * sizeof(float) : 0;
    char* memory = (char*)thread_scratch<Hidden>(routed_bytes + shared_bytes + rows_bytes + own_bytes + 64);
    if (!memory) return OUT_OF_MEMORY;
    Hidden routed = Hidden::in(memory, pairs, width), own = Hidden::in(memory + routed_bytes, a.tokens, shared_width);
    float *rows = (float*)(memory + routed_bytes + shared_bytes), *own_rows = own_bytes ? rows + pairs * dim : a.y;

    std::vector<GatedJob> gated;
    std::vector<LinearJob> down;
    for (int64_t e = 0; pairs && e < a.experts; e++)
        if (const int64_t m = start[e + 1] - start[e]) {
            const int64_t first = start[e];
            const LinearJob gate = {a.x, token_of.data() + first, a.ldx, m, a.gate + e, nullptr, nullptr, 0, nullptr, 0};
            gated.push_back(routed.job(gate, a.up + e, a.down + e, first));
            down.push_back(routed.down(a.down + e, first, m, rows + first * dim));
        }
    if (shared) {
        const LinearJob gate = {a.x, nullptr, a.ldx, a.tokens, a.shared_gate, nullptr, nullptr, 0,
                                is_integer(a.shared_gate->dtype) ? a.quantised : nullptr, 0};
        gated.push_back(own.job(gate, a.shared_up, a.shared_down, 0));
        down.push_back(own.down(a.shared_down, 0, a.tokens, own_rows));
    }
    if (const int64_t status = run_gated(gated)) return status;
    if (const int64_t status = run_linear(down.data(), down.size())) return status;
    if (pairs)
        rows_parallel(a.tokens, pairs * dim, [&](int64_t r0, int64_t r1) {
            kernels().combine(rows, row_of.data(), a.weights, a.topk, dim, a.y, r0, r1);
            if (shared)
                for (int64_t i = r0 * dim; i < r1 * dim; i++) a.y[i] = a.y[i] + own_rows[i];
        });
    return 0;
}

int64_t check_attention(const AttentionArgs& a, int64_t sequences, int64_t slots) {
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
    }
    return 0;
}

// Whole tiles of keys, from the first on, that two tokens' sequences hold in the same blocks.
static int64_t common_keys(const AttentionArgs& a, int64_t t, int64_t u) {
    const int32_t *first = a.block_tables + a.seq[t] * a.max_blocks, *second = a.block_tables + a.seq[u] * a.max_blocks;
    const int64_t keys = std::min(a.positions[t], a.positions[u]) + 1;
    int64_t blocks = 0;
    while ((blocks + 1) * a.block_size <= keys && first[blocks] == second[blocks]) blocks++;
    return blocks * a.block_size / KEYS * KEYS;
}

void run_attention(const AttentionArgs& a) {
    int64_t keys = 0;
    for (int64_t t = 0; t < a.tokens; t++) keys += a.positions[t] + 1;
    const int64_t group = a.q_heads / a.kv_heads, cost = keys * a.q_heads * (a.dk + a.dv);
    const int64_t threads = Pool::get().threads();
    // Heads of one task: the whole group where it fits, less where there would be too few tasks to go round.
    int64_t heads = std::min<int64_t>(group, QROWS);
    if (a.tokens * a.kv_heads < threads && cost > 300000) heads = std::min(heads, ceil_div(group, threads));
    const int64_t width = std::max<int64_t>(1, QROWS / heads);
    struct Tile {
        int64_t t0, t1, shared, kvh, h0, h1;
    };
    std::vector<Tile> tiles;
    for (int64_t t0 = 0; t0 < a.tokens;) {
        int64_t t1 = t0 + 1, shared = INT64_MAX;
        for (; t1 < a.tokens && t1 - t0 < width; t1++) {
            if (a.seq[t1] == a.seq[t0]) continue;
            // Sequences with a common beginning are computed together: its keys are read once for all.
            const int64_t common = std::min(shared, common_keys(a, t0, t1));
            if (common < 2 * KEYS) break;
            shared = common;
        }
        for (int64_t kvh = 0; kvh < a.kv_heads; kvh++)
            for (int64_t h = 0; h < group; h += heads)
                tiles.push_back({t0, t1, shared, kvh, kvh * group + h, kvh * group + std::min(group, h + heads)});
        t0 = t1;
    }
    parallel((int64_t)tiles.size(), cost, [&](int64_t i) {
        // Longest first: later tokens of a prompt see more keys.
        const Tile& t = tiles[tiles.size() - 1 - i];
        kernels().attention(a, t.t0, t.t1, t.shared, t.kvh, t.h0, t.h1);
    });
}

namespace {

// Scores of one token, in place: softmax or sigmoid was taken before.
void route_token(const float* scores, const RouteArgs& a, float* chosen, int64_t* ids, float* weights) {
    const int64_t group_size = a.experts / a.groups;
    for (int64_t e = 0; e < a.experts; e++) chosen[e] = a.bias ? scores[e] + a.bias[e] : scores[e];
    if (a.top_groups < a.groups) {
        // The best groups by the sum of their best scores stay open; equal ones in order.
        std::vector<float> total(a.groups);
        std::vector<bool> open(a.groups, false);
        for (int64_t g = 0; g < a.groups; g++) {
            const float* s = chosen + g * group_size;
            float first = -INFINITY, second = -INFINITY;
            for (int64_t i = 0; i < group_size; i++) {
                if (s[i] > first) second = first, first = s[i];
                else if (s[i] > second) second = s[i];
            }
            total[g] = a.group_best == 2 ? first + second : first;
        }
        for (int64_t n = 0; n < a.top_groups; n++) {
            int64_t best = -1;
            for (int64_t g = 0; g < a.groups; g++)
                if (!open[g] && (best < 0 || total[g] > total[best])) best = g;
            open[best] = true;
        }
        for (int64_t e = 0; e < a.experts; e++)
            if (!open[e / group_size]) chosen[e] = a.closed;
    }
    float sum = 0.0f;
    for (int64_t n = 0; n < a.topk; n++) {
        int64_t best = -1;
        for (int64_t e = 0; e < a.experts; e++) {
            bool taken = false;
            for (int64_t i = 0; i < n; i++) taken = taken || ids[i] == e;
            if (!taken && (best < 0 || chosen[e] > chosen[best])) best = e;
        }
        ids[n] = best;
        weights[n] = scores[best];
        sum += scores[best];
    }
    for (int64_t n = 0; n < a.topk; n++) {
        if (a.normalise) weights[n] /= sum + 1e-20f;
        weights[n] *= a.scale;
    }
}

}  // namespace

void run_route(float* logits, int64_t tokens, const RouteArgs& a, int64_t* ids, float* weights) {
    rows_parallel(tokens, tokens * a.experts * 8, [&](int64_t t0, int64_t t1) {
        if (a.sigmoid) kernels().sigmoid(logits, logits, t0 * a.experts, t1 * a.experts);
        else kernels().softmax(logits, a.experts, a.experts, logits, t0, t1);
        std::vector<float> chosen(a.experts);
        for (int64_t t = t0; t < t1; t++)
            route_token(logits + t * a.experts, a, chosen.data(), ids + t * a.topk, weights + t * a.topk);
    });
}
