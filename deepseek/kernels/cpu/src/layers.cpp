// The decoder stack of one step in one call: norms, attention and MLPs of every layer, with no way back to Python between.
//
// Each step is the single operation of the same name (library.cpp), fused where rows are at hand anyway: a norm quantises
// what it writes for integer weights, the query, key and value projections are one pool of tasks, rotation writes keys and
// values straight to their slots. No fusion changes an operation's order, so the bits are those of calling them one by one.
#include <cstring>

#include "work.h"

namespace {

struct Projection {
    const Weight* w;  // null: none
    const float* bias;
};

// Mirrors kernels/cpu/stack.py, field for field, all of 8 bytes.
struct Layer {
    const float *input_norm, *post_norm;
    double eps, scale;
    int64_t heads, kv_heads, head_dim;  // grouped-query: of keys and values; latent: nope + rope of queries
    // Latent attention (rank > 0): the compressed vector's width, the rotated part's, the values'.
    int64_t rank, rope_dim, value_dim;
    double latent_eps;
    Projection q, k, v, o, q_a, kv_a;
    const float *q_a_norm, *kv_a_norm;
    const Weight *query_heads, *value_heads;
    // Experts, none where `experts` is 0; the shared MLP, which is the layer's only one then.
    int64_t experts, topk, groups, top_groups, group_best, sigmoid, normalise;
    double routed_scale, closed;
    const float* correction;
    const Weight *router, *gate, *up, *down, *shared_gate, *shared_up, *shared_down;
};

struct LayerPool {  // strides in floats
    float* k;
    int64_t k_slot, k_head;
    float* v;
    int64_t v_slot, v_head, slots;
};

struct Step {
    int64_t tokens, dim;
    const int64_t *positions, *slots;
    const float *cos, *sin;
    int64_t interleaved;
    const int32_t *block_tables, *seq;
    int64_t max_blocks, block_size;
};

// Room for one layer's intermediate results, used again by the next.
class Arena {
  public:
    explicit Arena(char* memory) : at_(memory) {}
    float* floats(int64_t count) { return (float*)take(count * sizeof(float)); }
    void* take(size_t bytes) {
        void* here = at_;
        at_ += (bytes + 63) / 64 * 64;
        return here;
    }

  private:
    char* at_;
};

bool integer(const Projection& p) { return p.w && is_integer(p.w->dtype); }

int64_t arena_bytes(const Layer& l, int64_t tokens, int64_t dim) {
    const int64_t q = l.heads * l.head_dim, rank = l.rank + l.rope_dim;
    int64_t floats = q;
    if (l.rank) {
        const int64_t q_a = l.q_a.w ? l.q_a.w->n : 0;
        floats += 2 * q_a + 2 * rank + l.heads * (rank + l.rank + l.value_dim);
        floats += quantised_bytes(1, q_a) / sizeof(float) + 16;
    } else {
        floats += 2 * l.kv_heads * l.head_dim + q;
    }
    floats += l.experts + l.topk * 3 + quantised_bytes(1, dim) / sizeof(float);
    return tokens * floats * sizeof(float) + 64 * 32;
}

void norm(const Step& s, const float* x, const float* residual, const float* weight, double eps, float* y, float* sum,
          const QuantRows* quantised) {
    rows_parallel(s.tokens, s.tokens * s.dim * 4, [&](int64_t a, int64_t b) {
        kernels().rms_norm(x, s.dim, residual, s.dim, weight, (float)eps, s.dim, y, sum, quantised, a, b);
    });
}

LinearJob job(const Projection& p, const float* x, int64_t ldx, int64_t m, float* y, const QuantRows* quantised) {
    return {x, nullptr, ldx, m, p.w, p.bias, y, p.w->n, is_integer(p.w->dtype) ? quantised : nullptr, 0};
}

// out [tokens, heads * head_dim] of grouped-query attention.
int64_t attend_grouped(const Layer& l, const Step& s, const LayerPool& pool, const float* x, const QuantRows* quantised,
                       Arena arena, float** out, int64_t* width) {
    const int64_t d = l.head_dim, q_width = l.heads * d, kv_width = l.kv_heads * d;
    float *q = arena.floats(s.tokens * q_width), *k = arena.floats(s.tokens * kv_width), *v = arena.floats(s.tokens * kv_width);
    LinearJob jobs[] = {job(l.q, x, s.dim, s.tokens, q, quantised), job(l.k, x, s.dim, s.tokens, k, quantised),
                        job(l.v, x, s.dim, s.tokens, v, quantised)};
    if (const int64_t status = run_linear(jobs, 3)) return status;
    rows_parallel(s.tokens, s.tokens * (q_width + 2 * kv_width), [&](int64_t t0, int64_t t1) {
        kernels().rope({q, s.tokens, l.heads, d, q_width, d, s.positions, s.cos, s.sin, s.interleaved, q, q_width, d}, t0, t1);
        kernels().rope({k, s.tokens, l.kv_heads, d, kv_width, d, s.positions, s.cos, s.sin, s.interleaved, k, kv_width, d}, t0, t1);
        for (int64_t t = t0; t < t1; t++) {
            if (s.slots[t] < 0) continue;
            for (int64_t h = 0; h < l.kv_heads; h++) {
                memcpy(pool.k + s.slots[t] * pool.k_slot + h * pool.k_head, k + t * kv_width + h * d, d * sizeof(float));
                memcpy(pool.v + s.slots[t] * pool.v_slot + h * pool.v_head, v + t * kv_width + h * d, d * sizeof(float));
            }
        }
    });
    *out = arena.floats(s.tokens * q_width);
    *width = q_width;
    run_attention({q, pool.k, pool.v, s.tokens, l.heads, l.kv_heads, d, d, q_width, d, pool.k_slot, pool.k_head, pool.v_slot,
                   pool.v_head, s.positions, s.block_tables, s.max_blocks, s.block_size, s.seq, (float)l.scale, *out});
    return 0;
}

// out [tokens, heads * value_dim] of latent attention, in the absorbed form.
int64_t attend_latent(const Layer& l, const Step& s, const LayerPool& pool, const float* x, const QuantRows* quantised,
                      Arena arena, float** out, int64_t* width) {
    const int64_t rank = l.rank, r = l.rope_dim, cached = rank + r, nope = l.head_dim - r, q_width = l.heads * l.head_dim;
    const int64_t q_rank = l.q_a.w ? l.q_a.w->n : 0;
    float *q = arena.floats(s.tokens * q_width), *kv = arena.floats(s.tokens * cached), *c = arena.floats(s.tokens * rank);
    float *compressed = arena.floats(s.tokens * q_rank), *normed = arena.floats(s.tokens * q_rank);
    LinearJob jobs[] = {job(l.kv_a, x, s.dim, s.tokens, kv, quantised),
                        q_rank ? job(l.q_a, x, s.dim, s.tokens, compressed, quantised) : job(l.q, x, s.dim, s.tokens, q, quantised)};
    if (const int64_t status = run_linear(jobs, 2)) return status;
    if (q_rank) {
        const QuantRows rows = quantised_in(arena.take(quantised_bytes(s.tokens, q_rank)), s.tokens, q_rank);
        const QuantRows* wanted = integer(l.q) ? &rows : nullptr;
        rows_parallel(s.tokens, s.tokens * q_rank * 4, [&](int64_t a, int64_t b) {
            kernels().rms_norm(compressed, q_rank, nullptr, 0, l.q_a_norm, (float)l.latent_eps, q_rank, normed, nullptr, wanted, a, b);
        });
        LinearJob up = job(l.q, normed, q_rank, s.tokens, q, wanted);
        if (const int64_t status = run_linear(&up, 1)) return status;
    }
    float* query = arena.floats(s.tokens * l.heads * cached);
    rows_parallel(s.tokens, s.tokens * (cached * 4 + l.heads * r), [&](int64_t t0, int64_t t1) {
        kernels().rms_norm(kv, cached, nullptr, 0, l.kv_a_norm, (float)l.latent_eps, rank, c, nullptr, nullptr, t0, t1);
        kernels().rope({kv + rank, s.tokens, 1, r, cached, cached, s.positions, s.cos, s.sin, s.interleaved, kv + rank, cached, cached},
                       t0, t1);
        kernels().rope({q + nope, s.tokens, l.heads, r, q_width, l.head_dim, s.positions, s.cos, s.sin, s.interleaved, query + rank,
                        l.heads * cached, cached}, t0, t1);
        for (int64_t t = t0; t < t1; t++) {
            if (s.slots[t] < 0) continue;
            float* slot = pool.k + s.slots[t] * pool.k_slot;
            memcpy(slot, c + t * rank, rank * sizeof(float));
            memcpy(slot + rank, kv + t * cached + rank, r * sizeof(float));
        }
    });
    std::vector<LinearJob> heads;
    for (int64_t h = 0; h < l.heads; h++)
        heads.push_back({q + h * l.head_dim, nullptr, q_width, s.tokens, l.query_heads + h, nullptr, query + h * cached,
                         l.heads * cached, nullptr, 0});
    if (const int64_t status = run_linear(heads.data(), l.heads)) return status;
    float* mixed = arena.floats(s.tokens * l.heads * rank);
    run_attention({query, pool.k, pool.v, s.tokens, l.heads, 1, cached, rank, l.heads * cached, cached, pool.k_slot, pool.k_head,
                   pool.v_slot, pool.v_head, s.positions, s.block_tables, s.max_blocks, s.block_size, s.seq, (float)l.scale, mixed});
    *width = l.heads * l.value_dim;
    *out = arena.floats(s.tokens * *width);
    heads.clear();
    for (int64_t h = 0; h < l.heads; h++)
        heads.push_back({mixed + h * rank, nullptr, l.heads * rank, s.tokens, l.value_heads + h, nullptr, *out + h * l.value_dim,
                         *width, nullptr, 0});
    return run_linear(heads.data(), l.heads);
}

int64_t feed_forward(const Layer& l, const Step& s, const float* x, const QuantRows* quantised, Arena arena, float* y) {
    ExpertArgs args = {x, s.dim, s.tokens, 0, nullptr, nullptr, 0, l.gate, l.up, l.down, l.shared_gate, l.shared_up, l.shared_down,
                       quantised, y};
    if (l.experts) {
        float* scores = arena.floats(s.tokens * l.experts);
        LinearJob router = job({l.router, nullptr}, x, s.dim, s.tokens, scores, quantised);
        if (const int64_t status = run_linear(&router, 1)) return status;
        int64_t* ids = (int64_t*)arena.take(s.tokens * l.topk * sizeof(int64_t));
        float* weights = arena.floats(s.tokens * l.topk);
        run_route(scores, s.tokens, {l.experts, l.topk, l.groups, l.top_groups, l.group_best, l.sigmoid, l.normalise,
                                     (float)l.routed_scale, (float)l.closed, l.correction}, ids, weights);
        args.topk = l.topk;
        args.ids = ids;
        args.weights = weights;
        args.experts = l.experts;
    }
    return run_experts(args);
}

}  // namespace

extern "C" {

int64_t ds_layer_bytes() { return sizeof(Layer); }

// hidden [tokens, dim] through `count` layers and the last norm, to out [tokens, dim]. Returns 0, OUT_OF_MEMORY, or 1 + the
// first token whose position, slot, sequence or block table points outside; then nothing was computed.
int64_t ds_layers(const Layer* layers, int64_t count, const LayerPool* pools, const float* last_norm, double last_eps,
                  const float* hidden, int64_t tokens, int64_t dim, const int64_t* positions, const float* cos, const float* sin,
                  int64_t table_rows, int64_t interleaved, const int64_t* slots, const int32_t* block_tables, int64_t sequences,
                  int64_t max_blocks, int64_t block_size, const int32_t* seq, float* out) {
    const Step s = {tokens, dim, positions, slots, cos, sin, interleaved, block_tables, seq, max_blocks, block_size};
    AttentionArgs check = {};
    check.tokens = tokens;
    check.positions = positions;
    check.block_tables = block_tables;
    check.max_blocks = max_blocks;
    check.block_size = block_size;
    check.seq = seq;
    for (int64_t t = 0; t < tokens; t++)
        if (positions[t] < 0 || positions[t] >= table_rows || slots[t] >= pools[0].slots) return 1 + t;
    if (const int64_t bad = check_attention(check, sequences, pools[0].slots)) return bad;

    int64_t bytes = 0;
    for (int64_t i = 0; i < count; i++) bytes = std::max(bytes, arena_bytes(layers[i], tokens, dim));
    const int64_t row_bytes = tokens * dim * sizeof(float);
    char* memory = (char*)thread_scratch<Layer>(bytes + 4 * (row_bytes + 64));
    if (!memory) return OUT_OF_MEMORY;
    Arena base(memory);
    // `residual` is what has been summed so far, `branch` what the last block adds to it; null at the very beginning.
    float *normed = base.floats(tokens * dim), *branch = base.floats(tokens * dim), *sums = base.floats(tokens * dim);
    const float* residual = hidden;
    for (int64_t i = 0; i < count; i++) {
        const Layer& l = layers[i];
        Arena arena = base;
        const QuantRows rows = quantised_in(arena.take(quantised_bytes(tokens, dim)), tokens, dim);
        const Projection first = l.rank ? l.kv_a : l.q;
        if (i == 0) {
            norm(s, hidden, nullptr, l.input_norm, l.eps, normed, nullptr, integer(first) ? &rows : nullptr);
        } else {
            norm(s, branch, residual, l.input_norm, l.eps, normed, sums, integer(first) ? &rows : nullptr);
            residual = sums;
        }
        float* attended;
        int64_t width;
        const auto attend = l.rank ? attend_latent : attend_grouped;
        if (const int64_t status = attend(l, s, pools[i], normed, integer(first) ? &rows : nullptr, arena, &attended, &width))
            return status;
        LinearJob o = job(l.o, attended, width, tokens, branch, nullptr);
        if (const int64_t status = run_linear(&o, 1)) return status;
        const Weight* next = l.shared_gate ? l.shared_gate : l.gate;
        const QuantRows* wanted = is_integer(next->dtype) ? &rows : nullptr;
        norm(s, branch, residual, l.post_norm, l.eps, normed, sums, wanted);
        residual = sums;
        if (const int64_t status = feed_forward(l, s, normed, wanted, arena, branch)) return status;
    }
    rows_parallel(tokens, tokens * dim * 4, [&](int64_t a, int64_t b) {
        kernels().rms_norm(branch, dim, residual, dim, last_norm, (float)last_eps, dim, out, normed, nullptr, a, b);
    });
    return 0;
}

// A router's choice by itself: logits [tokens, experts] are overwritten with scores.
void ds_route(float* logits, int64_t tokens, int64_t experts, int64_t topk, int64_t groups, int64_t top_groups, int64_t group_best,
              int64_t sigmoid, int64_t normalise, double scale, double closed, const float* bias, int64_t* ids, float* weights) {
    run_route(logits, tokens, {experts, topk, groups, top_groups, group_best, sigmoid, normalise, (float)scale, (float)closed, bias},
              ids, weights);
}

}  // extern "C"
