/* TEST ranks=1 tier=1 */
/* The same bits from every instruction set, thread count and backend; and from a vocabulary or heads cut over 1, 2, 4 and 8 ranks. */
#include "attn_ref.h"
#include "ops_cases.h"

static struct ops_run run(struct dev *d, int c, int s) {
    struct ops_run r = {.d = d, .seed = (uint64_t)(100 * c + s), .bits_only = true};
    if (c < OPS_CASES) {
        ops_cases[c].run(&r, ops_shape[s][0] + (s == 3 ? 60 : 0), ops_shape[s][1] * (s == 8 ? 3 : 1));
    } else {
        struct attn_problem x = {.s = attn_shapes[s]};
        attn_run(&r, &x, false);
    }
    return r;
}

static void compare(const char *name, const struct dev_options *o) {
    struct dev *base, *d;
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1, .kernel = "portable", .invariant = true},
                  &base));
    enum status st = dev_open(o, &d);
    if (st == TM_ERR_UNSUPPORTED) {
        ok(true, "# SKIP %s: %s", name, status_message());
        dev_close(&base);
        return;
    }
    ok(st == TM_OK, "%s opens", name);
    for (int c = 0; c <= OPS_CASES; c++) {
        int differ = 0;
        for (int s = 0; s < (c < OPS_CASES ? (int)OPS_SHAPES : (int)ATTN_SHAPES); s++) {
            struct ops_run a = run(base, c, s), b = run(d, c, s);
            differ += a.n != b.n || memcmp(a.out, b.out, a.n * 4);
            ops_end(&a);
            ops_end(&b);
        }
        ok(!differ, "%s, %s: the bits of portable with one thread (%d shapes differ)", name,
           c < OPS_CASES ? ops_cases[c].name : "attention", differ);
    }
    dev_close(&d);
    dev_close(&base);
}

/* One rank's leaf sums over columns [lo, hi) with its own share of the 8 segments, in out[0], out[1]: sum_exp and KL. */
static void cut_columns(struct dev *d, const float *zs, const float *zt, int64_t v, int rank, int ranks, float out[2],
                        float *grad) {
    struct ops_run r = {.d = d};
    int first = 8 * rank / ranks, n = 8 / ranks;
    int64_t seg[9], lo;
    ops_segments(seg, v, 8);
    lo = seg[first];
    float smax = 4, tmax = 5, ssum = 1.5f * (float)v, tsum = 1.25f * (float)v, weight = 0.37f;
    int64_t cols = seg[first + n] - lo;
    dptr d_s = ops_put_f32(&r, zs + lo, cols), d_t = ops_put_f32(&r, zt + lo, cols), d_sum = ops_blank(&r, 1),
         d_kl = ops_blank(&r, 1);
    dptr d_smax = ops_put_f32(&r, &smax, 1);
    struct sum_exp_args s = {
        .z = d_s, .rowmax = d_smax, .sumexp = d_sum, .n = 1, .v = cols, .ld = cols, .segments = n, .inv_temp = 0.7f};
    struct kl_grad_args k = {.zs = d_s,
                             .zt = d_t,
                             .smax = d_smax,
                             .ssum = ops_put_f32(&r, &ssum, 1),
                             .kl = d_kl,
                             .tmax = ops_put_f32(&r, &tmax, 1),
                             .tsum = ops_put_f32(&r, &tsum, 1),
                             .weight = ops_put_f32(&r, &weight, 1),
                             .n = 1,
                             .v = cols,
                             .lds = cols,
                             .ldt = cols,
                             .segments = n,
                             .inv_temp = 0.7f};
    for (int i = 0; i <= n; i++) s.seg[i] = k.seg[i] = seg[first + i] - lo;
    ops_must(dev_sum_exp(d, &s));
    ops_must(dev_kl_grad(d, &k));
    ops_must(dev_download(d, &out[0], d_sum, 4));
    ops_must(dev_download(d, &out[1], d_kl, 4));
    ops_must(dev_download(d, grad + lo, d_s, (size_t)cols * 4));
    ops_end(&r);
}
static void vocabulary(struct dev *d, int64_t v) {
    struct ops_run r = {.seed = 9};
    float *zs = ops_normal(&r, v, 2), *zt = ops_normal(&r, v, 2), *whole = ops_host(&r, (size_t)v, 4),
          *cut = ops_host(&r, (size_t)v, 4);
    float one[2];
    cut_columns(d, zs, zt, v, 0, 1, one, whole);
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        float part[8][2];
        for (int i = 0; i < ranks; i++) cut_columns(d, zs, zt, v, i, ranks, part[i], cut);
        for (int step = 1; step < ranks; step *= 2)
            for (int i = 0; i < ranks; i += 2 * step)
                for (int j = 0; j < 2; j++) part[i][j] += part[i + step][j];
        ok(!memcmp(one, part[0], sizeof one) && !memcmp(whole, cut, (size_t)v * 4),
           "vocabulary of %lld on %d ranks: sums and gradient as on one", (long long)v, ranks);
    }
    ops_end(&r);
}

/* The gain leaves of a q/k norm with 8 KV groups: a rank that owns some groups gets the leaves of one that owns all. */
static void gains(struct dev *d) {
    enum { TOKENS = 37, HEADS = 16, GROUP = 2, C = 24, LEAVES = HEADS / GROUP * 8 };
    struct ops_run r = {.seed = 10, .d = d};
    float *dy = ops_normal(&r, TOKENS * HEADS * C, 1), *h = ops_normal(&r, TOKENS * HEADS * C, 1),
          *gain = ops_normal(&r, C, 1);
    float *rstd = ops_normal(&r, TOKENS * HEADS, 1), *zero = ops_host(&r, LEAVES * C, 4), *leaf[2];
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        float *out = ops_host(&r, LEAVES * C, 4);
        for (int rank = 0, heads = HEADS / ranks; rank < ranks; rank++) {
            struct ops_run q = {.d = d};
            float *part[3] = {ops_host(&q, TOKENS * HEADS * C, 4), ops_host(&q, TOKENS * HEADS * C, 4),
                              ops_host(&q, TOKENS * HEADS, 4)};
            for (int t = 0; t < TOKENS; t++)
                for (int i = 0; i < heads; i++) {
                    int from = t * HEADS + rank * heads + i, to = t * heads + i;
                    memcpy(part[0] + to * C, dy + from * C, C * 4);
                    memcpy(part[1] + to * C, h + from * C, C * 4);
                    part[2][to] = rstd[from];
                }
            int64_t n = TOKENS * heads, leaves = heads / GROUP * 8;
            struct rmsnorm_bwd_args a = {.dy = ops_put_f32(&q, part[0], n * C),
                                         .h = ops_put_f32(&q, part[1], n * C),
                                         .gain = ops_put_f32(&q, gain, C),
                                         .rstd = ops_put_f32(&q, part[2], n),
                                         .dx = ops_blank(&q, n * C),
                                         .dgain = ops_put_f32(&q, zero, leaves * C),
                                         .tokens = TOKENS,
                                         .heads = heads,
                                         .group_heads = GROUP,
                                         .c = C};
            ops_must(dev_rmsnorm_bwd(d, &a));
            ops_must(dev_download(d, out + rank * leaves * C, a.dgain, (size_t)(leaves * C) * 4));
            ops_end(&q);
        }
        leaf[ranks > 1] = out;
        if (ranks > 1)
            ok(!memcmp(leaf[0], leaf[1], sizeof(float) * LEAVES * C), "gain leaves of %d ranks as of one", ranks);
    }
    ops_end(&r);
}

/* Attention from a cache: query rows [t0, T) against all keys give the rows of the whole, wherever they begin and in one piece or row
 * by row. */
static void cache(struct dev *d) {
    enum { B = 2, T = 150, CACHE = 160, HQ = 4, HKV = 2, D = 16, Q = HQ * D, KV = HKV * D };
    struct ops_run r = {.seed = 11, .d = d};
    float *q = ops_normal(&r, B * T * Q, 1), *k = ops_normal(&r, B * CACHE * KV, 1),
          *v = ops_normal(&r, B * CACHE * KV, 1);
    float *o = ops_host(&r, B * T * Q, 4), *whole = ops_host(&r, B * T * Q, 4), *lse = ops_host(&r, B * T * HQ, 4);
    dptr d_k = ops_put_f32(&r, k, B * CACHE * KV), d_v = ops_put_f32(&r, v, B * CACHE * KV);
    const int cut[] = {0, T, 0, 70, T, 0, 64, 65, 66, 128, T};
    for (int i = 0, n = 0; i + 1 < (int)(sizeof cut / sizeof *cut); i++) {
        int t0 = cut[i], t = cut[i + 1] - t0;
        if (t <= 0) continue;
        struct ops_run p = {.d = d};
        float *part = ops_host(&p, (size_t)(B * t * Q), 4);
        for (int s = 0; s < B; s++) memcpy(part + s * t * Q, q + (s * T + t0) * Q, (size_t)(t * Q) * 4);
        struct attn_fwd_args a = {.q = ops_put_f32(&p, part, B * t * Q),
                                  .k = d_k,
                                  .v = d_v,
                                  .o = ops_blank(&p, B * t * Q),
                                  .lse = ops_blank(&p, B * t * HQ),
                                  .b = B,
                                  .t = t,
                                  .hq = HQ,
                                  .hkv = HKV,
                                  .d = D,
                                  .ldq = Q,
                                  .ldk = KV,
                                  .ldv = KV,
                                  .ldo = Q,
                                  .window = 90,
                                  .scale = 0.25f,
                                  .t0 = t0,
                                  .tk = CACHE};
        ops_must(dev_attn_fwd(d, &a));
        ops_must(dev_download(d, part, a.o, (size_t)(B * t * Q) * 4));
        ops_must(dev_download(d, lse, a.lse, (size_t)(B * t * HQ) * 4));
        for (int s = 0; s < B; s++) memcpy(o + (s * T + t0) * Q, part + s * t * Q, (size_t)(t * Q) * 4);
        if (cut[i + 1] == T && n++ == 0) memcpy(whole, o, (size_t)B * T * Q * 4);
        if (cut[i + 1] == T)
            ok(!memcmp(whole, o, (size_t)B * T * Q * 4), "attention from a cache, last piece from row %d", t0);
        ops_end(&p);
    }
    is_status(dev_attn_fwd(d, &(struct attn_fwd_args){.b = 1, .t = 2, .hq = 1, .hkv = 1, .d = 1, .t0 = 3, .tk = 4}),
              TM_ERR_SHAPE);
    ops_end(&r);
}

int main(void) {
    compare("portable, 2 threads",
            &(struct dev_options){.backend = DEV_HOST, .threads = 2, .kernel = "portable", .invariant = true});
    compare("portable, 3 threads",
            &(struct dev_options){.backend = DEV_HOST, .threads = 3, .kernel = "portable", .invariant = true});
    compare("avx2", &(struct dev_options){.backend = DEV_HOST, .threads = 1, .kernel = "avx2", .invariant = true});
    compare("avx512", &(struct dev_options){.backend = DEV_HOST, .threads = 2, .kernel = "avx512", .invariant = true});
    compare("guard", &(struct dev_options){.backend = DEV_GUARD, .threads = 2, .invariant = true});
    struct dev *d = ops_open(NULL, 1);
    vocabulary(d, 5); /* empty segments */
    vocabulary(d, 131);
    vocabulary(d, 5003);
    gains(d);
    cache(d);
    dev_close(&d);
    return tap_done();
}
