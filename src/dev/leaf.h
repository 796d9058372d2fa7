/* Leaf kernels of the host backend: single-threaded loops over a row, a range or a tile, compiled once for each instruction set.
 *
 * Every set gives the same bits: element-wise loops have no order, reductions run in OPS_LANES virtual lanes with a fixed tree
 * whatever the width of a register, and nothing is contracted to fma. Threads are the business of the callers (host_*.c). */
#pragma once

#include <stdint.h>

#include "dev/ops.h"

/* A tile of scores [rows, ATTN_KEYS], rows `ld` apart: row r sees columns lo[r] <= j < hi[r] (none when lo >= hi). */
struct leaf_attn {
    int64_t rows, ld;
    float scale;
    int32_t lo[ATTN_ROWS], hi[ATTN_ROWS];
};

/* One row of the KL divergence: p = exp(zt*inv_temp - tmax) * tinv, q likewise from zs, log p - log q = (zt - zs)*inv_temp - shift. */
struct leaf_kl {
    float inv_temp, smax, sinv, tmax, tinv, shift, weight;
    int grad; /* write (q - p) * weight over zs */
};

/* What all rows of a layer norm share. */
struct leaf_layernorm {
    const float *gain, *bias; /* bias: forward only */
    float offset, eps;
};

struct leaf {
    const char *name;
#define LEAF(result, name, params) result(*name) params;
#include "dev/leaf.def" // IWYU pragma: keep
#undef LEAF
};

extern const struct leaf leaf_portable, leaf_avx2, leaf_avx512;
