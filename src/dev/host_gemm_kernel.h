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
    GEMM_KC = 512, /* k of a superblock: an mr x KC panel of A stays in L1 */
    GEMM_LDA =
        512 + 16,  /* row distance of a packed A panel: an odd number of cache lines, so rows do not share L1 sets */
    GEMM_NB = 512, /* columns of a packed B block: KC x NB in L2 */
    GEMM_MG = 256, /* rows of C whose stacks are kept between superblocks */
    GEMM_MR = 14,  /* the largest tile of any kernel */
    GEMM_NR = 32,
    GEMM_STACK = 3, /* finished partial sums that can wait: levels of a tree over 8 */
};

/* One run of packed k of one leaf, and what happens at its end. */
struct gemm_step {
    int k0, k1; /* packed k */
    int load;   /* the chain goes on from C (accumulate, or the superblock before); else from +0 */
    int ends;   /* the leaf ends here: add `merges` waiting sums, then wait on the stack. Else the chain is kept in C */
    int depth;  /* sums waiting before this step */
    int merges; /* waiting sums to add, topmost first */
    int last;   /* the sum is complete: add the bias, write C */
};

struct gemm_tile {
    const float *a;    /* packed [rows][GEMM_LDA] */
    const float *b;    /* packed [k][nr] */
    const float *bias; /* [nr] or NULL */
    float *c;          /* [rows][ldc], nr columns */
    int64_t ldc;
    float *stack; /* GEMM_STACK tiles [mr][nr] */
    const struct gemm_step *step;
    int steps;
};

struct gemm_kernel {
    const char *name;
    int mr, nr;
    void (*tile[GEMM_MR + 1])(const struct gemm_tile *t); /* by number of rows, 1..mr */
    /* dst[r * ldd + c] = src[r * lds + c], and its transpose dst[c * ldd + r] = src[r * lds + c] */
    void (*copy)(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd);
    void (*transpose)(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd);
};

/* The kernels, best first; NULL ends. A kernel that this CPU cannot run is skipped. */
const struct gemm_kernel *gemm_kernel_avx512(void); /* NULL if not for this CPU or build */
const struct gemm_kernel *gemm_kernel_avx2(void);
const struct gemm_kernel *gemm_kernel_portable(void);

/* Scratch of one thread. */
struct gemm_work {
    float *a; /* [GEMM_MR][GEMM_LDA] */
    float *b; /* [kc * nb] */
    float *
        stack; /* GEMM_STACK tiles for each tile of [GEMM_MG, nb] when a tree spans superblocks; NULL: one segment only */
    int64_t kc, nb; /* kc <= GEMM_KC, nb a multiple of GEMM_NR */
};

/* Rows [m0, m1) and columns [n0, n1) of a product, on this thread. The arguments are valid (host_gemm_run checks). */
void gemm_block(const struct gemm_kernel *kernel, const struct gemm_args *a, int64_t m0, int64_t m1, int64_t n0,
                int64_t n1, const struct gemm_work *w);

/* OpenBLAS: not invariant. False where the build has none or a size does not fit its integers. */
bool gemm_blas_open(int threads, char *text, size_t size);
bool gemm_blas_run(const struct gemm_args *a, int threads);
