/* The scales of FP8 weights. */
#include "hub/fp8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"

static enum status name_beside(const struct hub_entry *weight, const char *suffix, char out[TENSOR_NAME_MAX]) {
    const char *dot = strrchr(weight->name, '.');
    const int n = dot ? (int)(dot - weight->name) : (int)strlen(weight->name);
    if (snprintf(out, TENSOR_NAME_MAX, "%.*s.%s", n, weight->name, suffix) >= TENSOR_NAME_MAX)
        return TM_FAIL(TM_ERR_FORMAT, "tensor \"%s\": a name of more than %d characters", weight->name,
                       TENSOR_NAME_MAX);
    return TM_OK;
}

static enum status check_scales(const struct hub_model *m, const struct hub_entry *e, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]) || x[i] <= 0)
            return TM_FAIL(TM_ERR_NUMERIC, "%s: tensor \"%s\" holds the scale %g: expected finite numbers above 0",
                           hub_path(m, e), e->name, (double)x[i]);
    return TM_OK;
}

/* What the scales are of, from the axes that have more than one element. */
static enum status find_blocks(const struct hub_model *m, const struct hub_entry *w, const struct hub_entry *e,
                               struct hub_fp8 *f) {
    const int64_t rows = w->shape[0], cols = w->shape[1], down = size_ceil_div(rows, HUB_FP8_TILE),
                  across = size_ceil_div(cols, HUB_FP8_TILE);
    int64_t axis[2] = {1, 1};
    int axes = 0;
    for (int i = 0; i < e->rank; i++)
        if (e->shape[i] > 1) axis[axes < 2 ? axes : 1] = e->shape[i], axes++;
    *f = (struct hub_fp8){.n = e->elems, .rows = size_max(rows, 1), .cols = size_max(cols, 1), .ld = 1};
    if (e->elems == 1) return TM_OK;
    if (axes == 1 && axis[0] == rows && e->shape[0] == rows) {
        f->rows = 1;
        return TM_OK;
    }
    f->rows = f->cols = HUB_FP8_TILE;
    f->ld = across;
    const bool tiles = axes == 2 ? axis[0] == down && axis[1] == across
                                 : axes == 1 && axis[0] == down * across && (down == 1 || across == 1);
    if (tiles) return TM_OK;
    return TM_FAIL(TM_ERR_SHAPE,
                   "%s: tensor \"%s\" has %lld scales for a weight of %lld x %lld: expected 1, %lld (rows) or %lld x "
                   "%lld (tiles of %d)",
                   hub_path(m, e), e->name, (long long)e->elems, (long long)rows, (long long)cols, (long long)rows,
                   (long long)down, (long long)across, HUB_FP8_TILE);
}

enum status hub_fp8_read(const struct hub_model *m, const struct hub_entry *weight, struct hub_fp8 *out) {
    char name[2][TENSOR_NAME_MAX];
    const struct hub_entry *e;
    *out = (struct hub_fp8){0};
    TM_TRY(name_beside(weight, "weight_scale", name[0]));
    TM_TRY(name_beside(weight, "weight_scale_inv", name[1]));
    e = hub_find(m, name[0]);
    if (!e) e = hub_find(m, name[1]);
    if (!e)
        return TM_FAIL(TM_ERR_FORMAT, "%s: tensor \"%s\" is F8_E4M3, but there is no \"%s\"", hub_path(m, weight),
                       weight->name, name[0]);
    if (weight->rank != 2)
        return TM_FAIL(TM_ERR_SHAPE, "%s: tensor \"%s\" is F8_E4M3 with %d axes, expected 2", hub_path(m, weight),
                       weight->name, weight->rank);
    TM_TRY(find_blocks(m, weight, e, out));
    TM_TRY(mem_alloc(&out->scale, (size_t)out->n, sizeof *out->scale));
    enum status st = hub_read_box(m, e, NULL, out->scale);
    if (st == TM_OK) st = check_scales(m, e, out->scale, out->n);
    if (st != TM_OK) hub_fp8_free(out);
    return st;
}

void hub_fp8_free(struct hub_fp8 *f) { mem_free(&f->scale); }

void hub_fp8_apply(const struct hub_fp8 *f, int64_t row0, int64_t rows, int64_t col0, int64_t cols, float *x) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            x[r * cols + c] *= f->scale[(row0 + r) / f->rows * f->ld + (col0 + c) / f->cols];
}

enum status hub_fp8_scalar(const struct hub_model *m, const char *module, const char *suffix, bool *found, float *out) {
    char name[TENSOR_NAME_MAX];
    float x;
    *found = false;
    if (snprintf(name, sizeof name, "%s.%s", module, suffix) >= (int)sizeof name) return TM_OK;
    const struct hub_entry *e = hub_find(m, name);
    if (!e) return TM_OK;
    if (e->elems != 1)
        return TM_FAIL(TM_ERR_SHAPE, "%s: tensor \"%s\" has %lld elements, expected one scale", hub_path(m, e), e->name,
                       (long long)e->elems);
    TM_TRY(hub_read_box(m, e, NULL, &x));
    TM_TRY(check_scales(m, e, &x, 1));
    *found = true;
    *out = x;
    return TM_OK;
}
