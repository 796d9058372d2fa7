/* TEST ranks=1 backends=cuda tier=1 limit=120 */
/* Attention on the CUDA backend against the host, bit for bit: large and odd heads, groups, windows, documents, rows that see nothing,
 * aligned and odd row distances, and caches of keys and values from short to long. */
#include "attn_ref.h"
#include "ops_bound.h"

struct problem {
    int64_t b, t, hq, hkv, d, window;
    int mask;
    int64_t pad;    /* between rows: a multiple of 4 keeps them aligned */
    int64_t t0, tk; /* forward only where tk > 0 */
    int bf16;
};

static struct ops_run run(struct dev *d, const struct problem *p, uint64_t seed) {
    struct ops_run r = {.d = d, .seed = seed, .bits_only = true};
    const int64_t n = p->b * p->t, nk = p->b * (p->tk ? p->tk : p->t), nq = p->hq * p->d, nkv = p->hkv * p->d;
    const int64_t ldq = nq + p->pad, ldk = nkv + p->pad, ldv = nkv + 2 * p->pad, ldo = nq + 2 * p->pad;
    int32_t *first = ops_host(&r, (size_t)n, sizeof *first);
    for (int64_t i = 0; i < n; i++) {
        int32_t at = (int32_t)(p->t0 + i % p->t), len = (int32_t)(p->t0 + p->t);
        first[i] = p->mask == 1 ? len * (int32_t)(i / p->t + 1) / 3 : p->mask == 2 ? at - at % 37 : 0;
    }
    dptr q = ops_put_f32(&r, ops_normal(&r, n * ldq, 1.5f), n * ldq);
    dptr k = ops_put_f32(&r, ops_normal(&r, nk * ldk, 1.5f), nk * ldk);
    dptr v = ops_put_f32(&r, ops_normal(&r, nk * ldv, 1), nk * ldv);
    dptr g = ops_put_f32(&r, ops_normal(&r, n * ldo, 1), n * ldo);
    dptr mask = p->mask ? ops_put(&r, first, (size_t)n * 4) : (dptr){0};
    dptr o = ops_put_f32(&r, ops_normal(&r, n * ldo, 1), n * ldo), lse = ops_blank(&r, n * p->hq);
    const float scale = (float)(1 / sqrt((double)p->d));
    struct attn_fwd_args f = {
        .q = q,
        .k = k,
        .v = v,
        .o = o,
        .lse = lse,
        .first = mask,
        .b = p->b,
        .t = p->t,
        .hq = p->hq,
        .hkv = p->hkv,
        .d = p->d,
        .ldq = ldq,
        .ldk = ldk,
        .ldv = ldv,
        .ldo = ldo,
        .window = p->window,
        .scale = scale,
        .t0 = p->t0,
        .tk = p->tk,
        .bf16 = p->bf16,
    };
    ops_must(dev_attn_fwd(d, &f));
    ops_take(&r, o, NULL, n * ldo); /* what lies between the rows too: it must stay */
    ops_take(&r, lse, NULL, n * p->hq);
    if (p->tk) return r;
    dptr dq = ops_put_f32(&r, ops_normal(&r, n * ldq, 1), n * ldq);
    dptr dk = ops_put_f32(&r, ops_normal(&r, n * ldk, 1), n * ldk);
    dptr dv = ops_put_f32(&r, ops_normal(&r, n * ldv, 1), n * ldv), delta = ops_blank(&r, n * p->hq);
    struct attn_bwd_args b = {
        .q = q,
        .k = k,
        .v = v,
        .o = o,
        .lse = lse,
        .first = mask,
        .dout = g,
        .dq = dq,
        .dk = dk,
        .dv = dv,
        .delta = delta,
        .b = p->b,
        .t = p->t,
        .hq = p->hq,
        .hkv = p->hkv,
        .d = p->d,
        .ldq = ldq,
        .ldk = ldk,
        .ldv = ldv,
        .ldo = ldo,
        .window = p->window,
        .scale = scale,
        .bf16 = p->bf16,
    };
    ops_must(dev_attn_bwd(d, &b));
    ops_take(&r, dq, NULL, n * ldq);
    ops_take(&r, dk, NULL, n * ldk);
    ops_take(&r, dv, NULL, n * ldv);
    return r;
}

/* bf16 without tensor cores: the same factors, added in another order. A probability may then round to the other neighbour, 2^-8 of itself. */
static bool close_enough(const struct ops_run *a, const struct ops_run *b) {
    double num = 0, den = 0;
    for (size_t i = 0; i < a->n; i++) {
        if (!isfinite(a->out[i]) && a->out[i] == b->out[i]) continue;
        num += ((double)a->out[i] - b->out[i]) * ((double)a->out[i] - b->out[i]);
        den += (double)a->out[i] * a->out[i];
    }
    ok(num <= 1e-7 * den, "bf16, another order of the sums: NMSE %.2g of the host", num / den);
    return num <= 1e-7 * den;
}

static void compare(struct dev *host, struct dev *cuda, const struct problem *p, uint64_t seed) {
    struct ops_run a = run(host, p, seed), b = run(cuda, p, seed);
    const double bound = ops_loosest(cuda);
    size_t at = p->bf16 && a.n == b.n && close_enough(&a, &b) ? a.n : 0;
    while (at < a.n && a.n == b.n && ops_agree(b.out + at, a.out + at, 1, bound)) at++;
    ok(a.n == b.n && at == a.n && ops_canaries(&b),
       "b %lld t %lld+%lld heads %lld/%lld d %lld window %lld mask %d pad %lld bf16 %d: the host's %s", (long long)p->b,
       (long long)p->t0, (long long)p->t, (long long)p->hq, (long long)p->hkv, (long long)p->d, (long long)p->window,
       p->mask, (long long)p->pad, p->bf16, p->bf16 ? "numbers" : "bits");
    if (at < a.n)
        fprintf(stderr, "# output %zu of %zu: %.9g, the host's %.9g\n", at, a.n, (double)b.out[at], (double)a.out[at]);
    ops_end(&a);
    ops_end(&b);
}

static const struct problem problems[] = {
    {1, 70, 2, 1, 64, 0, 0, 0, 0, 0, 0},
    {1, 129, 1, 1, 64, 0, 2, 4, 0, 0, 0},
    {2, 66, 2, 1, 96, 0, 1, 8, 0, 0, 0},
    {1, 100, 2, 2, 128, 50, 0, 4, 0, 0, 0},
    {1, 65, 3, 1, 128, 0, 2, 0, 0, 0, 0},
    {1, 66, 1, 1, 192, 0, 0, 4, 0, 0, 0},
    {1, 67, 2, 1, 256, 30, 2, 0, 0, 0, 0},
    {1, 65, 1, 1, 320, 0, 0, 4, 0, 0, 0},
    {1, 65, 1, 1, 319, 0, 1, 3, 0, 0, 0},
    {2, 40, 2, 2, 77, 0, 0, 1, 0, 0, 0},
    {1, 210, 2, 1, 12, 5, 0, 4, 0, 0, 0},
    {3, 1, 2, 1, 80, 0, 0, 0, 0, 0, 0},
    {1, 130, 1, 1, 2, 0, 1, 2, 0, 0, 0},
    {1, 260, 2, 1, 16, 66, 1, 0, 0, 0, 0},
    /* caches: one query a sequence, heads of a group together; a few; a whole tile and more */
    {2, 1, 8, 2, 64, 0, 0, 0, 200, 256, 0},
    {2, 1, 6, 1, 128, 70, 1, 4, 150, 151, 0},
    {1, 3, 6, 1, 80, 0, 2, 1, 61, 80, 0},
    {1, 5, 4, 1, 96, 0, 0, 0, 0, 5, 0},
    {1, 16, 2, 2, 32, 20, 0, 0, 100, 130, 0},
    {2, 17, 4, 2, 32, 0, 1, 4, 50, 70, 0},
    {1, 80, 2, 1, 48, 0, 2, 0, 70, 160, 0},
    {1, 1, 20, 1, 24, 0, 0, 0, 63, 64, 0},
    {1, 1, 34, 2, 24, 0, 0, 0, 64, 65, 0},
    /* bf16 where tensor cores do not serve: few queries, large heads */
    {2, 1, 8, 2, 64, 0, 0, 0, 100, 128, 1},
    {1, 13, 2, 1, 20, 0, 2, 1, 0, 0, 1},
    {1, 66, 1, 1, 136, 0, 0, 4, 0, 0, 1},
};

/* bf16 on tensor cores: not the host's bits, but its bound; a second run gives the same bits. */
static void tensor_cores(struct dev *cuda, const struct attn_shape *s, int shape, int runs) {
    float *once = NULL;
    for (int i = 0; i < runs; i++) {
        struct ops_run r = {.d = cuda, .seed = (uint64_t)shape + 1, .bits_only = true};
        struct attn_problem x = {.s = s[shape]};
        attn_run(&r, &x, true);
        if (i) {
            ok(!memcmp(once, r.out, r.n * sizeof *once), "  and again the same bits");
        } else {
            ok(r.worst <= ops_row("attn_bwd").bound_bf16 && r.worst > 1e-7 && ops_canaries(&r),
               "bf16, shape %d: NMSE %.2g", shape, r.worst);
            ops_must(mem_alloc(&once, r.n, sizeof *once));
            memcpy(once, r.out, r.n * sizeof *once);
        }
        ops_end(&r);
    }
    mem_free(&once);
}

/* Hopper's tiles have 128 queries and 128 keys, backward 64 of what is on the right; four slots of a ring. */
static const struct attn_shape hopper_shapes[] = {
    {1, 270, 1, 1, 64, 0, 0, 1},   {1, 129, 2, 1, 128, 0, 2, 1}, {1, 127, 2, 1, 96, 0, 1, 1},
    {1, 257, 2, 1, 20, 100, 2, 1}, {2, 17, 1, 1, 40, 0, 0, 1},   {1, 260, 1, 1, 64, 2, 1, 1},
    {2, 65, 6, 2, 16, 0, 0, 1},    {1, 191, 2, 1, 48, 0, 1, 1},
};
enum { HOPPER_SHAPES = sizeof hopper_shapes / sizeof *hopper_shapes };

/* Forward alone, contiguous, of `b` sequences of T + t0 keys; NaNs in all of those from `spoilt` on. Takes o and lse of the last T rows. */
static void forward(struct ops_run *r, int64_t b, int64_t t0, int64_t t, int64_t spoilt) {
    const int64_t hq = 2, hkv = 1, d = 72, n = t0 + t;
    struct attn_fwd_args f = {.b = b,
                              .t = t,
                              .hq = hq,
                              .hkv = hkv,
                              .d = d,
                              .ldq = hq * d,
                              .ldk = hkv * d,
                              .ldv = hkv * d,
                              .ldo = hq * d,
                              .scale = 0.12f,
                              .t0 = t0,
                              .tk = n,
                              .bf16 = 1};
    float *q = ops_normal(r, 2 * n * f.ldq, 1), *k = ops_normal(r, 2 * n * f.ldk, 1),
          *v = ops_normal(r, 2 * n * f.ldv, 1);
    for (int64_t i = spoilt * n; i < 2 * n; i++)
        for (int64_t c = 0; c < d; c++) q[i * f.ldq + c] = k[i * f.ldk + c] = v[i * f.ldv + c] = NAN;
    f.q = dptr_f32(ops_put_f32(r, q, 2 * n * f.ldq), t0 * f.ldq);
    f.k = ops_put_f32(r, k, 2 * n * f.ldk);
    f.v = ops_put_f32(r, v, 2 * n * f.ldv);
    f.o = ops_blank(r, b * t * f.ldo);
    f.lse = ops_blank(r, b * t * hq);
    ops_must(dev_attn_fwd(r->d, &f));
    ops_take(r, f.o, NULL, t * f.ldo);
    ops_take(r, f.lse, NULL, t * hq);
}
/* Backward alone, contiguous, of `b` of two sequences, NaNs in those from `spoilt` on; log-sums of about the right size. Takes the first one's
 * gradients. */
static void backward(struct ops_run *r, int64_t b, int64_t spoilt) {
    const int64_t t = 150, hq = 4, hkv = 2, d = 72, nq = hq * d, nkv = hkv * d;
    struct attn_bwd_args a = {.b = b,
                              .t = t,
                              .hq = hq,
                              .hkv = hkv,
                              .d = d,
                              .ldq = nq,
                              .ldk = nkv,
                              .ldv = nkv,
                              .ldo = nq,
                              .window = 140,
                              .scale = 0.12f,
                              .bf16 = 1};
    float *x[] = {ops_normal(r, 2 * t * nq, 1), ops_normal(r, 2 * t * nkv, 1),   ops_normal(r, 2 * t * nkv, 1),
                  ops_normal(r, 2 * t * nq, 1), ops_normal(r, 2 * t * nq, 0.1f), ops_normal(r, 2 * t * hq, 0.1f)};
    const int64_t row[] = {nq, nkv, nkv, nq, nq, hq};
    dptr *to[] = {&a.q, &a.k, &a.v, &a.dout, &a.o, &a.lse};
    for (int64_t i = 0; i < 2 * t * hq; i++) x[5][i] += logf((float)(i / hq % t + 1));
    for (int j = 0; j < 6; j++) {
        for (int64_t i = spoilt * t * row[j]; i < 2 * t * row[j]; i++) x[j][i] = NAN;
        *to[j] = ops_put_f32(r, x[j], 2 * t * row[j]);
    }
    a.delta = ops_blank(r, b * t * hq);
    a.dq = ops_blank(r, b * t * nq), a.dk = ops_blank(r, b * t * nkv), a.dv = ops_blank(r, b * t * nkv);
    ops_must(dev_attn_bwd(r->d, &a));
    ops_take(r, a.dq, NULL, t * nq);
    ops_take(r, a.dk, NULL, t * nkv);
    ops_take(r, a.dv, NULL, t * nkv);
}
/* What lies behind a sequence does not touch it, and rows have the bits that they have in a longer call. */
static void neighbours(struct dev *cuda) {
    const int64_t t = 200, late = 70, row = 2 * 72;
    struct ops_run one = {.d = cuda, .seed = 3}, two = one, part = one;
    forward(&one, 1, 0, t, 2);
    forward(&two, 2, 0, t, 1);
    forward(&part, 1, t - late, late, 2);
    ok(one.n == two.n && !memcmp(one.out, two.out, one.n * sizeof *one.out),
       "bf16: NaNs of the next sequence stay there");
    ok(!memcmp(one.out + (t - late) * row, part.out, (size_t)(late * row) * sizeof *one.out) &&
           !memcmp(one.out + t * row + (t - late) * 2, part.out + late * row, (size_t)(late * 2) * sizeof *one.out),
       "bf16: %d late queries have the bits of a call of all %d", (int)late, (int)t);
    ops_end(&part);
    ops_end(&two);
    ops_end(&one);
    one = (struct ops_run){.d = cuda, .seed = 4}, two = one;
    backward(&one, 1, 2);
    backward(&two, 2, 1);
    ok(one.n == two.n && !memcmp(one.out, two.out, one.n * sizeof *one.out), "  and of its gradients");
    ops_end(&two);
    ops_end(&one);
}
/* mma.sync and wgmma: the same numbers but for what probabilities are rounded to, and other bits: they are two kernels. */
static void two_kernels(struct dev *cuda, struct dev *hopper) {
    struct ops_run a = {.d = cuda, .seed = 9}, b = {.d = hopper, .seed = 9};
    forward(&a, 1, 0, 190, 2);
    forward(&b, 1, 0, 190, 2);
    ok(memcmp(a.out, b.out, a.n * sizeof *a.out) != 0 && ops_agree(b.out, a.out, a.n, 1e-5),
       "wgmma has the numbers of mma.sync, not its bits");
    ops_end(&a);
    ops_end(&b);
    a = (struct ops_run){.d = cuda, .seed = 9}, b = (struct ops_run){.d = hopper, .seed = 9};
    backward(&a, 1, 2);
    backward(&b, 1, 2);
    ok(ops_agree(b.out, a.out, a.n, 1e-7), "and backward, of the same log-sums, its probabilities");
    ops_end(&a);
    ops_end(&b);
}

/* The same rows in one call and as a prefill, then steps of a cache: the same bits. */
static void steps(struct dev *cuda) {
    const int64_t t = 75, hq = 4, hkv = 2, d = 24, cut[] = {0, 60, 64, 65, 70, 75};
    struct ops_run r = {.d = cuda, .seed = 5, .bits_only = true};
    struct attn_fwd_args f = {.b = 1,
                              .t = t,
                              .hq = hq,
                              .hkv = hkv,
                              .d = d,
                              .ldq = hq * d,
                              .ldk = hkv * d,
                              .ldv = hkv * d,
                              .ldo = hq * d,
                              .scale = 0.2f};
    f.q = ops_put_f32(&r, ops_normal(&r, t * f.ldq, 1), t * f.ldq);
    f.k = ops_put_f32(&r, ops_normal(&r, t * f.ldk, 1), t * f.ldk);
    f.v = ops_put_f32(&r, ops_normal(&r, t * f.ldv, 1), t * f.ldv);
    f.o = ops_blank(&r, t * f.ldo);
    f.lse = ops_blank(&r, t * hq);
    ops_must(dev_attn_fwd(cuda, &f));
    dptr o = ops_blank(&r, t * f.ldo), lse = ops_blank(&r, t * hq);
    for (int i = 0; i < 5; i++) {
        struct attn_fwd_args s = f;
        s.q = dptr_f32(f.q, cut[i] * f.ldq);
        s.o = dptr_f32(o, cut[i] * f.ldo);
        s.lse = dptr_f32(lse, cut[i] * hq);
        s.t0 = cut[i], s.t = cut[i + 1] - cut[i], s.tk = t;
        ops_must(dev_attn_fwd(cuda, &s));
    }
    size_t n = (size_t)(t * (f.ldo + hq));
    ops_take(&r, f.o, NULL, t * f.ldo);
    ops_take(&r, f.lse, NULL, t * hq);
    ops_take(&r, o, NULL, t * f.ldo);
    ops_take(&r, lse, NULL, t * hq);
    ok(!memcmp(r.out, r.out + n, n * sizeof *r.out), "a prefill and steps of a cache: the bits of one call");
    ops_end(&r);
}

int main(void) {
    struct dev *host, *cuda, *hopper;
    setenv("CUEMU_ARCH", "80", 1);
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1, .invariant = true}, &host));
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &cuda));
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) compare(host, cuda, &problems[i], i + 1);
    setenv("CUEMU_ARCH", "90", 1);
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &hopper));
    for (int i = 0; i < ATTN_SHAPES_BF16; i++) tensor_cores(cuda, attn_shapes_bf16, i, 2);
    for (int i = 0; i < HOPPER_SHAPES; i++) tensor_cores(hopper, hopper_shapes, i, i ? 1 : 2);
    neighbours(cuda);
    neighbours(hopper);
    two_kernels(cuda, hopper);
    steps(cuda);
    struct attn_fwd_args wide = {.b = 1, .t = 1, .hq = 1, .hkv = 1, .d = 321};
    is_status(dev_attn_fwd(cuda, &wide), TM_ERR_UNSUPPORTED);
    ops_work(cuda);
    ops_work(hopper);
    dev_close(&hopper);
    dev_close(&cuda);
    dev_close(&host);
    return tap_done();
}
