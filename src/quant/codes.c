/* Vectorised encoders: what an export spends its time on. */
#include "quant/codes.h"

#include "base/clones.h"
#include "numfmt/scale.h"

#define INLINE __attribute__((always_inline)) static inline

INLINE float rounded(float x, int bf16) { return bf16 ? bf16_round(x) : x; }

CLONES static bool finite_runs(const float *x, int64_t n, bool bf16) {
    uint32_t limit = bf16 ? 0x7f7f8000u : 0x7f800000u, top = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = bits_of(x[i]) & 0x7fffffffu;
        top = u > top ? u : top;
    }
    return top < limit;
}

/* Rounding is monotone: the largest, rounded, is the largest of the rounded. */
INLINE float largest(const float *x, int64_t n, int bf16) {
    int32_t top = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) {
        int32_t u = (int32_t)(bits_of(x[i]) & 0x7fffffffu);
        top = u > top ? u : top;
    }
    return rounded(bits_float((uint32_t)top), bf16);
}
CLONES static float largest_runs(const float *x, int64_t n, bool bf16) { return largest(x, n, bf16); }

CLONES static void bf16_runs(const float *x, int64_t n, void *out) {
    struct __attribute__((packed)) code {
        uint16_t bits;
    } *to = out;
    SIMD for (int64_t i = 0; i < n; i++) to[i].bits = bf16_encode(x[i]);
}

INLINE void fp8(const float *x, int64_t n, float scale, int bf16, uint8_t *out) {
    SIMD for (int64_t i = 0; i < n; i++) out[i] = e4m3_encode(scale_divide_fp8(rounded(x[i], bf16), scale, bf16));
}
CLONES static void fp8_runs(const float *x, int64_t n, float scale, bool bf16, uint8_t *out) {
    if (bf16)
        fp8(x, n, scale, 1, out);
    else
        fp8(x, n, scale, 0, out);
}

INLINE void int8(const float *x, int64_t n, float scale, int bf16, uint8_t *out) {
    SIMD for (int64_t i = 0; i < n; i++) out[i] = (uint8_t)int8_encode(rounded(x[i], bf16) / scale);
}
CLONES static void int8_runs(const float *x, int64_t n, float scale, bool bf16, uint8_t *out) {
    if (bf16)
        int8(x, n, scale, 1, out);
    else
        int8(x, n, scale, 0, out);
}

/* The same of one block, as a tree: a reduction would be finished one by one. */
INLINE float largest_16(const float *x, int bf16) {
    int32_t u[16];
    SIMD for (int i = 0; i < 16; i++) u[i] = (int32_t)(bits_of(x[i]) & 0x7fffffffu);
    SIMD for (int i = 0; i < 8; i++) u[i] = u[i + 8] > u[i] ? u[i + 8] : u[i];
    SIMD for (int i = 0; i < 4; i++) u[i] = u[i + 4] > u[i] ? u[i + 4] : u[i];
    int32_t a = u[0] > u[1] ? u[0] : u[1], b = u[2] > u[3] ? u[2] : u[3];
    return rounded(bits_float((uint32_t)(a > b ? a : b)), bf16);
}

INLINE float block_largest(const float *x, int block, int bf16) {
    float a = largest_16(x, bf16), b = block > 16 ? largest_16(x + 16, bf16) : 0;
    return a > b ? a : b;
}

/* Blocks have a known length here, 16 or 32; the scale of each is one of a vector of 16 blocks. */
INLINE void nvfp4(const float *x, int64_t n, const int block, float scale_2, int bf16, uint8_t *codes,
                  uint8_t *scales) {
    enum { GROUP = 16 };
    for (int64_t b = 0; b < n; b += GROUP * block) {
        int blocks = (int)((n - b) / block < GROUP ? (n - b) / block : GROUP);
        float scale[GROUP] = {0};
        uint8_t code[GROUP], e2m1[32];
        for (int j = 0; j < blocks; j++) scale[j] = block_largest(x + b + j * block, block, bf16);
        SIMD for (int j = 0; j < GROUP; j++) scale[j] = scale_nvfp4_block(scale[j], scale_2);
        SIMD for (int j = 0; j < GROUP; j++) code[j] = e4m3_encode(scale[j]);
        for (int j = 0; scales && j < blocks; j++) scales[b / block + j] = code[j];
        for (int j = 0; codes && j < blocks; j++) {
            const float *from = x + b + j * block, step = scale_nvfp4_step(scale[j], scale_2);
            uint8_t *to = codes + (b + j * block) / 2;
            SIMD for (int i = 0; i < block; i++) e2m1[i] = e2m1_encode(rounded(from[i], bf16) / step);
            SIMD for (int i = 0; i < block / 2; i++) to[i] = (uint8_t)(e2m1[2 * i] | e2m1[2 * i + 1] << 4);
        }
    }
}
INLINE void nvfp4_of(const float *x, int64_t n, int block, float scale_2, int bf16, uint8_t *codes, uint8_t *scales) {
    if (block == 16)
        nvfp4(x, n, 16, scale_2, bf16, codes, scales);
    else
        nvfp4(x, n, 32, scale_2, bf16, codes, scales);
}
CLONES static void nvfp4_runs(const float *x, int64_t n, int block, float scale_2, bool bf16, uint8_t *codes,
                              uint8_t *scales) {
    if (bf16)
        nvfp4_of(x, n, block, scale_2, 1, codes, scales);
    else
        nvfp4_of(x, n, block, scale_2, 0, codes, scales);
}

/* For the other files: clang gives a chosen clone no name that they can link. */
bool codes_finite(const float *x, int64_t n, bool bf16) { return finite_runs(x, n, bf16); }
float codes_largest(const float *x, int64_t n, bool bf16) { return largest_runs(x, n, bf16); }
void codes_bf16(const float *x, int64_t n, void *out) { bf16_runs(x, n, out); }
void codes_fp8(const float *x, int64_t n, float scale, bool bf16, uint8_t *out) { fp8_runs(x, n, scale, bf16, out); }
void codes_int8(const float *x, int64_t n, float scale, bool bf16, uint8_t *out) { int8_runs(x, n, scale, bf16, out); }
void codes_nvfp4(const float *x, int64_t n, int block, float scale_2, bool bf16, uint8_t *codes, uint8_t *scales) {
    nvfp4_runs(x, n, block, scale_2, bf16, codes, scales);
}
