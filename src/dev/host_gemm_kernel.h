/* Inside the host GEMM: what the planner, the block driver and the kernels of the instruction sets agree on.
 *
 * A product runs as blocks of C. For each block, k goes by in stretches of at most kc ("superblocks"): all pieces of terms and
 * segments inside one are packed one after the other, so that a leaf, whatever terms it chains, is one run of packed k. A tile of C
 * (up to mr x nr, in registers) takes all leaves of the superblock in turn; finished leaves wait on a small stack of tiles and are
 * added in tree order as soon as their partner is there.
 *
 * bf16 (host_gemm.h has the definition). Leaves are padded with zeros to blocks of GEMM_BLOCK k. AMX has an instruction for a block;
 * any fp32 kernel computes one as two steps, its even and its odd k, which are packed in this order as rounded fp32 ("widened"). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dev/ops.h"

enum {
    GEMM_KC = 640,       /* k of a superblock of the fp32 kernels: an mr x KC panel of A stays in L1 or close */
    GEMM_LDA = 640 + 16, /* row distance of packed A: an odd number of cache lines, so rows do not share L1 sets */
    GEMM_NB = 384,       /* the most columns of a packed B block (KC x nb in L2) of any fp32 kernel */
    GEMM_MA = 112,       /* rows of A packed at a time */
    GEMM_ALIKE = 1024,   /* rows so many floats apart share L1 sets */
    GEMM_MG = 672,       /* rows of C, at NB columns, whose sums are kept between superblocks */
    GEMM_MR = 32,        /* the largest tile of any kernel */
    GEMM_NR = 32,
    GEMM_DEPTH = 3,  /* finished sums that can wait for their partner: levels of a tree over 8, less the root */
    GEMM_BLOCK = 32, /* k of a bf16 block */
    GEMM_PIECES = OPS_MAX_TERMS * OPS_MAX_SEGMENTS,
};

/* Where a tile of sums may lie: C itself, or a slot that is hot (inside one superblock; one set a thread, in L1) or kept (waits for a
 * later superblock; one set for each tile of C). Hot ones are DEPTH waiting sums and, for widened bf16, the even half of a block and the
 * leaf so far. */
enum { SLOT_C = -1, SLOT_HOT = 0, SLOT_EVEN = GEMM_DEPTH, SLOT_LEAF, SLOT_KEPT };

/* One run of packed k of one leaf, and what happens at its end. */
struct gemm_step {
    int k0, k1; /* packed k */
    int load;   /* the chain goes on from C (accumulation, or the leaf began in the superblock before); else from +0 */
    int adds;   /* sums to add at the end, in this order */
    int add[GEMM_DEPTH + 2]; /* their slots */
    int to;                  /* slot of the result */
    int last;                /* the product is complete: add the bias */
};

/* The leaves of a product that are not empty, and where the tree adds them. */
struct gemm_plan {
    int leaves;
    int segment[OPS_MAX_SEGMENTS];    /* of each leaf */
    int merges[OPS_MAX_SEGMENTS];     /* waiting sums to add after this leaf, topmost first */
    int64_t k[OPS_MAX_SEGMENTS], all; /* all: packed */
};

/* A stretch of packed k: the pieces of the factors that fill it, and the steps of a tile. What no piece covers is zero. */
struct gemm_superblock {
    int len, pieces, steps;
    int64_t k0; /* packed k before it */
    struct {
        int term, at, len; /* at: packed k */
        int64_t k;         /* in the factors */
    } piece[GEMM_PIECES];
    struct gemm_step step[OPS_MAX_SEGMENTS];
};

/* Where the walk over k stands. */
struct gemm_cursor {
    int leaf;
    int term;        /* inside the leaf */
    int64_t k, done; /* of this term; of this leaf */
    int64_t at;      /* packed k so far */
    int depth;       /* sums that wait */
};

struct gemm_kernel;
struct gemm_tile {
    const struct gemm_kernel *kn;
    const void *a;     /* rows: packed, or where they lie (`direct`) */
    int64_t lda;       /* elements from row to row, where rows lie one by one (fp32) */
    const void *b;     /* packed panel of nr columns */
    const float *bias; /* [nr] or NULL */
    float *c;          /* [rows][ldc], nr columns */
    int64_t ldc;
    float *slot[2]; /* SLOT_KEPT hot and GEMM_DEPTH kept tiles [mr][nr] */
    const struct gemm_step *step;
    int steps;
};

struct gemm_kernel {
    const char *name;
    int mr, nr;
    int kc;      /* most k of a superblock, where the product is one chain: A's panel of a tile stays in L1 or close */
    int kc_tree; /* and where it is a tree: large enough that most sums wait in L1 */
    int nb;      /* most columns of a packed B block, a multiple of nr */
    int lda; /* elements of packed A a row: panels of mr rows lie mr * lda apart; 0: as many as the superblock has k */
    int element; /* bytes of a packed element */
    int block;   /* leaves are padded to a multiple of so many k: 1, or GEMM_BLOCK (bf16) */
    bool whole;  /* tile() writes all mr rows whatever `rows` is, and reads as many of A */
    bool direct; /* a tile can read rows of A where they lie */
    bool packed; /* its panels lie as those of a packed factor (host_pack.h) */
    int wake;    /* multiply-adds worth waking a thread for: about 10 us */
    int pack;    /* packing an element costs as much as so many multiply-adds */
    void (*tile)(const struct gemm_tile *t, int rows); /* 1 <= rows <= mr */
    /* Pack a superblock of `rows` rows of A from row m; of the columns [n0, n1) of B, panel after panel, zeros after the last column */
    void (*pack_a)(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s, int64_t m,
                   int64_t rows, void *dst);
    void (*pack_b)(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s, int64_t n0,
                   int64_t n1, void *dst);
    /* fp32: dst[r * ldd + c] = src[r * lds + c], and its transpose dst[c * ldd + r] = src[r * lds + c] */
    void (*copy)(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd);
    void (*transpose)(const float *src, int64_t lds, int64_t rows, int64_t cols, float *dst, int64_t ldd);
    /* bf16: n elements of a row, rounded, to packed k = `at` and on of a row whose blocks lie ldb apart; NULL: host_pack.c does it */
    void (*round_row)(const float *src, int64_t n, int64_t at, uint16_t *dst, int64_t ldb);
    void (*enter)(void), (*leave)(void); /* around a block, on its thread; NULL: nothing to do */
    const struct gemm_kernel *fp32;      /* whose tiles serve a widened kernel */
};

/* The kernels; NULL where this CPU, system or build cannot run one. */
const struct gemm_kernel *gemm_kernel_avx512(void);
const struct gemm_kernel *gemm_kernel_avx2(void);
const struct gemm_kernel *gemm_kernel_portable(void);
const struct gemm_kernel *gemm_kernel_amx(void);               /* bf16 */
struct gemm_kernel gemm_widen(const struct gemm_kernel *fp32); /* bf16 on the tiles of an fp32 kernel */

/* Elements of packed A a row, in a superblock of len k. */
static inline int64_t gemm_lda(const struct gemm_kernel *kn, int64_t len) { return kn->lda ? kn->lda : len; }

/* Scratch of one thread. */
struct gemm_work {
    void *a;            /* elements_a, and mr rows more for a `whole` kernel */
    void *b;            /* elements_b */
    float *kept;        /* GEMM_DEPTH tiles for each tile of [GEMM_MG, GEMM_NB]; may be NULL for one segment */
    int kc, nb;         /* kc at most the kernel's; nb a multiple of nr */
    int64_t elements_a; /* >= mr rows */
    int64_t elements_b; /* >= kc * nr */
};

/* The tree of a product; the next superblock of at most kc: as many whole leaves as fit, or an even share of one that is longer. False
 * when k is used up. */
void gemm_plan_tree(const struct gemm_kernel *kn, const struct gemm_args *a, struct gemm_plan *p);
bool gemm_superblock_next(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_plan *p, int kc,
                          struct gemm_cursor *c, struct gemm_superblock *s);

/* fp32 packing by the kernel's copy and transpose. A: [row][lda]; panels of B: [k][nr]. */
void gemm_pack_a(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s, int64_t m,
                 int64_t rows, void *dst);
void gemm_pack_b(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s, int64_t n0,
                 int64_t n1, void *dst);

static inline const float *gemm_host(dptr p) { return (const float *)(uintptr_t)p.a; }

/* Rows [m0, m1) and columns [n0, n1) of a product, on this thread. The arguments are valid (host_gemm_run checks). */
void gemm_block(const struct gemm_kernel *kernel, const struct gemm_args *a, int64_t m0, int64_t m1, int64_t n0,
                int64_t n1, const struct gemm_work *w);

/* OpenBLAS: not invariant. False where the build has none or a size does not fit its integers. */
bool gemm_blas_open(int threads, char *text, size_t size);
bool gemm_blas_run(const struct gemm_args *a, int threads);
