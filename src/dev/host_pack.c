/* Packing of factors of bf16 products, once for all products that read them. */
#include "dev/host_pack.h"

#include <string.h>

#include "base/clones.h"
#include "base/size.h"
#include "dev/host.h"
#include "dev/host_gemm.h"
#include "dev/host_gemm_kernel.h"
#include "numfmt/bf16.h"

enum { BLOCK = HOST_PACKED_BLOCK, ROWS = HOST_PACKED_ROWS, HALF = BLOCK / 2, PANEL = ROWS * BLOCK /* elements */ };

static uint16_t *host_codes(dptr p) { return (uint16_t *)(uintptr_t)p.a; }

CLONES static void encode(const float *x, int64_t n, uint16_t *out) {
    SIMD for (int64_t i = 0; i < n; i++) out[i] = bf16_encode_flushed(x[i]);
}
/* What a kernel's round_row does, on any CPU. */
static void encode_row(const float *x, int64_t n, int64_t at, uint16_t *to, int64_t ldb) {
    for (int64_t take; n > 0; at += take, x += take, n -= take) {
        take = size_min(n, BLOCK - at % BLOCK);
        encode(x, take, to + at / BLOCK * ldb + at % BLOCK);
    }
}

void host_pack_span(const struct dev *d, const struct packed_factor *f, int64_t row, int64_t col, const float *x,
                    int64_t n) {
    const struct gemm_kernel *kn = host_gemm_kernel_bf16(d->gemm);
    uint16_t *to = host_codes(f->at) + row / ROWS * ROWS * host_packed_k(f->segments, f->k) + row % ROWS * BLOCK;
    int64_t at = 0; /* packed k of the segment */
    for (int j = 0; j < f->segments && n > 0; j++) {
        const int64_t len = f->k[j + 1] - f->k[j], in = col - f->k[j];
        if (in >= 0 && in < len) {
            const int64_t take = size_min(n, len - in), end = at + in + take;
            (kn->round_row ? kn->round_row : encode_row)(x, take, at + in, to, PANEL);
            if (in + take == len && end % BLOCK)
                memset(to + end / BLOCK * PANEL + end % BLOCK, 0, (size_t)(BLOCK - end % BLOCK) * sizeof *to);
            col += take;
            x += take;
            n -= take;
        }
        at += size_ceil_div(len, BLOCK) * BLOCK;
    }
}

/* A panel of 32 columns of B from rows of x: as a panel of A, then pairs of k across the columns. */
static void pack_panel(const struct dev *d, const struct pack_args *a, int64_t n0) {
    const int64_t all = host_packed_k(a->to.segments, a->to.k), cols = a->to.k[a->to.segments];
    uint16_t *panel = host_codes(a->to.at) + n0 * all, rows[PANEL];
    for (int64_t r = 0; r < size_min(ROWS, a->rows - n0); r++)
        host_pack_span(d, &a->to, n0 + r, 0, host_f32(a->x) + (n0 + r) * a->ldx, cols);
    for (int64_t k = 0; k < all; k += BLOCK, panel += PANEL) {
        memcpy(rows, panel, sizeof rows);
        for (int c = 0; c < ROWS; c++)
            for (int i = 0; i < BLOCK; i++)
                panel[c / HALF * HALF * BLOCK + i / 2 * BLOCK + c % HALF * 2 + i % 2] = rows[c * BLOCK + i];
    }
}

/* Panels by the packing of a kernel that multiplies them as they are. */
static void pack_panels(const struct dev *d, const struct gemm_kernel *kn, const struct pack_args *a, int64_t panels) {
    struct gemm_args g = {.layout = GEMM_NT, .terms = 1, .segments = a->to.segments};
    struct gemm_plan p;
    struct gemm_cursor c = {0};
    struct gemm_superblock s;
    const int64_t all = host_packed_k(a->to.segments, a->to.k);
    g.term[0] = (struct gemm_term){.a = a->x, .b = a->x, .lda = a->ldx, .ldb = a->ldx};
    memcpy(g.term[0].k, a->to.k, sizeof a->to.k);
    gemm_plan_tree(kn, &g, &p);
    while (gemm_superblock_next(kn, &g, &p, kn->kc_tree, &c, &s)) {
#pragma omp parallel for num_threads(d->threads) if (a->rows * s.len > HOST_SERIAL)
        for (int64_t i = 0; i < panels; i++) {
            const int64_t from = i * ROWS, to = size_min(a->rows, from + ROWS);
            uint16_t *panel = host_codes(a->to.at) + from * all + s.k0 * ROWS;
            if (a->is_b)
                kn->pack_b(kn, &g, &s, from, to, panel);
            else
                kn->pack_a(kn, &g, &s, from, to - from, panel);
        }
    }
}

enum status host_pack(struct dev *d, const struct pack_args *a) {
    const struct gemm_kernel *kn = host_gemm_kernel_bf16(d->gemm);
    if (a->to.segments < 1 || a->to.segments > OPS_MAX_SEGMENTS || a->to.k[0] != 0)
        return TM_FAIL(TM_ERR_SHAPE, "pack: %d segments from k = %lld", a->to.segments, (long long)a->to.k[0]);
    const int64_t cols = a->to.k[a->to.segments], panels = size_ceil_div(a->rows, ROWS);
    if (a->rows < 0 || a->ldx < cols)
        return TM_FAIL(TM_ERR_SHAPE, "pack: %lld rows of %lld, %lld apart", (long long)a->rows, (long long)cols,
                       (long long)a->ldx);
    if (cols == 0) return TM_OK;
    if (kn->packed) {
        pack_panels(d, kn, a, panels);
        return TM_OK;
    }
#pragma omp parallel for num_threads(d->threads) if (a->rows * cols > HOST_SERIAL)
    for (int64_t i = 0; i < panels; i++) {
        if (a->is_b) {
            pack_panel(d, a, i * ROWS);
            continue;
        }
        for (int64_t r = i * ROWS; r < size_min(a->rows, (i + 1) * ROWS); r++)
            host_pack_span(d, &a->to, r, 0, host_f32(a->x) + r * a->ldx, cols);
    }
    return TM_OK;
}

/* --- read by products ------------------------------------------------------------------------------------------------------------- */
const void *host_packed_panel(const struct gemm_args *a, bool is_b, int64_t m, int64_t k0) {
    const dptr p = is_b ? a->packed_b : a->packed_a;
    if (!p.a) return NULL;
    if (!is_b) m += a->packed_row;
    return host_codes(p) + m / ROWS * ROWS * host_packed_k(a->segments, a->term[0].k) + k0 * ROWS;
}

void host_unpack_a(const struct gemm_args *a, int64_t k0, int64_t len, int64_t m, int64_t rows, float *out,
                   int64_t ld) {
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t *x =
            (const uint16_t *)host_packed_panel(a, false, m + r, k0) + (a->packed_row + m + r) % ROWS * BLOCK;
        for (int64_t k = 0; k < len; k += BLOCK, x += PANEL)
            for (int i = 0; i < HALF; i++) {
                out[r * ld + k + i] = bf16_decode(x[2 * i]);
                out[r * ld + k + HALF + i] = bf16_decode(x[2 * i + 1]);
            }
    }
}

void host_unpack_b(const struct gemm_args *a, int64_t k0, int64_t len, int64_t n0, int64_t n1, int64_t nr, float *out) {
    for (int64_t n = n0; n < n1; n += nr, out += len * nr)
        for (int64_t j = 0; j < nr; j++) {
            const uint16_t *x = (const uint16_t *)host_packed_panel(a, true, size_min(n + j, n1 - 1), k0) +
                                (n + j) % ROWS / HALF * HALF * BLOCK + (n + j) % HALF * 2;
            for (int64_t k = 0; k < len; k += BLOCK, x += PANEL)
                for (int i = 0; i < HALF; i++) {
                    out[(k + i) * nr + j] = n + j < n1 ? bf16_decode(x[i * BLOCK]) : 0;
                    out[(k + HALF + i) * nr + j] = n + j < n1 ? bf16_decode(x[i * BLOCK + 1]) : 0;
                }
        }
}
