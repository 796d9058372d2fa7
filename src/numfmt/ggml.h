/* Decoding of GGML's block formats (ggml.def): one block of bytes to fp32.
 *
 * A block is little-endian and packed. Its scales are half precision; products and sums are single fp32 operations in the order of
 * gguf-py's reference (d times code, then plus or minus the minimum), so values are equal to it bit for bit. Source: ggml-quants.c and
 * gguf-py/gguf/quants.py of llama.cpp. */
#pragma once

#include "numfmt/bf16.h"
#include "numfmt/f16.h"

/* Half of a block of 32 in the low nibbles, the other half in the high ones. */
#define GGML_NIBBLE(q, i) ((i) < 16 ? (q)[i] & 15 : (q)[(i)-16] >> 4)

static inline uint16_t ggml_u16(const uint8_t *b) { return (uint16_t)(b[0] | b[1] << 8); }
static inline float ggml_half(const uint8_t *b) { return f16_to_f32(ggml_u16(b)); }

static inline void ggml_decode_F32(const uint8_t *b, float *y) { memcpy(y, b, sizeof *y); }
static inline void ggml_decode_F16(const uint8_t *b, float *y) { *y = ggml_half(b); }
static inline void ggml_decode_BF16(const uint8_t *b, float *y) { *y = bf16_decode(ggml_u16(b)); }

/* scale | 32 codes of 4 bits, less 8 */
static inline void ggml_decode_Q4_0(const uint8_t *b, float *y) {
    float d = ggml_half(b);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(GGML_NIBBLE(b + 2, i) - 8);
}
/* scale | minimum | 32 codes of 4 bits */
static inline void ggml_decode_Q4_1(const uint8_t *b, float *y) {
    float d = ggml_half(b), m = ggml_half(b + 2);
    for (int i = 0; i < 32; i++) y[i] = d * (float)GGML_NIBBLE(b + 4, i) + m;
}
/* The fifth bits of 32 codes lie in four bytes, bit i for code i. */
static inline int ggml_code5(const uint8_t *high, const uint8_t *low, int i) {
    return GGML_NIBBLE(low, i) | (high[i / 8] >> (i % 8) & 1) << 4;
}
/* scale | fifth bits | 32 codes, less 16 */
static inline void ggml_decode_Q5_0(const uint8_t *b, float *y) {
    float d = ggml_half(b);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(ggml_code5(b + 2, b + 6, i) - 16);
}
/* scale | minimum | fifth bits | 32 codes */
static inline void ggml_decode_Q5_1(const uint8_t *b, float *y) {
    float d = ggml_half(b), m = ggml_half(b + 2);
    for (int i = 0; i < 32; i++) y[i] = d * (float)ggml_code5(b + 4, b + 8, i) + m;
}
/* scale | 32 codes of 8 bits */
static inline void ggml_decode_Q8_0(const uint8_t *b, float *y) {
    float d = ggml_half(b);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
}

/* --- 256 elements in sub-blocks that have scales of their own -------------------------------------------------------------- */

/* 16 scales (low nibble) and minima (high) | codes of 2 bits | scale of scales | scale of minima */
static inline void ggml_decode_Q2_K(const uint8_t *b, float *y) {
    float d = ggml_half(b + 80), dmin = ggml_half(b + 82);
    for (int i = 0; i < 256; i++) {
        uint8_t s = b[i / 16];
        int code = b[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        y[i] = d * (float)(s & 15) * (float)code - dmin * (float)(s >> 4);
    }
}
/* third bits, stored inverted | codes of 2 bits | 16 scales of 6 bits, less 32 | scale of scales */
static inline void ggml_decode_Q3_K(const uint8_t *b, float *y) {
    const uint8_t *s = b + 96;
    float d = ggml_half(b + 108);
    for (int i = 0; i < 256; i++) {
        int k = i / 16, low = k < 8 ? s[k] & 15 : s[k - 8] >> 4, high = s[8 + k % 4] >> (k / 4 * 2) & 3;
        int code = (b[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) - (b[i % 32] >> (i / 32) & 1 ? 0 : 4);
        y[i] = d * (float)((low | high << 4) - 32) * (float)code;
    }
}
/* Scale and minimum (6 bits each) of sub-block k of 8, out of 12 bytes: four scales, four minima, then the low nibbles of the other
 * four, whose upper two bits lie above the first ones'. */
static inline void ggml_scale_min(const uint8_t *s, int k, int *scale, int *min) {
    *scale = k < 4 ? s[k] & 63 : (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
    *min = k < 4 ? s[k + 4] & 63 : s[k + 4] >> 4 | (s[k] >> 6) << 4;
}
/* scale of scales | scale of minima | scales and minima | codes of 4 bits */
static inline void ggml_decode_Q4_K(const uint8_t *b, float *y) {
    float d = ggml_half(b), dmin = ggml_half(b + 2);
    for (int k = 0; k < 8; k++) {
        const uint8_t *q = b + 16 + k / 2 * 32;
        int scale, min;
        ggml_scale_min(b + 4, k, &scale, &min);
        float ds = d * (float)scale, dm = dmin * (float)min;
        for (int i = 0; i < 32; i++) y[32 * k + i] = ds * (float)(q[i] >> (k % 2 * 4) & 15) - dm;
    }
}
/* As Q4_K, with fifth bits before the codes: bit k for sub-block k. */
static inline void ggml_decode_Q5_K(const uint8_t *b, float *y) {
    float d = ggml_half(b), dmin = ggml_half(b + 2);
    for (int k = 0; k < 8; k++) {
        const uint8_t *q = b + 48 + k / 2 * 32, *high = b + 16;
        int scale, min;
        ggml_scale_min(b + 4, k, &scale, &min);
        float ds = d * (float)scale, dm = dmin * (float)min;
        for (int i = 0; i < 32; i++)
            y[32 * k + i] = ds * (float)((q[i] >> (k % 2 * 4) & 15) | (high[i] >> k & 1) << 4) - dm;
    }
}
/* low 4 bits | high 2 bits | 16 scales of 8 bits | scale of scales; codes less 32 */
static inline void ggml_decode_Q6_K(const uint8_t *b, float *y) {
    float d = ggml_half(b + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, j = i % 128;
        int low = b[half * 64 + j % 64] >> (j / 64 * 4) & 15, high = b[128 + half * 32 + j % 32] >> (j / 32 * 2) & 3;
        y[i] = d * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}
