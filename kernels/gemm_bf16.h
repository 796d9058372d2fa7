/* Packed factors of bf16 products: rows along k, rounded, each piece padded with zeros to GEMM_UNIT k, rows to a multiple of 128. */
#pragma once
#include "gemm.h"
#include "numfmt/bf16.h"

enum { GEMM_UNIT = 32 };

struct gemm_packed {
    uint16_t *a, *b; /* [padded rows of C][k], [padded columns][k] */
    int64_t k;
    int64_t at[GEMM_PIECES + 1]; /* packed k of piece i: [at[i], at[i + 1]) */
};
static inline int64_t gemm_padded(int64_t rows) { return (rows + 127) / 128 * 128; }
static inline int64_t gemm_tiles(const struct gemm_plan *p) { return gemm_padded(p->m) / 128 * (gemm_padded(p->n) / 128); }

/* Codes of two numbers, the first in the low half. Denormals are zero, as on the host. */
static __device__ __forceinline__ uint16_t gemm_round(float x) {
    return bits_of(x) & 0x7f800000u ? bf16_encode(x) : (uint16_t)(bits_of(x) >> 16 & 0x8000u);
}
static __device__ __forceinline__ uint32_t gemm_round2(float x, float y) { return gemm_round(x) | (uint32_t)gemm_round(y) << 16; }
