/* fp32 packing of the host GEMM, by a kernel's copy and transpose. */
#include <string.h>

#include "base/size.h"
#include "dev/host_gemm_kernel.h"

/* Panels of nr columns, [k][nr] each, zeros after the last column. */
void gemm_pack_b(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s, int64_t n0,
                 int64_t n1, void *panels) {
    enum { ROWS = 8 }; /* rows of k that are copied for all panels in turn: a long read from each */
    const int64_t nr = kn->nr, panel = s->len * nr, tail = (n1 - n0) % nr;
    float *dst = panels;
    if (tail) memset(dst + (n1 - n0) / nr * panel, 0, (size_t)panel * sizeof *dst);
    for (int i = 0; i < s->pieces; i++) {
        const struct gemm_term *t = &a->term[s->piece[i].term];
        const float *from = gemm_host(t->b);
        const int64_t at = s->piece[i].k, len = s->piece[i].len, rows = a->layout == GEMM_NT ? len : ROWS;
        for (int64_t k = 0; k < len; k += rows) {
            const int64_t take = size_min(rows, len - k);
            float *to = dst + (s->piece[i].at + k) * nr;
            for (int64_t n = n0; n < n1; n += nr, to += panel) {
                const int64_t cols = size_min(nr, n1 - n);
                if (a->layout == GEMM_NT)
                    kn->transpose(from + n * t->ldb + at, t->ldb, cols, take, to, nr);
                else
                    kn->copy(from + (at + k) * t->ldb + n, t->ldb, take, cols, to, nr);
            }
        }
    }
}

/* `rows` rows of A, [row][GEMM_LDA]. */
void gemm_pack_a(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_superblock *s, int64_t m,
                 int64_t rows, void *panel) {
    float *dst = panel;
    for (int i = 0; i < s->pieces; i++) {
        const struct gemm_term *t = &a->term[s->piece[i].term];
        const int64_t k = s->piece[i].k, len = s->piece[i].len;
        float *to = dst + s->piece[i].at;
        if (a->layout == GEMM_TN)
            kn->transpose(gemm_host(t->a) + k * t->lda + m, t->lda, len, rows, to, kn->lda);
        else
            kn->copy(gemm_host(t->a) + m * t->lda + k, t->lda, rows, len, to, kn->lda);
    }
}
