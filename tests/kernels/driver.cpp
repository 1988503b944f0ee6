// Runs the kernels through their C interface on inputs that need nothing but integer arithmetic to make, and writes all
// results to standard output: the same program, built for two kinds of processor, shows whether they compute the same bits.
//
//     driver ISA    exit status 0, 3 where ISA cannot be used here, 1 with a line on standard error where a check failed
//
// Checked on the spot: a row has the same bits alone and among others, products of the largest codes are exact, and a row with
// something not finite in it gives NaN (whose sign processors do not agree on) and spoils no neighbour.
// Written: sections of "name count\n" and `count` floats.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels.h"

extern "C" {
int64_t ds_set_isa(const char*);
void ds_set_threads(int64_t);
int64_t ds_pack(const void*, int64_t, void*, int64_t, int64_t, int64_t);
int64_t ds_panel_bytes(int64_t, int64_t);
void ds_pack_integer(const int8_t*, const uint16_t*, void*, int64_t, int64_t, int64_t);
int64_t ds_linear(const float*, int64_t, int64_t, const Weight*, const float*, float*);
int64_t ds_expert_ffn(const float*, int64_t, int64_t, int64_t, const int64_t*, const float*, int64_t, const Weight*, const Weight*,
                      const Weight*, float*);
void ds_rms_norm(const float*, int64_t, const float*, int64_t, const float*, float, int64_t, int64_t, float*, float*);
void ds_silu_mul(const float*, int64_t, int64_t, int64_t, float*);
void ds_sigmoid(const float*, int64_t, float*);
void ds_softmax(const float*, int64_t, int64_t, int64_t, float*);
int64_t ds_rope(const float*, int64_t, int64_t, int64_t, int64_t, int64_t, const int64_t*, const float*, const float*, int64_t,
                int64_t, float*, int64_t, int64_t);
int64_t ds_attention(const float*, const float*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                     int64_t, int64_t, int64_t, int64_t, int64_t, const int64_t*, const int32_t*, int64_t, int64_t, int64_t,
                     const int32_t*, float, float*);
}

namespace {

typedef std::vector<float> Floats;

uint32_t state = 1;
uint32_t random_bits() {
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}
int random_int(int low, int high) { return low + (int)(random_bits() % (uint32_t)(high - low + 1)); }
float random_float() { return (float)random_int(-8388607, 8388607) / 4194304.0f; }  // exact, within 2
Floats random_floats(int64_t count) {
    Floats x(count);
    for (float& value : x) value = random_float();
    return x;
}

void check(bool condition, const char* what, const char* where) {
    if (condition) return;
    fprintf(stderr, "%s: %s\n", where, what);
    exit(1);
}

void write(const char* name, const Floats& values) {
    printf("%s %zu\n", name, values.size());
    fwrite(values.data(), sizeof(float), values.size(), stdout);
}

// A weight and the memory behind it.
struct Packed {
    std::vector<char> data;
    Floats scales;
    Weight w;
    const Weight* operator&() {
        w.data = data.data();
        w.scales = scales.empty() ? nullptr : scales.data();
        return &w;
    }
};

Packed pack_floats(int64_t n, int64_t k, int64_t dtype) {
    const int64_t bytes = dtype == F32 ? 4 : dtype == FP8 ? 1 : 2, panels = (n + PANEL - 1) / PANEL;
    std::vector<char> rows(n * k * bytes);
    for (int64_t i = 0; i < n * k; i++) {
        const float value = random_float();
        uint32_t bits;
        memcpy(&bits, &value, 4);
        if (dtype == BF16) bits >>= 16;
        if (dtype == F16_) bits = random_bits() & 0xBFFF;  // below 2, with subnormals
        if (dtype == FP8) bits = (random_bits() & 1) << 7 | random_bits() % 0x7F;
        memcpy(&rows[i * bytes], &bits, bytes);
    }
    Packed p = {std::vector<char>(panels * PANEL * k * bytes), {}, {nullptr, nullptr, n, k, dtype}};
    if (dtype == FP8) p.scales = random_floats((n + 127) / 128 * ((k + 127) / 128));
    check(ds_pack(rows.data(), k, p.data.data(), n, k, dtype) == 0, "cannot be packed", "pack");
    return p;
}

Packed pack_codes(int64_t n, int64_t k, int64_t bits, bool extremes) {
    const int64_t block = bits == 8 ? 128 : 32, columns = (k + block - 1) / block;
    const int low = bits == 8 ? -127 : -8, high = bits == 8 ? 127 : 7;
    std::vector<int8_t> codes(n * k);
    for (int64_t i = 0; i < n * k; i++) codes[i] = (int8_t)(extremes ? (i / k % 2 ? high : low) : random_int(low, high));
    std::vector<uint16_t> scales(n * columns);
    for (uint16_t& scale : scales) scale = (uint16_t)(extremes ? 0x3F80 : 0x3C00 + random_int(0, 255));  // 1, or about 2^-7
    Packed p = {std::vector<char>((n + PANEL - 1) / PANEL * ds_panel_bytes(bits, k)), {}, {nullptr, nullptr, n, k, bits == 8 ? INT8_ : INT4_}};
    ds_pack_integer(codes.data(), scales.data(), p.data.data(), n, k, bits);
    return p;
}

Packed pack(int64_t n, int64_t k, int64_t dtype) {
    return is_integer(dtype) ? pack_codes(n, k, dtype == INT8_ ? 8 : 4, false) : pack_floats(n, k, dtype);
}

void products(const char* name, int64_t dtype) {
    const int64_t shapes[][3] = {{43, 70, 300}, {14, 33, 129}, {7, 200, 31}};  // rows, outputs, inputs
    for (const auto& [m, n, k] : shapes) {
        Packed w = pack(n, k, dtype);
        const Floats x = random_floats(m * k), bias = random_floats(n);
        Floats y(m * n), part(m * n);
        ds_linear(x.data(), k, m, &w, bias.data(), y.data());
        write(name, y);
        for (int64_t rows = 1; rows < m; rows++) {  // the last `rows` rows by themselves
            ds_linear(x.data() + (m - rows) * k, k, rows, &w, bias.data(), part.data());
            check(!memcmp(part.data(), y.data() + (m - rows) * n, rows * n * sizeof(float)), "a row depends on the others", name);
        }
    }
}

void largest_codes(const char* name, int64_t bits) {
    const int64_t m = 13, n = 40, k = 512;
    Packed w = pack_codes(n, k, bits, true);
    for (const float value : {127.0f, -127.0f}) {
        const Floats x(m * k, value);
        Floats y(m * n);
        ds_linear(x.data(), k, m, &w, nullptr, y.data());
        const float low = bits == 8 ? -127.0f : -8.0f, high = bits == 8 ? 127.0f : 7.0f;
        for (int64_t i = 0; i < m * n; i++) check(y[i] == (i % n % 2 ? high : low) * value * k, "not exact", name);
    }
}

void experts(const char* name, int64_t dtype) {
    const int64_t tokens = 17, topk = 2, count = 4, dim = 72, width = 40;
    std::vector<Packed> gate, up, down;
    std::vector<Weight> gates, ups, downs;
    for (int64_t e = 0; e < count; e++) {
        gate.push_back(pack(width, dim, dtype));
        up.push_back(pack(width, dim, dtype));
        down.push_back(pack(dim, width, dtype));
    }
    for (int64_t e = 0; e < count; e++) gates.push_back(*&gate[e]), ups.push_back(*&up[e]), downs.push_back(*&down[e]);
    const Floats x = random_floats(tokens * dim), weights = random_floats(tokens * topk);
    std::vector<int64_t> ids(tokens * topk);
    for (int64_t i = 0; i < tokens * topk; i++) ids[i] = i % topk * 2 + random_int(0, 1);
    Floats y(tokens * dim), part(dim);
    ds_expert_ffn(x.data(), dim, tokens, topk, ids.data(), weights.data(), count, gates.data(), ups.data(), downs.data(), y.data());
    write(name, y);
    for (int64_t t = 0; t < tokens; t++) {
        ds_expert_ffn(x.data() + t * dim, dim, 1, topk, ids.data() + t * topk, weights.data() + t * topk, count, gates.data(),
                      ups.data(), downs.data(), part.data());
        check(!memcmp(part.data(), y.data() + t * dim, dim * sizeof(float)), "a token depends on the others", name);
    }
}

void attention(const char* name, int64_t kv_heads, int64_t group, int64_t dk, int64_t dv) {
    const int64_t tokens = 30, sequences = 2, block = 16, blocks = 10, heads = kv_heads * group;
    const Floats q = random_floats(tokens * heads * dk), k = random_floats(sequences * blocks * block * kv_heads * dk);
    const Floats v = random_floats(sequences * blocks * block * kv_heads * dv);
    std::vector<int64_t> positions(tokens);
    std::vector<int32_t> tables(sequences * blocks), sequence(tokens);
    for (int64_t i = 0; i < sequences * blocks; i++) tables[i] = (int32_t)((i * 7 + 3) % (sequences * blocks));
    for (int64_t t = 0; t < tokens; t++) {
        sequence[t] = t >= 20;
        positions[t] = t < 20 ? 110 + t : t - 20;  // across tiles of keys, and from the start
    }
    const auto run = [&](int64_t t, int64_t count, float* out) {
        check(!ds_attention(q.data() + t * heads * dk, k.data(), v.data(), count, heads, kv_heads, dk, dv, heads * dk, dk, kv_heads * dk,
                            dk, kv_heads * dv, dv, sequences * blocks * block, positions.data() + t, tables.data(), sequences,
                            blocks, block, sequence.data() + t, 0.05f, out),
              "refused", name);
    };
    Floats y(tokens * heads * dv), part(heads * dv);
    run(0, tokens, y.data());
    write(name, y);
    for (int64_t t = 0; t < tokens; t++) {
        run(t, 1, part.data());
        check(!memcmp(part.data(), y.data() + t * heads * dv, heads * dv * sizeof(float)), "a token depends on the others", name);
    }
}

void rows() {
    const int64_t tokens = 9, dim = 83;
    const Floats x = random_floats(tokens * dim), other = random_floats(tokens * dim), weight = random_floats(dim);
    Floats y(tokens * dim), sum(tokens * dim), half(tokens * (dim / 2)), rotated(tokens * 80);
    ds_rms_norm(x.data(), dim, other.data(), dim, weight.data(), 1e-6f, tokens, dim, y.data(), sum.data());
    write("rms_norm", y);
    write("rms_norm sum", sum);
    ds_silu_mul(x.data(), dim, tokens, dim / 2, half.data());
    write("silu_mul", half);
    ds_softmax(x.data(), dim, tokens, dim, y.data());
    write("softmax", y);
    Floats wide;
    for (int i = -2000; i <= 2000; i++) wide.push_back((float)i / 16.0f);
    wide.insert(wide.end(), {INFINITY, -INFINITY, 1e-40f, -0.0f});
    Floats s(wide.size());
    ds_sigmoid(wide.data(), (int64_t)wide.size(), s.data());
    write("sigmoid", s);
    std::vector<int64_t> positions(tokens);
    for (int64_t t = 0; t < tokens; t++) positions[t] = (t * 5) % tokens;
    for (const int64_t interleaved : {0, 1}) {
        ds_rope(x.data(), tokens, 2, 40, dim, 40, positions.data(), other.data(), other.data() + tokens * 20, tokens, interleaved,
                rotated.data(), 80, 40);
        write("rope", rotated);
    }
}

void one_bad_row() {
    const int64_t m = 9, n = 40, k = 300, heads = 2, d = 40;
    const auto bad_only = [&](const Floats& clean, const Floats& y, int64_t width, const char* name) {
        for (int64_t i = 0; i < m * width; i++)
            check(i / width == 4 ? std::isnan(y[i]) : y[i] == clean[i], "a bad row spoils another, or is not NaN", name);
    };
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
        const Floats x = random_floats(m * k);
        Floats spoilt = x;
        spoilt[4 * k + 200] = bad;
        for (const int64_t dtype : {INT8_, INT4_}) {
            Packed w = pack(n, k, dtype);
            Floats clean(m * n), y(m * n);
            ds_linear(x.data(), k, m, &w, nullptr, clean.data());
            ds_linear(spoilt.data(), k, m, &w, nullptr, y.data());
            bad_only(clean, y, n, "bad row of an integer product");
        }
    }
    Floats x = random_floats(m * heads * d), clean(m * d * heads), y(m * d * heads);
    const Floats keys = random_floats(160 * d);
    std::vector<int64_t> positions(m, 130);
    std::vector<int32_t> table(10), sequence(m, 0);
    for (int i = 0; i < 10; i++) table[i] = i;
    const auto attend = [&](Floats& out) {
        ds_attention(x.data(), keys.data(), keys.data(), m, heads, 1, d, d, heads * d, d, d, d, d, d, 160, positions.data(), table.data(), 1,
                     10, 16, sequence.data(), 0.1f, out.data());
    };
    attend(clean);
    for (int64_t h = 0; h < heads; h++) x[(4 * heads + h) * d + 7] = NAN;
    attend(y);
    bad_only(clean, y, heads * d, "bad query");
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2 || ds_set_isa(arguments[1])) return 3;
    ds_set_threads(2);
    products("linear f32", F32);
    products("linear bf16", BF16);
    products("linear f16", F16_);
    products("linear fp8", FP8);
    products("linear int8", INT8_);
    products("linear int4", INT4_);
    largest_codes("largest int8", 8);
    largest_codes("largest int4", 4);
    experts("experts f32", F32);
    experts("experts int8", INT8_);
    attention("attention narrow", 2, 3, 40, 24);
    attention("attention 128", 1, 4, 128, 128);
    attention("attention wide", 1, 7, 196, 136);
    rows();
    one_bad_row();
    return 0;
}
