/* What the attention kernels on tensor cores share: packed factors, and accumulators on their way to rows. */
#pragma once
#include "attn.h"

#include "base/vmath.h"
#include "packed.h"

typedef uint16_t bf16_t;
static constexpr float LOG2E = 1.44269504088896341f;
static constexpr double LN2 = 0.693147180559945309417;

/* attn_wgmma.cu: forward on Hopper. fwd: q, k, v packed by attn_bf16_fwd to [b, heads, rows, 64 or 128]; only where g->attn_wgmma, and for
 * a->scale > 0. */
int attn_wgmma_fwd(struct cuda_gpu *g, const struct attn_fwd_args *a, const bf16_t *q, const bf16_t *k,
                   const bf16_t *v);
/* attn_bwd_wgmma.cu: backward. bwd: q, dout, k, v packed by attn_bf16_bwd, delta made; only where g->attn_bwd_wgmma, which open sets after a trial
 * on the device. */
int attn_wgmma_bwd(struct cuda_gpu *g, const struct attn_bwd_args *a, const bf16_t *q, const bf16_t *dout,
                   const bf16_t *k, const bf16_t *v);
int attn_wgmma_bwd_open(struct cuda_gpu *g);

/* Two probabilities as a register of factors, the first in the low half. */
static __device__ __forceinline__ uint32_t attn_pair(float lo, float hi) {
    const __nv_bfloat162 x = __floats2bfloat162_rn(lo, hi);
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
/* Row e of the lane's two (0: g, 1: g + 8) of accumulators [16, D], times `factor`. acc: [D / 8][4]. */
template <int D>
static __device__ ATTN_PART void attn_store_row(float *to, const float *acc, int e, float factor, int d) {
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        const int c = j * 8 + threadIdx.x % 4 * 2;
        const float x = acc[4 * j + 2 * e] * factor, y = acc[4 * j + 2 * e + 1] * factor;
        if (c + 2 <= d && ((uintptr_t)(to + c) & 7) == 0) {
            *reinterpret_cast<float2 *>(to + c) = make_float2(x, y);
        } else {
            if (c < d) to[c] = x;
            if (c + 1 < d) to[c + 1] = y;
        }
    }
}
/* The same, packed: from column `col` of row `row`. */
template <int D>
static __device__ ATTN_PART void attn_pack_row(const struct packed_out &o, int64_t row, int64_t col, const float *acc,
                                               int e, float factor, int d) {
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int c = j * 8 + threadIdx.x % 4 * 2 + i;
            const float x = acc[4 * j + 2 * e + i] * factor;
            if (c < d) packed_store<1>(o, row, col + c, &x);
        }
}
/* Over the four lanes that share a row. */
static __device__ __forceinline__ float quad_max(float x) {
#pragma unroll
    for (int l = 1; l < 4; l *= 2) {
        const float y = __shfl_xor_sync(0xffffffffu, x, l);
        x = y > x ? y : x;
    }
    return x;
}
static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
