/* Packed factors of bf16 products (struct packed_factor of dev/ops.h), A and B alike: rows along k, rounded, each segment padded with zeros to
 * PACKED_UNIT k, which is what a stage of wgmma takes. Padding rows are undefined. */
#pragma once
#include "gpu.h"
#include "numfmt/bf16.h"

enum { PACKED_UNIT = OPS_PACKED_UNIT };
static inline int64_t packed_k(int64_t k) { return (k + PACKED_UNIT - 1) / PACKED_UNIT * PACKED_UNIT; }

/* Of two numbers, the first in the low half. */
static __device__ __forceinline__ uint32_t packed_pair(float x, float y) {
    return bf16_encode_flushed(x) | (uint32_t)bf16_encode_flushed(y) << 16;
}

/* A factor as kernels write it: its result, beside or instead of fp32. */
struct packed_out {
    uint16_t *codes;                                               /* NULL: not wanted */
    int64_t ld, k[OPS_MAX_SEGMENTS + 1], at[OPS_MAX_SEGMENTS + 1]; /* segment j: k of a row, packed k */
};
static inline struct packed_out packed_of(const struct packed_factor *f) {
    struct packed_out o = {};
    o.codes = gpu_ptr<uint16_t>(f->at);
    for (int j = 0; j < f->segments; j++) {
        o.k[j + 1] = f->k[j + 1];
        o.at[j + 1] = o.at[j] + packed_k(f->k[j + 1] - f->k[j]);
    }
    o.ld = o.at[f->segments];
    return o;
}
/* May it be written by w neighbours at a time? */
static inline bool packed_by(const struct packed_out &o, int w) {
    int64_t all = 0;
    for (int j = 0; j <= OPS_MAX_SEGMENTS; j++) all |= o.k[j];
    return all % w == 0;
}

/* W neighbours of a row, of one segment, which begins at a multiple of W; who writes its last ones also writes its padding. */
template <int W>
static __device__ __forceinline__ void packed_store(const packed_out &o, int64_t row, int64_t col, const float *v) {
    int j = 0;
    while (o.k[j + 1] <= col) j++;
    uint16_t *const base = o.codes + row * o.ld, *to = base + o.at[j] + (col - o.k[j]);
    if (W == 4) {
        *reinterpret_cast<uint2 *>(to) = make_uint2(packed_pair(v[0], v[1]), packed_pair(v[2], v[W - 1]));
    } else {
#pragma unroll
        for (int e = 0; e < W; e++) to[e] = bf16_encode_flushed(v[e]);
    }
    if (col + W < o.k[j + 1]) return;
    for (uint16_t *pad = to + W; pad < base + o.at[j + 1]; pad++) *pad = 0;
}
