// Weights into the kernels' layout and back.
#include <cstring>

#include "work.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

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

// Where the code of output j (of the panel's 32) and input i of a panel lies, and its scale.
inline int64_t code_place(int bits, int64_t j, int64_t i) {
    if (bits == 8) return i / KBLOCK * (KBLOCK / 4 * 128 + 64) + i % KBLOCK / 4 * 128 + j * 4 + i % 4;
    return i / 32 * 576 + i % 16 / 4 * 128 + j * 4 + i % 4;
}
inline int64_t scale_place(int bits, int64_t j, int64_t i, int64_t k) {
    if (bits == 4) return i / 32 * 576 + 512 + j * 2;
    const int64_t block = i / KBLOCK, len = std::min<int64_t>(KBLOCK, k - block * KBLOCK);
    return block * (KBLOCK / 4 * 128 + 64) + ceil_div(len, 4) * 128 + j * 2;
}
inline int bits_of(int64_t dtype) { return dtype == INT8_ ? 8 : 4; }
inline int64_t scale_block(int bits) { return bits == 8 ? KBLOCK : 32; }

int read_code(int bits, const uint8_t* panel, int64_t j, int64_t i) {
    const int both = panel[code_place(bits, j, i)];
    return bits == 8 ? both - 128 : (i % 32 < 16 ? both & 15 : both >> 4) - 8;
}
uint16_t read_scale(int bits, const uint8_t* panel, int64_t j, int64_t i, int64_t k) {
    uint16_t scale;
    memcpy(&scale, panel + scale_place(bits, j, i, k), 2);
    return scale;
}

}  // namespace

extern "C" {

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

int64_t ds_panel_bytes(int64_t bits, int64_t k) { return panel_bytes((int)bits, k); }

// Row-major codes [n, k] and bfloat16 scales [n, ceil(k / block)] to integer panels.
void ds_pack_integer(const int8_t* codes, const uint16_t* scales, void* panels, int64_t n, int64_t k, int64_t bits_) {
    const int bits = (int)bits_;
    const int64_t bytes = panel_bytes(bits, k), columns = ceil_div(k, scale_block(bits));
    parallel(ceil_div(n, PANEL), n * k, [&](int64_t p) {
        uint8_t* panel = (uint8_t*)panels + p * bytes;
        memset(panel, bits == 8 ? 128 : 0x88, bytes);
        for (int64_t j = 0; j < PANEL; j++) {
            const int64_t row = p * PANEL + j;
            for (int64_t c = 0; c < columns; c++) {
                const uint16_t scale = row < n ? scales[row * columns + c] : 0;
                memcpy(panel + scale_place(bits, j, c * scale_block(bits), k), &scale, 2);
            }
            if (row >= n) continue;
            for (int64_t i = 0; i < k; i++) {
                uint8_t* at = panel + code_place(bits, j, i);
                const int code = codes[row * k + i];
                if (bits == 8) *at = (uint8_t)(code + 128);
                else if (i % 32 < 16) *at = (uint8_t)((*at & 0xF0) | (code + 8));
                else *at = (uint8_t)((*at & 0x0F) | (code + 8) << 4);
            }
        }
    });
}

void ds_unpack_integer(const Weight* w, int8_t* codes, uint16_t* scales) {
    const int bits = bits_of(w->dtype);
    const int64_t bytes = panel_bytes(bits, w->k), columns = ceil_div(w->k, scale_block(bits));
    parallel(ceil_div(w->n, PANEL), w->n * w->k, [&](int64_t p) {
        const uint8_t* panel = (const uint8_t*)w->data + p * bytes;
        for (int64_t j = 0; j < std::min<int64_t>(PANEL, w->n - p * PANEL); j++) {
            const int64_t row = p * PANEL + j;
            for (int64_t i = 0; i < w->k; i++) codes[row * w->k + i] = (int8_t)read_code(bits, panel, j, i);
            for (int64_t c = 0; c < columns; c++)
                scales[row * columns + c] = read_scale(bits, panel, j, c * scale_block(bits), w->k);
        }
    });
}

// Rows of a packed weight (an embedding that shares its storage with the output layer): in its stored type, of an integer
// weight in float32.
int64_t ds_gather_rows(const Weight* w, const int64_t* ids, int64_t count, void* out) {
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= w->n) return 1 + i;
    if (is_integer(w->dtype)) {
        const int bits = bits_of(w->dtype);
        for (int64_t i = 0; i < count; i++) {
            const uint8_t* panel = (const uint8_t*)w->data + ids[i] / PANEL * panel_bytes(bits, w->k);
            for (int64_t k = 0; k < w->k; k++) {
                const uint32_t wide = (uint32_t)read_scale(bits, panel, ids[i] % PANEL, k, w->k) << 16;
                float scale;
                memcpy(&scale, &wide, 4);
                ((float*)out)[i * w->k + k] = (float)read_code(bits, panel, ids[i] % PANEL, k) * scale;
            }
        }
        return 0;
    }
    const int64_t bytes = element_bytes(w->dtype);
    for (int64_t i = 0; i < count; i++) {
        const char* source = (const char*)w->data + ((ids[i] / PANEL) * w->k * PANEL + ids[i] % PANEL) * bytes;
        char* row = (char*)out + i * w->k * bytes;
        for (int64_t k = 0; k < w->k; k++) memcpy(row + k * bytes, source + k * PANEL * bytes, bytes);
    }
    return 0;
}

}  // extern "C"
