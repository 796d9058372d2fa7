/* One device operation run on made-up input beside its fp64 reference; shared by the accuracy, gradient and bit tests of dev/. */
#pragma once

#include "base/mem.h"
#include "base/rng.h"
#include "dev/dev.h"
#include "tap.h"

enum { CANARY = 64, MAX_BUFFERS = 48 };

/* Inputs are host arrays; `put` copies them between canaries on the device; `take` appends an output and its reference. */
struct ops_run {
    struct dev *d;
    uint64_t seed, draws;
    void *host[MAX_BUFFERS];
    int hosts, blocks;
    struct {
        dptr at;
        size_t bytes;
    } block[MAX_BUFFERS];
    float *out; /* all outputs one after the other, for comparing bits */
    size_t n, cap;
    double worst;   /* the worst NMSE of an output */
    bool bits_only; /* no finite differences: the caller compares bits */
};

/* As must(), but silent when all is well: a case makes hundreds of calls. */
#define ops_must(expr)              \
    do {                            \
        if ((expr) != TM_OK) {      \
            ok(false, "%s", #expr); \
            exit(tap_done());       \
        }                           \
    } while (0)

static inline void *ops_host(struct ops_run *r, size_t n, size_t size) {
    void *p;
    ops_must(mem_alloc(&p, n ? n : 1, size));
    r->host[r->hosts++] = p;
    return p;
}
/* n normal numbers times `scale`. */
static inline float *ops_normal(struct ops_run *r, int64_t n, float scale) {
    float *x = ops_host(r, (size_t)n, sizeof *x);
    r->draws++;
    for (int64_t i = 0; i < n; i++) x[i] = scale * rng_normal(r->seed, r->draws, (uint64_t)i);
    return x;
}
/* n integers in [lo, hi). */
static inline int32_t *ops_below(struct ops_run *r, int64_t n, int lo, int hi) {
    int32_t *x = ops_host(r, (size_t)n, sizeof *x);
    r->draws++;
    for (int64_t i = 0; i < n; i++) x[i] = lo + (int32_t)rng_below(r->seed, r->draws, (uint64_t)i, (uint64_t)(hi - lo));
    return x;
}
static inline dptr ops_put(struct ops_run *r, const void *x, size_t bytes) {
    unsigned char canary[CANARY];
    dptr p;
    memset(canary, 0x5a, sizeof canary);
    ops_must(dev_alloc(r->d, "test", bytes + 2 * CANARY, &p));
    ops_must(dev_upload(r->d, p, canary, CANARY));
    ops_must(dev_upload(r->d, dptr_add(p, CANARY), x, bytes));
    ops_must(dev_upload(r->d, dptr_add(p, CANARY + (int64_t)bytes), canary, CANARY));
    r->block[r->blocks].at = p;
    r->block[r->blocks++].bytes = bytes;
    return dptr_add(p, CANARY);
}
static inline dptr ops_put_f32(struct ops_run *r, const float *x, int64_t n) { return ops_put(r, x, (size_t)n * 4); }
/* A buffer of n floats full of NaN: outputs must be written whole. */
static inline dptr ops_blank(struct ops_run *r, int64_t n) {
    float *x = ops_host(r, (size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = NAN;
    return ops_put_f32(r, x, n);
}
/* sum((x - ref)^2) / sum(ref^2); infinity when an output is not finite where the reference is. */
static inline double ops_nmse(const float *x, const double *ref, int64_t n) {
    double num = 0, den = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isinf(ref[i]) && (double)x[i] == ref[i]) continue;
        double e = (double)x[i] - ref[i];
        if (!isfinite(e)) return INFINITY;
        num += e * e;
        den += ref[i] * ref[i];
    }
    return den > 0 ? num / den : num;
}
/* Read an output of n floats; ref may be NULL. */
static inline float *ops_take(struct ops_run *r, dptr p, const double *ref, int64_t n) {
    ops_must(mem_grow(&r->out, &r->cap, r->n + (size_t)n, sizeof *r->out));
    float *x = r->out + r->n;
    ops_must(dev_download(r->d, x, p, (size_t)n * 4));
    r->n += (size_t)n;
    if (ref) r->worst = fmax(r->worst, ops_nmse(x, ref, n));
    return x;
}
static inline bool ops_canaries(struct ops_run *r) {
    unsigned char c[2 * CANARY];
    bool good = true;
    for (int i = 0; i < r->blocks; i++) {
        dptr at = r->block[i].at;
        good &= !dev_download(r->d, c, at, CANARY);
        good &= !dev_download(r->d, c + CANARY, dptr_add(at, CANARY + (int64_t)r->block[i].bytes), CANARY);
        for (int j = 0; j < 2 * CANARY; j++) good &= c[j] == 0x5a;
    }
    return good;
}
static inline void ops_end(struct ops_run *r) {
    for (int i = 0; i < r->blocks; i++) dev_free(r->d, &r->block[i].at);
    for (int i = 0; i < r->hosts; i++) mem_free(&r->host[i]);
    mem_free(&r->out);
    *r = (struct ops_run){0};
}
/* Slope of f in *x by a five-point central difference: error O(h^4). */
static inline double ops_slope(const struct ops_run *r, double (*f)(void *), void *ctx, double *x) {
    if (r->bits_only) return 0;
    const double h = 1e-3, keep = *x;
    double v[4], step[4] = {-2, -1, 1, 2};
    for (int i = 0; i < 4; i++) {
        *x = keep + step[i] * h;
        v[i] = f(ctx);
    }
    *x = keep;
    return (v[0] - 8 * v[1] + 8 * v[2] - v[3]) / (12 * h);
}
static inline double *ops_wide(struct ops_run *r, const float *x, int64_t n) {
    double *y = ops_host(r, (size_t)n, sizeof *y);
    for (int64_t i = 0; x && i < n; i++) y[i] = (double)x[i];
    return y;
}

/* The device of a test: backend from TEMPER_TEST_BACKEND. */
static inline struct dev *ops_open(const char *kernel, int threads) {
    const char *b = getenv("TEMPER_TEST_BACKEND");
    struct dev_options o = {.backend = dev_backend_named(b), .threads = threads, .invariant = true, .kernel = kernel};
    struct dev *d;
    must(dev_open(&o, &d));
    return d;
}
