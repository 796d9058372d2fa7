/* Vocabulary-parallel softmax, cross-entropy and KL divergence on the host: rows of logits in parallel, segments of the vocabulary as
 * a fixed tree, so that a rank's sum is a subtree of the whole one. */
#include <math.h>

#include "base/vmath.h"
#include "dev/host.h"

/* Sum of the values of non-empty segments as a tree over all `n` places; x + nothing = x. */
static float segment_tree(float value[OPS_MAX_SEGMENTS], const int64_t *seg, int n) {
    bool there[OPS_MAX_SEGMENTS];
    for (int s = 0; s < n; s++) there[s] = seg[s] < seg[s + 1];
    for (int step = 1; step < n; step *= 2)
        for (int s = 0; s + step < n; s += 2 * step) {
            if (!there[s + step]) continue;
            value[s] = there[s] ? value[s] + value[s + step] : value[s + step];
            there[s] = true;
        }
    return there[0] ? value[0] : 0.0f;
}
static enum status check_segments(const int64_t *seg, int n, int64_t v) {
    bool good = n >= 1 && n <= OPS_MAX_SEGMENTS && seg[0] == 0 && seg[n] == v;
    for (int s = 0; good && s < n; s++) good = seg[s] <= seg[s + 1];
    return good ? TM_OK
                : TM_FAIL(TM_ERR_SHAPE, "softmax: %d segments that do not rise from 0 to %lld", n, (long long)v);
}

/* Maximum of v logits, times inv_temp, and its global column where `best` is not NULL. */
static float maximum(const struct leaf *f, const float *z, int64_t v, float inv_temp, int64_t col0, int32_t *best) {
    const float m = f->max(z, v);
    if (best) {
        const int64_t at = f->find(z, v, m);
        *best = at < v ? (int32_t)(col0 + at) : INT32_MAX;
    }
    return m * inv_temp; /* rounding is monotone: this is the largest product too */
}

enum status host_row_max(struct dev *d, const struct row_max_args *a) {
    float *top = host_f32(a->rowmax);
    int32_t *best = host_i32(a->best);
#pragma omp parallel for num_threads(d->threads) if (a->n * a->v > HOST_SERIAL)
    for (int64_t i = 0; i < a->n; i++)
        top[i] = maximum(d->leaf, host_f32(a->z) + i * a->ld, a->v, a->inv_temp, a->col0, best ? best + i : NULL);
    return TM_OK;
}

enum status host_sum_exp(struct dev *d, const struct sum_exp_args *a) {
    const struct leaf *f = d->leaf;
    float *top = host_f32(a->rowmax), *sum = host_f32(a->sumexp), *target = host_f32(a->target);
    int32_t *best = host_i32(a->best);
    TM_TRY(check_segments(a->seg, a->segments, a->v));
#pragma omp parallel for num_threads(d->threads) if (a->n * a->v > HOST_SERIAL)
    for (int64_t i = 0; i < a->n; i++) {
        const float *z = host_f32(a->z) + i * a->ld;
        float part[OPS_MAX_SEGMENTS];
        if (a->with_max)
            top[i] = maximum(f, z, a->v, a->inv_temp, a->col0, best ? best + i : NULL); /* z is then in cache */
        for (int s = 0; s < a->segments; s++)
            part[s] = f->sum_exp(z + a->seg[s], a->seg[s + 1] - a->seg[s], a->inv_temp, top[i]);
        sum[i] = segment_tree(part, a->seg, a->segments);
        if (!target) continue;
        int64_t j = host_i32(a->labels)[i] - a->col0;
        target[i] = j >= 0 && j < a->v ? z[j] * a->inv_temp + 0.0f : 0.0f; /* never -0: the sum over ranks is exact */
    }
    return TM_OK;
}

enum status host_ce_grad(struct dev *d, const struct ce_grad_args *a) {
    const struct leaf *f = d->leaf;
    const float *top = host_f32(a->rowmax), *sum = host_f32(a->sumexp), *weight = host_f32(a->weight);
    const int32_t *labels = host_i32(a->labels);
#pragma omp parallel for num_threads(d->threads) if (a->n * a->v > HOST_SERIAL)
    for (int64_t i = 0; i < a->n; i++) {
        float *z = host_f32(a->z) + i * a->ld, inv = 1.0f / sum[i], w = weight[i];
        int64_t j = labels[i] - a->col0;
        bool here = w != 0 && j >= 0 && j < a->v;
        float p = here ? vmath_exp(z[j] - top[i]) * inv : 0;
        if (w == 0) {
            for (int64_t c = 0; c < a->v; c++) z[c] = 0; /* a masked token: whatever its logits are */
        } else {
            f->ce_grad(z, a->v, top[i], inv, w);
        }
        if (here) z[j] = (p - 1.0f) * w;
    }
    return TM_OK;
}

enum status host_kl_grad(struct dev *d, const struct kl_grad_args *a) {
    const struct leaf *f = d->leaf;
    const float *weight = host_f32(a->weight), *smax = host_f32(a->smax), *tmax = host_f32(a->tmax);
    const float *ssum = host_f32(a->ssum), *tsum = host_f32(a->tsum);
    float *kl = host_f32(a->kl);
    TM_TRY(check_segments(a->seg, a->segments, a->v));
#pragma omp parallel for num_threads(d->threads) if (a->n * a->v > HOST_SERIAL)
    for (int64_t i = 0; i < a->n; i++) {
        float *zs = host_f32(a->zs) + i * a->lds, part[OPS_MAX_SEGMENTS];
        const float *zt = host_f32(a->zt) + i * a->ldt;
        /* log p - log q with the row constants in one: the difference of near logits is exact */
        double shift = (double)tmax[i] - (double)smax[i] + (vmath_log_wide(tsum[i]) - vmath_log_wide(ssum[i]));
        struct leaf_kl k = {.inv_temp = a->inv_temp,
                            .smax = smax[i],
                            .sinv = 1.0f / ssum[i],
                            .tmax = tmax[i],
                            .tinv = 1.0f / tsum[i],
                            .shift = (float)shift,
                            .weight = weight ? weight[i] : 0,
                            .grad = weight != NULL};
        for (int s = 0; s < a->segments; s++)
            part[s] = f->kl_grad(zs + a->seg[s], zt + a->seg[s], a->seg[s + 1] - a->seg[s], &k);
        kl[i] = segment_tree(part, a->seg, a->segments);
    }
    return TM_OK;
}
