// Operations on single rows: norms, activations, softmax, rotary positions, the weighted sum of experts.
// A row's tail runs the same vector code on masked lanes, so an element's result never depends on where it lies.
#pragma once

#include <cmath>

#include "integer.h"
#include "kernels.h"
#include "simd.h"

namespace {

// y = h / sqrt(mean(h^2) + eps) * weight, with h = x, or x + residual (then stored in `sum`). Zhang & Sennrich 2019.
void rms_norm(const float* x0, int64_t ldx, const float* residual, int64_t ldr, const float* weight, float eps,
              int64_t dim, float* y0, float* sum0, const QuantRows* quantised, int64_t t0, int64_t t1) {
    for (int64_t t = t0; t < t1; t++) {
        const float* h = x0 + t * ldx;
        float* y = y0 + t * dim;
        if (residual) {
            const float* r = residual + t * ldr;
            float* sum = sum0 + t * dim;
            for (int64_t d = 0; d < dim; d++) sum[d] = h[d] + r[d];
            h = sum;
        }
        VF acc[4] = {zero(), zero(), zero(), zero()};
        int64_t d = 0;
        for (; d + 4 * W <= dim; d += 4 * W)
            for (int i = 0; i < 4; i++) {
                VF v = load(h + d + i * W);
                acc[i] = fma(v, v, acc[i]);
            }
        for (int i = 0; d < dim; d += W, i++) {
            VF v = dim - d < W ? load_n(h + d, dim - d) : load(h + d);
            acc[i] = fma(v, v, acc[i]);
        }
        const float squares = hsum(add(add(acc[0], acc[1]), add(acc[2], acc[3])));
        const float scale = 1.0f / sqrtf(squares / (float)dim + eps);
        for (int64_t i = 0; i < dim; i++) y[i] = h[i] * scale * weight[i];
        if (quantised) quantise_row(y, dim, *quantised, t);
    }
}

void silu_mul(const float* x, int64_t ldx, int64_t f, float* y, int64_t ldy, const QuantRows* quantised, int64_t t0, int64_t t1) {
    for (int64_t t = t0; t < t1; t++) {
        const float *gate = x + t * ldx, *up = gate + f;
        float* out = y + t * ldy;
        int64_t i = 0;
        for (; i + W <= f; i += W) {
            VF g = load(gate + i);
            store(out + i, mul(mul(g, vsigmoid(g)), load(up + i)));
        }
        if (i < f) {
            VF g = load_n(gate + i, f - i);
            store_n(out + i, mul(mul(g, vsigmoid(g)), load_n(up + i, f - i)), f - i);
        }
        if (quantised) quantise_row(out, f, *quantised, t);
    }
}

void sigmoid(const float* x, float* y, int64_t i0, int64_t i1) {
    for (; i0 + W <= i1; i0 += W) store(y + i0, vsigmoid(load(x + i0)));
    if (i0 < i1) store_n(y + i0, vsigmoid(load_n(x + i0, i1 - i0)), i1 - i0);
}

void softmax(const float* x0, int64_t ldx, int64_t e, float* y0, int64_t t0, int64_t t1) {
    for (int64_t t = t0; t < t1; t++) {
        const float* x = x0 + t * ldx;
        float* y = y0 + t * e;
        float top = x[0];
        for (int64_t i = 1; i < e; i++) top = x[i] > top ? x[i] : top;
        VF total = zero();
        int64_t i = 0;
        for (; i + W <= e; i += W) {
            VF p = vexp(sub(load(x + i), set1(top)));
            store(y + i, p);
            total = add(total, p);
        }
        if (i < e) {
            float tail[W];
            for (int j = 0; j < W; j++) tail[j] = i + j < e ? x[i + j] : -INFINITY;
            VF p = vexp(sub(load(tail), set1(top)));
            store_n(y + i, p, e - i);
            total = add(total, p);
        }
        const float inverse = 1.0f / hsum(total);
        for (i = 0; i < e; i++) y[i] *= inverse;
    }
}

// y[t] = sum over k, in order, of weights[t, k] * rows[row_of[t, k]].
void combine(const float* rows, const int64_t* row_of, const float* weights, int64_t topk, int64_t dim, float* y,
             int64_t t0, int64_t t1) {
    for (int64_t t = t0; t < t1; t++)
        for (int64_t d = 0; d < dim; d += W) {
            const int64_t n = dim - d < W ? dim - d : W;
            VF acc = zero();
            for (int64_t k = 0; k < topk; k++) {
                VF row = load_n(rows + row_of[t * topk + k] * dim + d, n);
                VF weight = set1(weights[t * topk + k]);
                acc = k == 0 ? mul(weight, row) : fma(weight, row, acc);
            }
            store_n(y + t * dim + d, acc, n);
        }
}

// Products and sums are rounded one by one (no fused operation), so any vectorisation of these loops gives one result.
void rope(const RopeArgs& a, int64_t t0, int64_t t1) {
    const int64_t half = a.dim / 2;
    for (int64_t t = t0; t < t1; t++) {
        const float *cos = a.cos + a.positions[t] * half, *sin = a.sin + a.positions[t] * half;
        for (int64_t h = 0; h < a.heads; h++) {
            const float* x = a.x + t * a.x_token + h * a.x_head;
            float* y = a.y + t * a.y_token + h * a.y_head;
            const int64_t step = a.interleaved ? 2 : 1, other = a.interleaved ? 1 : half;
            for (int64_t i = 0; i < half; i++) {
                const float x1 = x[i * step], x2 = x[i * step + other];
                y[i * step] = x1 * cos[i] - x2 * sin[i];
                y[i * step + other] = x2 * cos[i] + x1 * sin[i];
            }
        }
    }
}

}  // namespace
