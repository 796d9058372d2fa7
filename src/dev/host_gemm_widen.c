/* bf16 products on the fp32 tiles of any kernel, with the bits of AMX: packing rounds, and a block of k is its even half plus its odd half. */
#include <string.h>

#include "base/size.h"
#include "dev/host_gemm_kernel.h"
#include "dev/host_pack.h"
#include "numfmt/bf16.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { HALF = GEMM_BLOCK / 2 };

/* Denormals read as zero and results that would be one are zero, as in AMX; and back. Where the CPU has no such mode, results that are
 * denormal have other bits there. */
#if defined(__x86_64__)
static unsigned flush_on(void) {
    const unsigned state = _mm_getcsr();
    _mm_setcsr(state | 0x8040); /* results, operands */
    return state;
}
static void flush_off(unsigned state) { _mm_setcsr(state); }
#else
static unsigned flush_on(void) { return 0; }
static void flush_off(unsigned state) { (void)state; }
#endif

/* What AMX takes for x: denormals are zero, the rest is rounded. */
static float rounded(float x) {
    return (bits_of(x) & 0x7f800000u) ? bf16_round(x) : bits_float(bits_of(x) & 0x80000000u);
}

/* Blocks of rows of A: even k, then odd k. */
static void pack_a_widened(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s,
                           int64_t m, int64_t rows, void *dst) {
    if (a->packed_a.a) {
        host_unpack_a(a, s->k0, s->len, m, rows, dst, kn->lda);
        return;
    }
    for (int64_t r = 0; r < rows; r++) memset((float *)dst + r * kn->lda, 0, (size_t)s->len * sizeof(float));
    gemm_pack_a(kn, a, s, m, rows, dst);
    for (int64_t r = 0; r < rows; r++)
        for (int k = 0; k < s->len; k += GEMM_BLOCK) {
            float *x = (float *)dst + r * kn->lda + k, y[GEMM_BLOCK];
            memcpy(y, x, sizeof y);
            for (int i = 0; i < HALF; i++) {
                x[i] = rounded(y[2 * i]);
                x[HALF + i] = rounded(y[2 * i + 1]);
            }
        }
}

static void pack_b_widened(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s,
                           int64_t n0, int64_t n1, void *dst) {
    const int64_t panels = size_ceil_div(n1 - n0, kn->nr), nr = kn->nr;
    float y[GEMM_BLOCK * GEMM_NR];
    if (a->packed_b.a) {
        host_unpack_b(a, s->k0, s->len, n0, n1, kn->nr, dst);
        return;
    }
    memset(dst, 0, (size_t)(panels * s->len * nr) * sizeof(float));
    gemm_pack_b(kn, a, s, n0, n1, dst);
    for (int64_t i = 0; i < panels * s->len; i += GEMM_BLOCK) { /* a panel is whole blocks */
        float *x = (float *)dst + i * nr;
        for (int64_t j = 0; j < GEMM_BLOCK * nr; j++) y[j] = rounded(x[j]);
        for (int64_t k = 0; k < HALF; k++) {
            memcpy(x + k * nr, y + 2 * k * nr, (size_t)nr * sizeof *x);
            memcpy(x + (HALF + k) * nr, y + (2 * k + 1) * nr, (size_t)nr * sizeof *x);
        }
    }
}

/* The steps of a leaf's run: it begins in its slot (from C or +0), then leaf += even + odd for each block. */
static int leaf_steps(const struct gemm_step *s, int to, struct gemm_step *out) {
    struct gemm_step *p = out;
    *p++ = (struct gemm_step){.k0 = s->k0, .k1 = s->k0, .load = s->load, .to = SLOT_LEAF};
    for (int k = s->k0; k < s->k1; k += GEMM_BLOCK) {
        *p++ = (struct gemm_step){.k0 = k, .k1 = k + HALF, .to = SLOT_EVEN};
        *p++ = (struct gemm_step){
            .k0 = k + HALF, .k1 = k + GEMM_BLOCK, .adds = 2, .add = {SLOT_EVEN, SLOT_LEAF}, .to = SLOT_LEAF};
    }
    p[-1].to = to;
    return (int)(p - out);
}

/* The tree and the bias keep denormals: ranks that add the leaves of others do too. */
static void add_sums(const struct gemm_tile *t, const struct gemm_step *s, int rows) {
    const int nr = t->kn->nr, size = t->kn->mr * nr;
    float *x = t->slot[0] + SLOT_LEAF * size, *to = t->c;
    int64_t ld = t->ldc;
    for (int d = 0; d < s->adds; d++) {
        const float *y =
            s->add[d] < SLOT_KEPT ? t->slot[0] + s->add[d] * size : t->slot[1] + (s->add[d] - SLOT_KEPT) * size;
        for (int i = 0; i < rows * nr; i++) x[i] += y[i];
    }
    if (s->last && t->bias)
        for (int i = 0; i < rows * nr; i++) x[i] += t->bias[i % nr];
    if (s->to != SLOT_C) {
        to = s->to < SLOT_KEPT ? t->slot[0] + s->to * size : t->slot[1] + (s->to - SLOT_KEPT) * size;
        ld = nr;
    }
    for (int i = 0; i < rows; i++) memcpy(to + i * ld, x + i * nr, (size_t)nr * sizeof *x);
}

static void tile_widened(const struct gemm_tile *t, int rows) {
    struct gemm_step step[1 + 2 * (GEMM_KC / GEMM_BLOCK)];
    for (const struct gemm_step *s = t->step; s < t->step + t->steps; s++) {
        const bool more = s->adds > 0 || (s->last && t->bias);
        struct gemm_tile leaf = *t;
        leaf.step = step;
        leaf.steps = leaf_steps(s, more ? SLOT_LEAF : s->to, step);
        leaf.bias = NULL;
        const unsigned state = flush_on();
        t->kn->fp32->tile(&leaf, rows);
        flush_off(state);
        if (more) add_sums(t, s, rows);
    }
}

struct gemm_kernel gemm_widen(const struct gemm_kernel *fp32) {
    struct gemm_kernel kn = *fp32;
    kn.block = GEMM_BLOCK;
    kn.direct = false;
    kn.fp32 = fp32;
    kn.tile = tile_widened;
    kn.pack_a = pack_a_widened;
    kn.pack_b = pack_b_widened;
    return kn;
}
