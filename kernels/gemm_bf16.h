/* What the files of bf16 products share: their packed factors. */
#pragma once
#include "gemm.h"
#include "packed.h"

struct gemm_packed {
    uint16_t *a, *b; /* [padded rows of C][k], [padded columns][k] */
    int64_t k;
    int64_t at[GEMM_PIECES + 1]; /* packed k of piece i: [at[i], at[i + 1]) */
};
static inline int64_t gemm_padded(int64_t rows) { return (rows + 127) / 128 * 128; }
static inline int64_t gemm_tiles(const struct gemm_plan *p) {
    return gemm_padded(p->m) / 128 * (gemm_padded(p->n) / 128);
}

/* gemm_wgmma.cu. open: whether it serves this device (sm_90a code, a driver with tensor maps, a right result). run: a product whose factors are
 * packed; wait: gemm_wgmma_bytes of work space. */
int gemm_wgmma_open(struct cuda_gpu *g, bool *serves);
size_t gemm_wgmma_bytes(const struct cuda_gpu *g, const struct gemm_plan *p);
int gemm_wgmma_run(struct cuda_gpu *g, const struct gemm_plan *p, const struct gemm_packed *w, float *wait);

/* Two sums of row r: of the product, or of a leaf. */
static __device__ __forceinline__ void gemm_store2(const struct gemm_plan &p, float *split, int leaf, int64_t r,
                                                   int64_t n, float x, float y) {
    if (r >= p.m || n >= p.n) return;
    const bool two = n + 1 < p.n;
    float *c = split ? split + (leaf * p.m + r) * p.n + n : p.c + r * p.ldc + n;
    if (p.bias && !split) {
        x += p.bias[n];
        if (two) y += p.bias[n + 1];
    }
    if (two && ((uintptr_t)c & 7) == 0) {
        *reinterpret_cast<float2 *>(c) = make_float2(x, y);
    } else {
        c[0] = x;
        if (two) c[1] = y;
    }
}
