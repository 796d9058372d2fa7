/* The arguments of every device operation. Shapes in elements; matrices are row-major; `ld` is the distance of rows in elements.
 * fp32 unless said otherwise. Letters: N tokens (rows), C channels, H heads, D head dimension, T sequence length, V vocabulary.
 *
 * Order of sums (DESIGN, the same bytes on any grid). A sum over a dimension that a grid may cut is a binary tree over segments;
 * inside a segment ("leaf") it is one chain acc = fma(a_k, b_k, acc) with k rising (GEMM), or 16 virtual lanes (lane l takes elements
 * l, l+16, ...; then lanes are added as a fixed tree 8,4,2,1) for vector reductions. Results never depend on threads or vector width. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define OPS_HD static __host__ __device__ inline
#else
#define OPS_HD static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* An address in device memory. Not a pointer on purpose: host code that dereferences one does not compile. */
typedef struct {
    uint64_t a;
} dptr;

static inline dptr dptr_add(dptr p, int64_t bytes) { return (dptr){p.a + (uint64_t)bytes}; }
static inline dptr dptr_f32(dptr p, int64_t elems) { return (dptr){p.a + (uint64_t)elems * 4}; }

enum { OPS_MAX_TERMS = 3, OPS_MAX_SEGMENTS = 8, OPS_ROW_SEGMENTS = 8, OPS_LANES = 16 };

enum gemm_layout {
    GEMM_NT,
    GEMM_NN,
    GEMM_TN
}; /* C = A B', A B, A' B; A is [m,k] ([k,m] for TN), B is [n,k] for NT, else [k,n] */

/* One factor pair of a (possibly chained, possibly segmented) product. */
struct gemm_term {
    dptr a, b;
    int64_t lda, ldb;
    int64_t
        k[OPS_MAX_SEGMENTS + 1]; /* segment j of this term sums k in [k[j], k[j+1]); k[0] = 0; empty segments allowed */
};

/* Where a factor of bf16 products lies packed: rounded and laid out once for all that read it. Its rows lie along k, in segments [k[j], k[j+1]) as
 * those of the products; k[0] = 0. The layout is the device's own (A's is not B's); ops_packed_bytes are enough. at.a = 0: not packed. */
struct packed_factor {
    dptr at;
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
};
/* Rows are padded to a multiple of OPS_PACKED_ROWS, and may be read from such a one on; segments to one of OPS_PACKED_UNIT k, at most. */
enum { OPS_PACKED_ROWS = 128, OPS_PACKED_UNIT = 64 };
static inline int64_t ops_packed_bytes(int64_t rows, int segments, const int64_t *k) {
    int64_t all = 0;
    for (int j = 0; j < segments; j++) all += (k[j + 1] - k[j] + OPS_PACKED_UNIT - 1) / OPS_PACKED_UNIT;
    return (rows + OPS_PACKED_ROWS - 1) / OPS_PACKED_ROWS * OPS_PACKED_ROWS * all * OPS_PACKED_UNIT * 2;
}

/* Pack x [rows, k[segments]] with row distance ldx, fp32, as factor B of GEMM_NT or as factor A. Operations that have a `packed` leave their
 * result packed as an A too; it has the k of a row of the result. Then their y (o) may be 0: not wanted in fp32. */
struct pack_args {
    dptr x;
    int64_t rows, ldx;
    int is_b;
    struct packed_factor to;
};

/* C[m,n] = (accumulate ? C : 0) ⊕ tree over segments j of ( chain over terms t of sum over k in segment j of a_t b_t ) + bias[n].
 * A segment empty in all terms contributes nothing (the tree skips it). With one segment and accumulate, the chain starts from C
 * (one longer chain); accumulate with more segments is refused. bias may be 0. All segments empty: C is zero.
 * bf16: both factors are rounded to bf16 first; products and sums are fp32, in blocks of 32 k (host_gemm.h).
 * packed_a, packed_b (bf16, GEMM_NT, one term): that factor as it was packed by these segments, A from row packed_row on; or 0. The product reads
 * it in place of term[0].a (b), which may then be 0. The bits are the same. */
struct gemm_args {
    enum gemm_layout layout;
    int64_t m, n;
    int terms, segments;
    struct gemm_term term[OPS_MAX_TERMS];
    dptr c, bias;
    int64_t ldc;
    int accumulate;
    int bf16;
    dptr packed_a, packed_b;
    int64_t packed_row;
};

/* The tree over the segments of a product, for those who compute it: after leaf i (the segments that are not empty in all terms, rising) add the
 * merges[i] topmost waiting sums to it, then it waits. A binary counter walks all positions; nothing is added for an empty one. Returns the
 * number of leaves. */
static inline int ops_gemm_tree(const struct gemm_args *a, int merges[OPS_MAX_SEGMENTS]) {
    int has[OPS_MAX_SEGMENTS] = {0}, leaves = 0, carry; /* has: level l of the counter holds a sum */
    for (int j = 0; j < a->segments; j++) {
        int l = 0;
        carry = 0;
        for (int t = 0; t < a->terms; t++) carry |= a->term[t].k[j + 1] > a->term[t].k[j];
        if (carry) merges[leaves++] = 0;
        for (; j >> l & 1; l++) {
            if (has[l] && carry) merges[leaves - 1]++;
            carry |= has[l];
            has[l] = 0;
        }
        has[l] = carry;
    }
    carry = 0;
    for (int l = 0; l < OPS_MAX_SEGMENTS; l++) {
        if (has[l] && carry) merges[leaves - 1]++;
        carry |= has[l];
    }
    return leaves;
}

/* Sum of K over the terms of a product, for its FLOPs; 0 where it is none that can be. */
static inline int64_t ops_gemm_k(const struct gemm_args *a) {
    int64_t k = 0;
    if (a->segments < 0 || a->segments > OPS_MAX_SEGMENTS) return 0;
    for (int t = 0; t < a->terms && t < OPS_MAX_TERMS; t++) k += a->term[t].k[a->segments];
    return k;
}

/* Bytes of one factor of a bf16 product that is packed for this product on a device: larger ones are multiplied part by part. And of cuBLASLt's work space, where it
 * serves: what cuBLAS advises for Hopper. */
enum { OPS_GEMM_PACKED = 256 << 20, OPS_GEMM_LT_WORK = 32 << 20 };
/* The most work space that a product takes on a device: factors packed to bf16, pieces padded to 64; and leaves that are kept apart, where the
 * tiles of 128 x 128 do not fill it twice, or the sums that wait in each of its multiprocessors. No GPU has more of them than 188 yet. */
static inline int64_t ops_gemm_work(const struct gemm_args *a) {
    const int64_t UNIT = 64, TILE = 128, PROCESSORS = 188, WAITING = 3 * TILE * 2 * TILE * 4, PACKED = OPS_GEMM_PACKED;
    int merges[OPS_MAX_SEGMENTS];
    const int64_t leaves = ops_gemm_tree(a, merges), sum = ops_gemm_k(a);
    int64_t k = 0, least[2], most[2], packed = 0, tiles = 1, sums = 4 * leaves, waiting = 0;
    if (a->m < 1 || a->n < 1 || leaves == 0) return 0;
    for (int t = 0; t < a->terms; t++)
        for (int j = 0; j < a->segments; j++) k += (a->term[t].k[j + 1] - a->term[t].k[j] + UNIT - 1) / UNIT * UNIT;
    for (int i = 0; i < 2; i++) { /* rows, columns: of the whole, or of the largest part */
        const int64_t n = i ? a->n : a->m, padded = (n + TILE - 1) / TILE * TILE, few = PACKED / (2 * k),
                      many = PACKED / (2 * sum);
        const bool whole = !a->bf16 || a->m <= 16 || (i ? a->packed_b : a->packed_a).a;
        least[i] = whole || n < few ? padded : few > TILE ? few / TILE * TILE : TILE;
        most[i] = whole || n < many ? n : many > TILE ? many : TILE;
        if (a->bf16 && !(i ? a->packed_b : a->packed_a).a) packed += n < few ? 2 * k * padded : PACKED + 2 * k * TILE;
        tiles *= least[i] / TILE;
        sums *= most[i];
    }
    if (a->bf16 && leaves > 1) waiting = (tiles < PROCESSORS ? tiles : PROCESSORS) * WAITING;
    if (leaves == 1 || tiles >= 2 * PROCESSORS) sums = 0;
    return packed + (sums > waiting ? sums : waiting);
}

/* y[N,C] = table[id - row0] where row0 <= id < row0 + rows, else +0. ids [N] int32. A table entry of -0 becomes +0 (so that summing over
 * ranks, where one term is not zero, is exact). */
struct embed_fwd_args {
    dptr ids, table, y;
    int64_t n, c, row0, rows;
};
/* dtable[id - row0] += dy[i], tokens in rising order. */
struct embed_bwd_args {
    dptr ids, dy, dtable;
    int64_t n, c, row0, rows;
};

/* RMS norm of rows of C: h = x + delta (delta 0: h = x), y = h * rstd * gain, rstd = 1 / sqrt(mean(h^2) + eps).
 * h_out [rows,C] may be 0 (then delta must be 0); rstd [rows]. Each gain row serves all rows. */
struct rmsnorm_fwd_args {
    dptr x, delta, gain, h_out, y, rstd;
    int64_t rows, c;
    float eps;
    struct packed_factor packed; /* of y */
};
/* dh = dy through the norm (+ dres when dres != 0); dx is written ([rows,C], may alias dy or dres).
 * dgain leaves: rows are [tokens, heads]; leaf (g, s) sums, tokens rising then heads rising, over heads of group g = head / group_heads and
 * tokens of row segment s (boundaries ceil(tokens*s/8)): dgain[(g*8 + s), C] += ... Plain norm: heads = group_heads = 1.
 * dgain may be 0 (not wanted). */
struct rmsnorm_bwd_args {
    dptr dy, h, gain, rstd, dres, dx, dgain;
    int64_t tokens, heads, group_heads, c;
};

/* Layer norm of rows of C: h = x + delta (delta 0: h = x), y = (h - mean) * rstd * (gain + offset) + bias, mean of h, rstd = 1 / sqrt(mean((h - mean)^2)
 * + eps). offset 1: the gain is stored as what it differs from 1 by. h_out [rows,C] may be 0 (then delta must be 0); mean, rstd [rows]; gain, bias [C]. */
struct layernorm_fwd_args {
    dptr x, delta, gain, bias, h_out, y, mean, rstd;
    int64_t rows, c;
    float eps, offset;
    struct packed_factor packed; /* of y */
};
/* dh = dy through the norm (+ dres when dres != 0); dx is written ([rows,C], may alias dy or dres). dgain leaves: dgain[s, C] += dy * (h - mean) * rstd
 * of the rows of row segment s, rising; 0: not wanted. The leaves of bias are those of colsum of dy. */
struct layernorm_bwd_args {
    dptr dy, h, gain, mean, rstd, dres, dx, dgain;
    int64_t rows, c;
    float offset;
};

/* Rotary embedding of the first `rot` channels of each head, in place, pairs (i, i + rot/2) ("rotate half"). x [N, heads*D] with row
 * distance ld; positions [N] int32; table [max_pos, rot] holds cos (first rot/2) then sin. sign +1 forward, -1 backward. */
struct rope_args {
    dptr x, positions, table;
    int64_t n, heads, d, rot, ld;
    int sign;
};

/* Causal grouped-query attention over `b` sequences of T tokens (token row = sequence * T + t). q [N, hq*D], k, v [N, hkv*D], o [N, hq*D] with
 * row distances ldq, ldk, ldv, ldo. Row t sees keys max(first[row], t - window + 1) .. t, where first [N] int32 is an index inside the
 * sequence (left padding and document boundaries; the address 0 = all zeros), window 0 = none. A row that sees nothing gives zeros.
 * lse [N, hq] natural log of the sum, -inf for such a row.
 * Tiled with an online softmax: never a T x T array. Tile sizes are constants, so bits do not depend on threads.
 * With a cache of keys and values (forward only): the query rows are positions t0 .. t0 + T - 1 of their sequences and see keys from
 * position 0 on; k and v then hold tk >= t0 + T rows per sequence (tk = 0: T, and t0 = 0). Key tiles lie at fixed positions, so a row's bits
 * do not depend on where the query begins.
 * bf16: the factors of every product (q, k, v, probabilities, dout, gradients of scores) are rounded to bf16 first; products and all sums,
 * that of the softmax too, are fp32 of what is not rounded. The host adds forward in blocks of 32 k, as its bf16 products do (host_gemm.h),
 * backward as in fp32; a device may add otherwise. */
enum { ATTN_ROWS = 64, ATTN_KEYS = 64 }; /* the tile: query rows and keys; a change changes bits */
struct attn_fwd_args {
    dptr q, k, v, o, lse, first;
    int64_t b, t, hq, hkv, d, ldq, ldk, ldv, ldo, window;
    float scale;
    int64_t t0, tk;
    int bf16;
    struct packed_factor packed; /* of o [N, hq*D] */
};
/* Gradients, written whole; they have the row distances of their forward arrays, dout that of o. dk, dv of one KV
 * head sum over its q heads in rising order, then rows rising. `delta` [N, hq] is scratch. */
struct attn_bwd_args {
    dptr q, k, v, o, lse, first, dout, dq, dk, dv, delta;
    int64_t b, t, hq, hkv, d, ldq, ldk, ldv, ldo, window;
    float scale;
    int bf16;
};

/* The most work space of attention on a device: packed factors in bf16, heads padded to 64 or 128, where tensor cores serve. */
static inline int64_t ops_attn_packed(int64_t b, int64_t rows, int64_t d) {
    return d > 128 ? 0 : 2 * b * rows * (d <= 64 ? 64 : 128);
}
static inline int64_t ops_attn_fwd_work(const struct attn_fwd_args *a) {
    const int64_t keys = a->tk ? a->tk : a->t;
    return a->bf16 ? ops_attn_packed(a->b, a->t * a->hq + 2 * keys * a->hkv, a->d) : 0;
}
static inline int64_t ops_attn_bwd_work(const struct attn_bwd_args *a) {
    return a->bf16 ? ops_attn_packed(a->b, 2 * a->t * (a->hq + a->hkv), a->d) : 0;
}

/* y = silu(g) * u, element-wise over n; and its gradients (dg, du may alias g, u). */
struct swiglu_fwd_args {
    dptr g, u, y;
    int64_t n;
    struct packed_factor packed; /* of y [n / k[segments], k[segments]] */
};
struct swiglu_bwd_args {
    dptr g, u, dy, dg, du;
    int64_t n;
};

/* y = f(x), element-wise over n, with f of dev/act.def; and dx = dy * f'(x). y may alias x, dx may alias x or dy. */
enum act_kind { ACT_RELU2, ACT_GELU, ACT_GELU_TANH, ACT_KINDS };
struct act_fwd_args {
    dptr x, y;
    int64_t n;
    int kind;                    /* enum act_kind */
    struct packed_factor packed; /* of y [n / k[segments], k[segments]] */
};
struct act_bwd_args {
    dptr x, dy, dx;
    int64_t n;
    int kind;
};

/* Column sums for bias gradients: leaf s (row segment, 8 of them) out[s, C] += sum of x rows of that segment, rising. */
struct colsum_args {
    dptr x, out;
    int64_t n, c, ld;
};

/* x[rows, C] += bias[C], contiguous rows. */
struct bias_add_args {
    dptr x, bias;
    int64_t rows, c;
};
/* y[i] += x[i]  /  y = x  /  y = value  /  x *= s */
struct add_args {
    dptr x, y;
    int64_t n;
};
struct copy_args {
    dptr x, y;
    size_t bytes;
};
/* y[r,:] = x[r,:] for rows that lie ldx and ldy apart; x and y do not overlap. */
struct copy_rows_args {
    dptr x, y;
    int64_t rows, cols, ldx, ldy;
};
struct fill_args {
    dptr y;
    int64_t n;
    float value;
};
struct scale_args {
    dptr y;
    int64_t n;
    float s;
};
/* Fold `parts` leaves [parts, n] as a binary tree (pairs at distance 1, 2, 4, ...; any count) into the first. */
struct tree_fold_args {
    dptr x;
    int64_t parts, n;
};

/* Vocabulary-parallel softmax pieces over one chunk of logits [n, v] (this rank's columns; ld = row distance).
 * rowmax[i] = max over columns (−inf when v = 0), of z * inv_temp. Also the argmax: best[i] (int32) = global column (col0 + j), lowest
 * wins ties; INT32_MAX when v = 0. best may be 0 (not wanted). inv_temp > 0. */
struct row_max_args {
    dptr z, rowmax, best;
    int64_t n, v, ld, col0;
    float inv_temp;
};
/* sumexp[i] = tree over this rank's segments (seg: boundaries in local columns, seg[0] = 0) of the 16-lane sum of exp(z*inv_temp - max);
 * target[i] = z[label - col0] * inv_temp if the label is here, else +0 (target may be 0 = not wanted). labels [n] int32.
 * with_max: no other rank has columns, so rowmax, and best if it is not 0, are found here first, as row_max does: one pass over memory. */
struct sum_exp_args {
    dptr z, rowmax, labels, sumexp, target;
    int64_t n, v, ld, col0;
    int segments;
    int64_t seg[OPS_MAX_SEGMENTS + 1];
    float inv_temp;
    int with_max;
    dptr best;
};
/* In place z <- (softmax(z) - [j == label]) * weight[i]; weight [n] (0 for masked tokens: their row becomes +0
 * whatever its logits). rowmax, sumexp are global. */
struct ce_grad_args {
    dptr z, rowmax, sumexp, labels, weight;
    int64_t n, v, ld, col0;
};
/* Forward KL at temperature: p = softmax(zt*inv_temp), q = softmax(zs*inv_temp). kl[i] = this rank's tree over segments of the 16-lane sum of
 * p (log p - log q). When weight != 0, in place zs <- (q - p) * weight[i] (the factor of temperature is the caller's). */
struct kl_grad_args {
    dptr zs, zt, smax, ssum, tmax, tsum, weight, kl;
    int64_t n, v, lds, ldt;
    int segments;
    int64_t seg[OPS_MAX_SEGMENTS + 1];
    float inv_temp;
};

/* AdamW (Loshchilov & Hutter 2019, decoupled decay) over n elements of one tensor: g' = g * grad_scale; m, v updated; w -= lr*(mhat/(sqrt(vhat)+eps)
 * + decay*w). correction1/2 = 1 - beta^step, of the beta given here (0.999f is not 0.999). rounding_seed != 0: w becomes a bf16 value,
 * by stochastic rounding; the random bits are a hash of rounding_seed, w, m and v, so they know neither an element's place nor the grid. */
struct adamw_args {
    dptr w, m, v, g;
    int64_t n;
    float lr, beta1, beta2, eps, decay, correction1, correction2, grad_scale;
    uint32_t rounding_seed;
};
/* out (double) = sum of squares in fp64 of the box [rows, cols] with row distance ld: 16 lanes per row, rows rising. */
struct sum_squares_args {
    dptr x, out;
    int64_t rows, cols, ld;
};
/* out[0] = max(out[0], max |x|) over [rows, cols]; NaN propagates as NaN. Order-free. */
struct amax_args {
    dptr x, out;
    int64_t rows, cols, ld;
};
/* A tensor cut into blocks of rows x cols elements. x[0,0] is element (row0, col0) of it: blocks lie in the tensor, not in the box that x
 * is. Their maxima are an array with ld numbers for each row of blocks. */
struct block_grid {
    int64_t rows, cols, row0, col0, ld;
};
/* out of each block = max(out, max |x|) over its elements in [rows, cols]; NaN propagates as NaN. Order-free. */
struct amax_blocks_args {
    dptr x, out;
    int64_t rows, cols, ld;
    struct block_grid grid;
};

/* Fake quantization y = dequantize(quantize(x)) of [rows, cols] in one of the formats of quant/format.def (numfmt/ does the codes).
 * amax: [1], of the tensor, for the kinds that have a scale of it (FP8, INT8, NVFP4, NVFP4_A8; else unused). kind: enum fq_kind.
 * maxima: of the blocks of the other kinds and of both NVFP4; 0: taken here, each of one row, from x[r,0] on, and cols must be a multiple of
 * grid.cols. round_bf16: x is rounded to bf16 first, and maxima too (weights are quantized as they will be exported). y may alias x. */
enum fq_kind {
    FQ_NONE,
    FQ_FP8,
    FQ_FP8_BLOCK, /* E4M3, a scale for each block: rows (channels, tokens) or tiles */
    FQ_INT8,
    FQ_INT8_BLOCK,
    FQ_INT4_BLOCK,
    FQ_NVFP4,
    FQ_NVFP4_A8, /* beside FP8 inputs */
    FQ_MXFP4,
    FQ_MXFP8,
    FQ_KINDS
};
struct fake_quant_args {
    dptr x, y, amax;
    int64_t rows, cols, ldx, ldy;
    int kind;
    int round_bf16;
    dptr maxima;
    struct block_grid grid;
    struct packed_factor packed; /* of y */
};

/* E4M3 codes: what fake_quant does with `of` (kind FQ_FP8 or FQ_FP8_BLOCK, y unused), as codes [rows, cols] of one byte, rows ldc bytes apart,
 * and scales. decode(code) * scale is fake_quant's y. scales: fp32, [1] for FQ_FP8; else those of the blocks of of.grid that x touches, at the
 * places that their maxima have: row distance of.grid.ld, also where the maxima are taken here. */
struct quant_fp8_args {
    struct fake_quant_args of;
    dptr codes, scales;
    int64_t ldc;
};

/* One factor of a product of codes: row r is the bytes codes + r * ld; element k of it is decode(code) * scales[(grid.row0 + r) / grid.rows * grid.ld
 * + (grid.col0 + k) / grid.cols]. One scale for all: a block at least as large as the factor. */
struct fp8_factor {
    dptr codes, scales;
    int64_t ld;
    struct block_grid grid;
};
/* C[m,n] = tree over segments j of ( sum over k in [k[j], k[j+1]) of a_mk b_nk ) + bias[n]: A is [m,K], B [n,K]; k[0] = 0, empty segments
 * are skipped as in gemm, bias may be 0.
 * A segment goes by in runs: one ends where either scale changes, and after OPS_FP8_RUN k. A run is one chain of fused multiply-adds of decoded codes
 * from +0 (their products are exact: 4 + 4 bits); leaf = leaf + run * (scale_a * scale_b) from +0, runs rising. Where segments lie at the same
 * k on every grid, so do runs. */
enum { OPS_FP8_RUN = 128 };
struct gemm_fp8_args {
    int64_t m, n;
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
    struct fp8_factor a, b;
    dptr c, bias;
    int64_t ldc;
};

/* The end of the run that begins at k of a segment that ends at `to`. */
OPS_HD int64_t ops_fp8_run(const struct block_grid *a, const struct block_grid *b, int64_t k, int64_t to) {
    const int64_t next_a = k + a->cols - (a->col0 + k) % a->cols, next_b = k + b->cols - (b->col0 + k) % b->cols;
    int64_t end = k + OPS_FP8_RUN < to ? k + OPS_FP8_RUN : to;
    end = next_a < end ? next_a : end;
    return next_b < end ? next_b : end;
}

/* The most work space of it on a device: leaves that are kept apart, where the tiles do not fill it twice (ops_gemm_work). */
static inline int64_t ops_gemm_fp8_work(const struct gemm_fp8_args *a) {
    const int64_t TILE = 128, PROCESSORS = 188;
    int64_t leaves = 0;
    for (int j = 0; j < a->segments; j++) leaves += a->k[j + 1] > a->k[j];
    const int64_t tiles = (a->m + TILE - 1) / TILE * ((a->n + TILE - 1) / TILE);
    return leaves > 1 && tiles < 2 * PROCESSORS ? 4 * leaves * a->m * a->n : 0;
}

#ifdef __cplusplus
}
#endif
