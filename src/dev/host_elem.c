/* Element-wise operations, embedding and leaf sums on the host. */
#include <omp.h>
#include <string.h>

#include "base/size.h"
#include "dev/host.h"
#include "dev/host_pack.h"

/* Run `body` over pieces [i, i + m) of n elements on the threads of d; nothing here depends on how they are dealt. */
#define PIECES(total, body)                                                            \
    do {                                                                               \
        int64_t n_ = (total);                                                          \
        _Pragma("omp parallel for num_threads(d->threads) if (n_ > HOST_SERIAL)") /**/ \
            for (int64_t i = 0; i < n_; i += HOST_CHUNK) {                             \
            int64_t m = size_min(HOST_CHUNK, n_ - i);                                  \
            body;                                                                      \
        }                                                                              \
    } while (0)

enum status host_add(struct dev *d, const struct add_args *a) {
    PIECES(a->n, d->leaf->add(host_f32(a->y) + i, host_f32(a->x) + i, m));
    return TM_OK;
}
enum status host_bias_add(struct dev *d, const struct bias_add_args *a) {
    const float *bias = host_f32(a->bias);
    float *x = host_f32(a->x);
#pragma omp parallel for num_threads(d->threads) if (a->rows * a->c > HOST_SERIAL)
    for (int64_t r = 0; r < a->rows; r++) d->leaf->add(x + r * a->c, bias, a->c);
    return TM_OK;
}
enum status host_scale(struct dev *d, const struct scale_args *a) {
    PIECES(a->n, d->leaf->scale(host_f32(a->y) + i, m, a->s));
    return TM_OK;
}
enum status host_fill(struct dev *d, const struct fill_args *a) {
    float *y = host_f32(a->y);
    PIECES(a->n, for (int64_t j = i; j < i + m; j++) y[j] = a->value);
    return TM_OK;
}
enum status host_copy(struct dev *d, const struct copy_args *a) {
    char *y = (char *)host_f32(a->y);
    const char *x = (const char *)host_f32(a->x);
    PIECES((int64_t)a->bytes, memcpy(y + i, x + i, (size_t)m));
    return TM_OK;
}
enum status host_copy_rows(struct dev *d, const struct copy_rows_args *a) {
    float *y = host_f32(a->y);
    const float *x = host_f32(a->x);
    if (a->cols < 1) return TM_OK; /* a rank without KV heads has no memory for them */
#pragma omp parallel for num_threads(d->threads) if (a->rows * a->cols > HOST_SERIAL)
    for (int64_t r = 0; r < a->rows; r++) memcpy(y + r * a->ldy, x + r * a->ldx, (size_t)a->cols * sizeof *y);
    return TM_OK;
}
/* Rows [n / k, k] of an activation's result, written by `row` and packed. y 0: packed alone. */
typedef void packed_row(const struct dev *d, const void *args, int64_t at, float *y, int64_t n);
static enum status packed_rows(struct dev *d, const char *op, packed_row *row, const void *args, int64_t n, dptr y,
                               const struct packed_factor *f) {
    const int64_t cols = f->k[f->segments];
    char *base;
    size_t first, stride;
    if (cols < 1 || n % cols)
        return TM_FAIL(TM_ERR_SHAPE, "%s: %lld elements packed in rows of %lld", op, (long long)n, (long long)cols);
    TM_TRY(host_scratch(d, 0, y.a ? 0 : (size_t)cols * sizeof(float), &base, &first, &stride));
#pragma omp parallel for num_threads(d->threads) if (n > HOST_SERIAL)
    for (int64_t r = 0; r < n / cols; r++) {
        float *out =
            y.a ? host_f32(y) + r * cols : (float *)(void *)(base + first + (size_t)omp_get_thread_num() * stride);
        row(d, args, r * cols, out, cols);
        host_pack_span(d, f, r, 0, out, cols);
    }
    return TM_OK;
}

static void swiglu_row(const struct dev *d, const void *args, int64_t at, float *y, int64_t n) {
    const struct swiglu_fwd_args *a = args;
    d->leaf->swiglu_fwd(host_f32(a->g) + at, host_f32(a->u) + at, y, n);
}
enum status host_swiglu_fwd(struct dev *d, const struct swiglu_fwd_args *a) {
    if (a->packed.at.a && a->n > 0) return packed_rows(d, "swiglu", swiglu_row, a, a->n, a->y, &a->packed);
    PIECES(a->n, d->leaf->swiglu_fwd(host_f32(a->g) + i, host_f32(a->u) + i, host_f32(a->y) + i, m));
    return TM_OK;
}
enum status host_swiglu_bwd(struct dev *d, const struct swiglu_bwd_args *a) {
    PIECES(a->n, d->leaf->swiglu_bwd(host_f32(a->g) + i, host_f32(a->u) + i, host_f32(a->dy) + i, host_f32(a->dg) + i,
                                     host_f32(a->du) + i, m));
    return TM_OK;
}
static enum status check_kind(int kind) {
    if (kind >= 0 && kind < ACT_KINDS) return TM_OK;
    return TM_FAIL(TM_ERR_INTERNAL, "act: kind %d, expected 0 to %d", kind, ACT_KINDS - 1);
}
static void act_row(const struct dev *d, const void *args, int64_t at, float *y, int64_t n) {
    const struct act_fwd_args *a = args;
    d->leaf->act_fwd((enum act_kind)a->kind, host_f32(a->x) + at, y, n);
}
enum status host_act_fwd(struct dev *d, const struct act_fwd_args *a) {
    TM_TRY(check_kind(a->kind));
    if (a->packed.at.a && a->n > 0) return packed_rows(d, "act", act_row, a, a->n, a->y, &a->packed);
    PIECES(a->n, act_row(d, a, i, host_f32(a->y) + i, m));
    return TM_OK;
}
enum status host_act_bwd(struct dev *d, const struct act_bwd_args *a) {
    TM_TRY(check_kind(a->kind));
    PIECES(a->n,
           d->leaf->act_bwd((enum act_kind)a->kind, host_f32(a->x) + i, host_f32(a->dy) + i, host_f32(a->dx) + i, m));
    return TM_OK;
}
enum status host_adamw(struct dev *d, const struct adamw_args *a) {
    PIECES(a->n, d->leaf->adamw(host_f32(a->w) + i, host_f32(a->m) + i, host_f32(a->v) + i, host_f32(a->g) + i, m, a));
    return TM_OK;
}
enum status host_tree_fold(struct dev *d, const struct tree_fold_args *a) {
    float *x = host_f32(a->x);
    PIECES(a->n,
           for (int64_t step = 1; step < a->parts; step *= 2) for (int64_t p = 0; p + step < a->parts; p += 2 * step)
               d->leaf->add(x + p * a->n + i, x + (p + step) * a->n + i, m));
    return TM_OK;
}

enum status host_embed_fwd(struct dev *d, const struct embed_fwd_args *a) {
    const int32_t *ids = host_i32(a->ids);
    const float *table = host_f32(a->table);
    float *y = host_f32(a->y);
#pragma omp parallel for num_threads(d->threads) if (a->n * a->c > HOST_SERIAL)
    for (int64_t t = 0; t < a->n; t++) {
        int64_t row = ids[t] - a->row0;
        float *out = y + t * a->c;
        memset(out, 0, (size_t)a->c * sizeof *out);
        if (row >= 0 && row < a->rows) d->leaf->add(out, table + row * a->c, a->c); /* +0 + -0 = +0 */
    }
    return TM_OK;
}
/* Columns in parallel: each sees its tokens in rising order. */
enum status host_embed_bwd(struct dev *d, const struct embed_bwd_args *a) {
    const int32_t *ids = host_i32(a->ids);
    const float *dy = host_f32(a->dy);
    float *dtable = host_f32(a->dtable);
#pragma omp parallel for num_threads(d->threads) if (a->n * a->c > HOST_SERIAL)
    for (int64_t c0 = 0; c0 < a->c; c0 += HOST_COLUMNS)
        for (int64_t t = 0; t < a->n; t++) {
            int64_t row = ids[t] - a->row0;
            if (row >= 0 && row < a->rows)
                d->leaf->add(dtable + row * a->c + c0, dy + t * a->c + c0, size_min(HOST_COLUMNS, a->c - c0));
        }
    return TM_OK;
}

enum status host_colsum(struct dev *d, const struct colsum_args *a) {
    const float *x = host_f32(a->x);
    float *out = host_f32(a->out);
    if (a->ld < a->c)
        return TM_FAIL(TM_ERR_SHAPE, "colsum: row distance %lld of %lld columns", (long long)a->ld, (long long)a->c);
#pragma omp parallel for collapse(2) num_threads(d->threads) if (a->n * a->c > HOST_SERIAL)
    for (int s = 0; s < OPS_ROW_SEGMENTS; s++)
        for (int64_t c0 = 0; c0 < a->c; c0 += HOST_COLUMNS)
            for (int64_t r = host_row_segment(a->n, s); r < host_row_segment(a->n, s + 1); r++)
                d->leaf->add(out + s * a->c + c0, x + r * a->ld + c0, size_min(HOST_COLUMNS, a->c - c0));
    return TM_OK;
}

/* Row sums on the threads, added in the order of the rows. */
enum status host_sum_squares(struct dev *d, const struct sum_squares_args *a) {
    enum { ROWS = 1024 };
    double part[ROWS], sum = 0;
    const float *x = host_f32(a->x);
    for (int64_t r0 = 0; r0 < a->rows; r0 += ROWS) {
        int64_t rows = size_min(ROWS, a->rows - r0);
#pragma omp parallel for num_threads(d->threads) if (rows * a->cols > HOST_SERIAL)
        for (int64_t r = 0; r < rows; r++) part[r] = d->leaf->sum_squares(x + (r0 + r) * a->ld, a->cols);
        for (int64_t r = 0; r < rows; r++) sum += part[r];
    }
    *host_f64(a->out) = sum;
    return TM_OK;
}

/* max(*out, |x|) by bit patterns, in which a NaN is above everything. */
static void raise_amax(float *out, uint32_t bits) {
    uint32_t old;
    memcpy(&old, out, sizeof old);
    old &= 0x7fffffffu;
    if (bits < old) bits = old;
    memcpy(out, &bits, sizeof bits);
}
enum status host_amax(struct dev *d, const struct amax_args *a) {
    const float *x = host_f32(a->x);
    uint32_t top = 0;
#pragma omp parallel for reduction(max : top) num_threads(d->threads) if (a->rows * a->cols > HOST_SERIAL)
    for (int64_t r = 0; r < a->rows; r++) {
        uint32_t b = d->leaf->amax(x + r * a->ld, a->cols);
        top = b > top ? b : top;
    }
    raise_amax(host_f32(a->out), top);
    return TM_OK;
}
/* Threads take whole rows of blocks, so no two of them raise the same maximum. */
enum status host_amax_blocks(struct dev *d, const struct amax_blocks_args *a) {
    const struct block_grid *g = &a->grid;
    const float *x = host_f32(a->x);
    float *out = host_f32(a->out);
    if (g->rows < 1 || g->cols < 1 || g->row0 < 0 || g->col0 < 0)
        return TM_FAIL(TM_ERR_SHAPE, "amax_blocks: blocks of %lld x %lld", (long long)g->rows, (long long)g->cols);
    int64_t first = g->row0 / g->rows, last = size_ceil_div(g->row0 + a->rows, g->rows);
#pragma omp parallel for num_threads(d->threads) if (a->rows * a->cols > HOST_SERIAL)
    for (int64_t b = first; b < last; b++)
        for (int64_t r = size_max(0, b * g->rows - g->row0); r < size_min(a->rows, (b + 1) * g->rows - g->row0); r++)
            for (int64_t c = 0, next; c < a->cols; c = next) {
                int64_t k = (g->col0 + c) / g->cols;
                next = size_min(a->cols, (k + 1) * g->cols - g->col0);
                raise_amax(out + b * g->ld + k, d->leaf->amax(x + r * a->ld + c, next - c));
            }
    return TM_OK;
}
