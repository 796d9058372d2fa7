/* Inside the host GEMM: what the block driver and the kernels of the instruction sets agree on.
 *
 * A product runs as blocks of C. For each block, k goes by in stretches of at most GEMM_KC ("superblocks"): all pieces of terms and
 * segments inside one are packed one after the other, so that a leaf, whatever terms it chains, is one run of packed k. A tile of C
 * (up to mr x nr, in registers) takes all leaves of the superblock in turn; finished leaves wait on a small stack of tiles and are
 * added in tree order as soon as their partner is there. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dev/ops.h"

enum {
    GEMM_KC = 640,       /* k of a superblock: an mr x KC panel of A stays in L1 or close */
    GEMM_LDA = 640 + 16, /* row distance of packed A: an odd number of cache lines, so rows do not share L1 sets */
    GEMM_NB = 384,       /* the most columns of a packed B block (KC x nb in L2) of any kernel */
    GEMM_MA = 112,       /* rows of A packed at a time */
    GEMM_MG = 672,       /* rows of C whose sums are kept between superblocks */
    GEMM_MR = 14,        /* the largest tile of any kernel */
    GEMM_NR = 32,
    GEMM_DEPTH = 3, /* finished sums that can wait for their partner: levels of a tree over 8, less the root */
};

/* Where a tile of sums may lie: C itself, or a slot that is hot (waits inside one superblock; one set a thread, in L1) or kept (waits
 * for a later superblock; one set for each tile of C). */
enum { SLOT_C = -1, SLOT_HOT = 0, SLOT_KEPT = GEMM_DEPTH };

/* One run of packed k of one leaf, and what happens at its end. */
struct gemm_step {
    int k0, k1; /* packed k */
    int load;   /* the chain goes on from C (accumulation, or the leaf began in the superblock before); else from +0 */
    int adds;   /* waiting sums to add at the end, in this order */
    int add[GEMM_DEPTH]; /* their slots */
    int to;              /* slot of the result */
    int last;            /* the product is complete: add the bias */
};

struct gemm_tile {
    const float *a;    /* packed [rows][GEMM_LDA] */
    const float *b;    /* packed [k][nr] */
    const float *bias; /* [nr] or NULL */
    float *c;          /* [rows][ldc], nr columns */
    int64_t ldc;
    float *slot[2]; /* GEMM_DEPTH hot and GEMM_DEPTH kept tiles [mr][nr] */
    const struct gemm_step *step;
    int steps;
};

struct gemm_kernel {
    const char *name;
    int mr, nr;
    int nb;                                               /* columns of a packed B block, a multiple of nr */
    void (*tile[GEMM_MR + 1])(const struct gemm_tile *t); /* by number of rows, 1..mr */
    /* dst[r * ldd + c] = src[r * lds + c], and its transpose dst[c * ldd + r] = src[r * lds + c] */
    void (*copy)(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd);
    void (*transpose)(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd);
};

/* The kernels; NULL where this CPU or build cannot run one. */
const struct gemm_kernel *gemm_kernel_avx512(void);
const struct gemm_kernel *gemm_kernel_avx2(void);
const struct gemm_kernel *gemm_kernel_portable(void);

/* Scratch of one thread. */
struct gemm_work {
    float *a;           /* [rows_a][GEMM_LDA] */
    float *b;           /* [kc * nb] */
    float *kept;        /* GEMM_DEPTH tiles for each tile of [GEMM_MG, nb]; may be NULL for one segment */
    int rows_a, kc, nb; /* rows_a >= mr of the kernel; kc <= GEMM_KC; nb a multiple of nr */
};

/* Rows [m0, m1) and columns [n0, n1) of a product, on this thread. The arguments are valid (host_gemm_run checks). */
void gemm_block(const struct gemm_kernel *kernel, const struct gemm_args *a, int64_t m0, int64_t m1, int64_t n0,
                int64_t n1, const struct gemm_work *w);

/* OpenBLAS: not invariant. False where the build has none or a size does not fit its integers. */
bool gemm_blas_open(int threads, char *text, size_t size);
bool gemm_blas_run(const struct gemm_args *a, int threads);
