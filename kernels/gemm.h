/* What the files of the matrix product share: the plan of a product as kernels walk it, and the ends of its leaves.
 *
 * A product is a list of leaves (the segments that are not empty), a leaf a list of pieces: stretches of k of one term. Leaves are added
 * by a stack machine: after a leaf, add the `merges` topmost waiting sums, then wait (ops_gemm_tree). A kernel either does all
 * leaves of its tile in turn, or block z does leaf z and leaves its sum in `split` [leaf][m][n] for gemm_fold: more blocks for the
 * products whose tiles do not fill the device. The bits are the same. */
#pragma once
#include "gpu.h"

enum { GEMM_PIECES = OPS_MAX_TERMS * OPS_MAX_SEGMENTS, GEMM_WAITING = 3 /* levels of a tree over 8, less the root */ };

struct gemm_piece {
    const float *a, *b; /* at its first k */
    int64_t lda, ldb, k;
};
struct gemm_plan {
    int64_t m, n, ldc;
    float *c;
    const float *bias; /* or NULL */
    int layout, accumulate, leaves;
    int first[OPS_MAX_SEGMENTS + 1]; /* pieces of leaf i: [first[i], first[i + 1]), each with k > 0 */
    int merges[OPS_MAX_SEGMENTS];
    struct gemm_piece piece[GEMM_PIECES];
    uint16_t *packed_a,
        *packed_b; /* bf16: factors that are packed already (packed.h), A from row packed_row on; or NULL */
    int64_t packed_row;
};
/* Rows [m0, m0 + m) and columns [n0, n0 + n) of a product. */
struct gemm_plan gemm_part(const struct gemm_plan *p, int64_t m0, int64_t m, int64_t n0, int64_t n);

/* What the device of a cuda_gpu has for products. */
struct gemm_lt;
struct gemm_state {
    int multiprocessors, major, minor; /* of the compute capability */
    struct gemm_lt *lt;                /* cuBLASLt; NULL: invariant, or a build without */
    bool wgmma;                        /* gemm_wgmma.cu serves bf16 */
    bool fp8,
        fp8_lt; /* who multiplies E4M3 codes (gemm_fp8.cu): fp8 tensor cores, else widened to bf16; cuBLASLt, where it can */
};
int gemm_fp8_open(struct cuda_gpu *g); /* sets fp8 and fp8_lt of g->gemm: sm_89 or later, a right result */

/* Products of a plan that has leaves: fp32 with the host's bits; bf16 (gemm_bf16.cu). */
int gemm_f32(struct cuda_gpu *g, const struct gemm_plan *p);
int gemm_bf16(struct cuda_gpu *g, const struct gemm_plan *p);
/* C = the tree over what lies in split (no leaves: C or zeros), plus the bias. */
int gemm_fold(struct cuda_gpu *g, const struct gemm_plan *p, const float *split);
/* Whether block z should do leaf z: `tiles` blocks alone would leave multiprocessors idle. */
static inline bool gemm_splits(const struct cuda_gpu *g, const struct gemm_plan *p, int64_t tiles) {
    return p->leaves > 1 && tiles < 2 * g->gemm->multiprocessors;
}
static inline size_t gemm_split_bytes(const struct gemm_plan *p) {
    return (size_t)p->leaves * (size_t)p->m * (size_t)p->n * sizeof(float);
}

/* A trial product shows whether a unit serves: factors a [m, k] and b [n, k] of small integers, whose codes and sums are exact in any order
 * and format. c [m, n] on the host. */
static inline int gemm_trial_a(int r, int k) { return (r * 7 + k * 3) % 5 - 2; }
static inline int gemm_trial_b(int c, int k) { return (c * 5 + k * 11) % 7 - 3; }
static inline bool gemm_trial_right(const float *c, int m, int n, int k) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            int sum = 0;
            for (int l = 0; l < k; l++) sum += gemm_trial_a(i, l) * gemm_trial_b(j, l);
            if (c[i * n + j] != (float)sum) return false;
        }
    return true;
}

/* Tile (i, j) of a block. Tiles go by in strips of 8 tile rows, so that the blocks at work share rows of A and columns of B in L2. */
static __device__ __forceinline__ void gemm_tile_of(int64_t block, int64_t tiles_m, int64_t tiles_n, int64_t *i,
                                                    int64_t *j) {
    const int64_t STRIP = 8, strip = block / (STRIP * tiles_n), in = block - strip * STRIP * tiles_n,
                  left = tiles_m - strip * STRIP, rows = left < STRIP ? left : STRIP;
    *i = strip * STRIP + in % rows;
    *j = in / rows;
}

/* Four numbers of a row, zeros from the `left`th on: one load where the address allows it. */
static __device__ __forceinline__ float4 gemm_load4(const float *p, int64_t left) {
    if (left >= 4 && ((uintptr_t)p & 15) == 0) return *reinterpret_cast<const float4 *>(p);
    float4 v = make_float4(0, 0, 0, 0);
    if (left > 0) v.x = p[0];
    if (left > 1) v.y = p[1];
    if (left > 2) v.z = p[2];
    if (left > 3) v.w = p[3];
    return v;
}

static __device__ __forceinline__ void gemm_store4(float *p, int64_t left, const float *v) {
    if (left >= 4 && ((uintptr_t)p & 15) == 0) {
        *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < left) p[i] = v[i];
}

/* The first and last leaf of this block. */
static __device__ __forceinline__ void gemm_leaves(const struct gemm_plan &p, const float *split, int *from, int *to) {
    *from = split ? (int)blockIdx.z : 0;
    *to = split ? *from + 1 : p.leaves;
}
/* The end of a leaf of a block that does all of them: adds what waits for it; true: this is the product, else it waits. Waiting sums lie in
 * local memory, which is L1: they move once a leaf. */
template <int N>
__device__ __forceinline__ bool gemm_leaf_end(const struct gemm_plan &p, int leaf, float (&x)[N],
                                              float (&wait)[GEMM_WAITING][N], int *depth) {
    for (int d = 0; d < p.merges[leaf]; d++) {
        --*depth;
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = wait[*depth][i] + x[i];
    }
    if (leaf + 1 == p.leaves) return true;
#pragma unroll
    for (int i = 0; i < N; i++) wait[*depth][i] = x[i];
    ++*depth;
    return false;
}
