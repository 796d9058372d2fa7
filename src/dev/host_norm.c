/* Norms and rotary embedding on the host: rows in parallel; gain gradients as leaves, so that no grid can be seen in them. */
#include <omp.h>

#include "base/size.h"
#include "dev/host.h"
#include "dev/host_pack.h"

enum status host_rmsnorm_fwd(struct dev *d, const struct rmsnorm_fwd_args *a) {
    const struct leaf *f = d->leaf;
    const float *x = host_f32(a->x), *delta = host_f32(a->delta), *gain = host_f32(a->gain);
    float *h = host_f32(a->h_out), *y = host_f32(a->y), *rstd = host_f32(a->rstd);
    int64_t c = a->c;
    char *base;
    size_t first, stride;
    if (delta && !h) return TM_FAIL(TM_ERR_INTERNAL, "rmsnorm: delta needs h_out");
    TM_TRY(host_scratch(d, 0, y ? 0 : (size_t)c * sizeof *y, &base, &first, &stride));
#pragma omp parallel for num_threads(d->threads) if (a->rows * c > HOST_SERIAL)
    for (int64_t r = 0; r < a->rows; r++) {
        float *row = y ? y + r * c : (float *)(void *)(base + first + (size_t)omp_get_thread_num() * stride);
        rstd[r] = f->rms_fwd(x + r * c, delta ? delta + r * c : NULL, gain, h ? h + r * c : NULL, row, c, a->eps);
        if (a->packed.at.a) host_pack_span(d, &a->packed, r, 0, row, c);
    }
    return TM_OK;
}

/* Columns [c0, c0 + n) of leaf (group, segment): tokens rising, then heads rising. */
static void dgain_leaf(const struct dev *d, const struct rmsnorm_bwd_args *a, int64_t group, int segment, int64_t c0,
                       int64_t n) {
    const float *dy = host_f32(a->dy) + c0, *h = host_f32(a->h) + c0, *rstd = host_f32(a->rstd);
    float *out = host_f32(a->dgain) + (group * OPS_ROW_SEGMENTS + segment) * a->c + c0;
    int64_t h0 = group * a->group_heads, h1 = size_min(h0 + a->group_heads, a->heads);
    for (int64_t t = host_row_segment(a->tokens, segment); t < host_row_segment(a->tokens, segment + 1); t++)
        for (int64_t r = t * a->heads + h0; r < t * a->heads + h1; r++)
            d->leaf->rms_dgain(out, dy + r * a->c, h + r * a->c, rstd[r], n);
}

enum status host_rmsnorm_bwd(struct dev *d, const struct rmsnorm_bwd_args *a) {
    const struct leaf *f = d->leaf;
    if (a->group_heads < 1 || a->heads < 0)
        return TM_FAIL(TM_ERR_SHAPE, "rmsnorm: %lld heads in groups of %lld", (long long)a->heads,
                       (long long)a->group_heads);
    int64_t c = a->c, rows = a->tokens * a->heads, groups = size_ceil_div(a->heads, a->group_heads);
    if (a->dgain.a) { /* before dx, which may overwrite dy */
#pragma omp parallel for collapse(3) num_threads(d->threads) if (rows * c > HOST_SERIAL)
        for (int64_t g = 0; g < groups; g++)
            for (int s = 0; s < OPS_ROW_SEGMENTS; s++)
                for (int64_t c0 = 0; c0 < c; c0 += HOST_COLUMNS)
                    dgain_leaf(d, a, g, s, c0, size_min(HOST_COLUMNS, c - c0));
    }
    const float *dy = host_f32(a->dy), *h = host_f32(a->h), *gain = host_f32(a->gain), *rstd = host_f32(a->rstd);
    const float *dres = host_f32(a->dres);
    float *dx = host_f32(a->dx);
#pragma omp parallel for num_threads(d->threads) if (rows * c > HOST_SERIAL)
    for (int64_t r = 0; r < rows; r++)
        f->rms_bwd(dy + r * c, h + r * c, gain, rstd[r], dres ? dres + r * c : NULL, dx + r * c, c);
    return TM_OK;
}

enum status host_layernorm_fwd(struct dev *d, const struct layernorm_fwd_args *a) {
    const struct leaf_layernorm w = {host_f32(a->gain), host_f32(a->bias), a->offset, a->eps};
    const float *x = host_f32(a->x), *delta = host_f32(a->delta);
    float *h = host_f32(a->h_out), *y = host_f32(a->y), *mean = host_f32(a->mean), *rstd = host_f32(a->rstd);
    int64_t c = a->c;
    char *base;
    size_t first, stride;
    if (delta && !h) return TM_FAIL(TM_ERR_INTERNAL, "layernorm: delta needs h_out");
    TM_TRY(host_scratch(d, 0, y ? 0 : (size_t)c * sizeof *y, &base, &first, &stride));
#pragma omp parallel for num_threads(d->threads) if (a->rows * c > HOST_SERIAL)
    for (int64_t r = 0; r < a->rows; r++) {
        float *row = y ? y + r * c : (float *)(void *)(base + first + (size_t)omp_get_thread_num() * stride);
        d->leaf->layernorm_fwd(&w, x + r * c, delta ? delta + r * c : NULL, h ? h + r * c : NULL, row, c, &mean[r],
                               &rstd[r]);
        if (a->packed.at.a) host_pack_span(d, &a->packed, r, 0, row, c);
    }
    return TM_OK;
}

enum status host_layernorm_bwd(struct dev *d, const struct layernorm_bwd_args *a) {
    const struct leaf_layernorm w = {.gain = host_f32(a->gain), .offset = a->offset};
    const float *dy = host_f32(a->dy), *h = host_f32(a->h), *mean = host_f32(a->mean), *rstd = host_f32(a->rstd);
    const float *dres = host_f32(a->dres);
    float *dx = host_f32(a->dx), *dgain = host_f32(a->dgain);
    int64_t c = a->c;
    if (dgain) { /* before dx, which may overwrite dy */
#pragma omp parallel for collapse(2) num_threads(d->threads) if (a->rows * c > HOST_SERIAL)
        for (int s = 0; s < OPS_ROW_SEGMENTS; s++)
            for (int64_t c0 = 0; c0 < c; c0 += HOST_COLUMNS)
                for (int64_t r = host_row_segment(a->rows, s); r < host_row_segment(a->rows, s + 1); r++)
                    d->leaf->layernorm_dgain(dgain + s * c + c0, dy + r * c + c0, h + r * c + c0, mean[r], rstd[r],
                                             size_min(HOST_COLUMNS, c - c0));
    }
#pragma omp parallel for num_threads(d->threads) if (a->rows * c > HOST_SERIAL)
    for (int64_t r = 0; r < a->rows; r++)
        d->leaf->layernorm_bwd(&w, dy + r * c, h + r * c, mean[r], rstd[r], dres ? dres + r * c : NULL, dx + r * c, c);
    return TM_OK;
}

enum status host_rope(struct dev *d, const struct rope_args *a) {
    const struct leaf *f = d->leaf;
    if (a->rot < 0 || a->rot > a->d || a->rot % 2 || a->ld < a->heads * a->d)
        return TM_FAIL(TM_ERR_SHAPE, "rope: rot %lld of %lld channels, %lld heads, row distance %lld",
                       (long long)a->rot, (long long)a->d, (long long)a->heads, (long long)a->ld);
    float *x = host_f32(a->x), sign = a->sign < 0 ? -1.0f : 1.0f;
    const float *table = host_f32(a->table);
    const int32_t *position = host_i32(a->positions);
#pragma omp parallel for num_threads(d->threads) if (a->n * a->heads * a->rot > HOST_SERIAL)
    for (int64_t t = 0; t < a->n; t++)
        for (int64_t i = 0; i < a->heads; i++)
            f->rope(x + t * a->ld + i * a->d, table + position[t] * a->rot, a->rot / 2, sign);
    return TM_OK;
}
