/* TEST ranks=1 backends=host,guard tier=1 */
/* Attention and its gradients against fp64 over tile edges, grouped heads, windows and masks; the fp64 gradient itself against
 * finite differences of the fp64 forward pass; rows that see nothing. */
#include "attn_ref.h"
#include "ops_bound.h"

static double objective(void *ctx) {
    struct attn_problem *x = ctx;
    const struct attn_shape *s = &x->s;
    double sum = 0;
    for (int64_t r = 0; r < s->b * s->t * s->hq; r++) {
        attn_ref_row(x, r / s->hq / s->t, r / s->hq % s->t, r % s->hq);
        for (int64_t c = 0; c < s->d; c++) sum += x->o[r * s->d + c] * x->g[r * s->d + c];
    }
    return sum;
}

/* The reference gradient equals the slopes of the reference forward pass. */
static void differences(struct dev *d, struct attn_shape s) {
    struct ops_run r = {.d = d, .seed = 77};
    struct attn_problem x = {.s = s};
    attn_run(&r, &x, true);
    double *in[] = {x.q, x.k, x.v}, *grad[] = {x.dq, x.dk, x.dv}, num = 0, den = 0;
    for (int i = 0; i < 3; i++)
        for (int64_t j = 0; j < s.b * s.t * (i ? s.hkv : s.hq) * s.d; j++) {
            double e = ops_slope(&r, objective, &x, in[i] + j) - grad[i][j];
            num += e * e, den += grad[i][j] * grad[i][j];
        }
    ok(num / den < 1e-18, "fp64 gradient against differences, mask %d, window %lld: NMSE %.2g", s.mask,
       (long long)s.window, num / den);
    ops_end(&r);
}

/* bf16 on every kernel there is (AMX where the CPU has it): one set of bits. */
static void kernels(struct attn_shape s) {
    static const char *const names[] = {NULL, "portable", "avx2", "avx512"};
    float *once = NULL;
    for (int i = 0; i < 4; i++) {
        struct dev_options o = {.backend = DEV_HOST, .threads = i + 1, .invariant = true, .kernel = names[i]};
        struct dev *d;
        if (dev_open(&o, &d) != TM_OK) continue; /* not on this CPU */
        struct ops_run r = {.d = d, .seed = 5, .bits_only = true};
        struct attn_problem x = {.s = s};
        attn_run(&r, &x, false);
        if (!once) {
            ops_must(mem_alloc(&once, r.n, sizeof *once));
            memcpy(once, r.out, r.n * sizeof *once);
        }
        ok(!memcmp(once, r.out, r.n * sizeof *once), "bf16, d %lld: %s", (long long)s.d, dev_describe(d));
        ops_end(&r);
        dev_close(&d);
    }
    mem_free(&once);
}

int main(void) {
    struct dev *d = ops_open(NULL, 2);
    for (int i = 0; i < ATTN_SHAPES_BF16; i++) kernels(attn_shapes_bf16[i]);
    differences(d, (struct attn_shape){1, 9, 4, 2, 3, 0, 0, 0});
    differences(d, (struct attn_shape){2, 8, 2, 1, 3, 3, 1, 0});
    differences(d, (struct attn_shape){1, 12, 2, 1, 2, 0, 2, 0});
    for (int i = 0; i < ATTN_SHAPES; i++) {
        struct attn_shape s = attn_shapes[i];
        struct ops_run r = {.d = d, .seed = (uint64_t)i + 1};
        struct attn_problem x = {.s = s};
        attn_run(&r, &x, true);
        ok(r.worst <= 1e-12, "b %lld t %lld heads %lld/%lld d %lld window %lld mask %d: NMSE %.2g", (long long)s.b,
           (long long)s.t, (long long)s.hq, (long long)s.hkv, (long long)s.d, (long long)s.window, s.mask, r.worst);
        if (!ops_canaries(&r)) ok(false, "canaries hold");
        if (s.mask == 1) { /* the first row of the first sequence is padding */
            bool zero = true;
            for (int64_t c = 0; c < s.hq * s.d; c++) zero &= r.out[c] == 0;
            ok(zero && r.out[s.b * s.t * s.hq * s.d] == -INFINITY, "a row that sees nothing: zeros, log-sum -inf");
        }
        ops_end(&r);
    }
    for (int i = 0; i < ATTN_SHAPES_BF16; i++) {
        struct ops_run r = {.d = d, .seed = (uint64_t)i + 1};
        struct attn_problem x = {.s = attn_shapes_bf16[i]};
        attn_run(&r, &x, true);
        ok(r.worst <= ops_row("attn_bwd").bound_bf16 && r.worst > 1e-7, "bf16, shape %d: NMSE %.2g", i, r.worst);
        ops_end(&r);
    }
    struct attn_fwd_args bad = {.b = 1, .t = 1, .hq = 3, .hkv = 2, .d = 4};
    is_status(dev_attn_fwd(d, &bad), TM_ERR_SHAPE);
    bad = (struct attn_fwd_args){.b = 1, .t = 1, .hq = 2, .hkv = 2, .d = 321};
    is_status(dev_attn_fwd(d, &bad), TM_ERR_UNSUPPORTED); /* the host's packed tiles hold 320 channels */
    dev_close(&d);
    return tap_done();
}
