/* TEST ranks=1 backends=host,guard tier=1 */
/* Every operation against fp64 references and finite differences, over shapes of one, primes and tile edges, between canaries. */
#include "numfmt/bf16.h"
#include "ops_cases.h"

/* Weights that are to be bf16 values: each is one of the two around the fp32 result, their mean over many is that result, and what a
 * small update adds is not lost, though it is far below half a unit. */
static void stochastic_rounding(struct dev *d) {
    enum { COUNT = 40000, STEPS = 16 };
    static float w[COUNT], g[COUNT], plain[COUNT];
    const double p = 1e-4 * 256; /* of going down: a unit below 1 is 2^-8 */
    struct ops_run r = {.d = d};
    for (int i = 0; i < COUNT; i++) w[i] = 1, g[i] = (float)(1 + i);
    struct adamw_args a = {ops_put_f32(&r, w, COUNT),
                           ops_blank(&r, COUNT),
                           ops_blank(&r, COUNT),
                           ops_put_f32(&r, g, COUNT),
                           COUNT,
                           1e-4f,
                           0.9f,
                           0.95f,
                           1e-8f,
                           0,
                           0.1f,
                           0.05f,
                           1,
                           0};
    dptr zeros = ops_put_f32(&r, (float[COUNT]){0}, COUNT), one = ops_put_f32(&r, w, COUNT);
    must(dev_copy_rows(d, &(struct copy_rows_args){zeros, a.m, 1, COUNT, COUNT, COUNT}));
    must(dev_copy_rows(d, &(struct copy_rows_args){zeros, a.v, 1, COUNT, COUNT, COUNT}));
    must(dev_adamw(d, &a));
    must(dev_download(d, plain, a.w, sizeof plain));
    a.w = one;
    int odd = 0, down = 0;
    double mean = 0;
    for (int step = 1; step <= STEPS; step++) {
        must(dev_copy_rows(d, &(struct copy_rows_args){zeros, a.m, 1, COUNT, COUNT, COUNT}));
        must(dev_copy_rows(d, &(struct copy_rows_args){zeros, a.v, 1, COUNT, COUNT, COUNT}));
        a.rounding_seed = (uint32_t)(2 * step + 1);
        must(dev_adamw(d, &a));
    }
    must(dev_download(d, w, a.w, sizeof w));
    for (int i = 0; i < COUNT; i++) odd += bf16_round(w[i]) != w[i], down += w[i] < 1, mean += w[i] / COUNT;
    ok(fabs(plain[0] - (1 - 1e-4)) < 1e-6, "an update of fp32: %g", plain[0]);
    is_int(odd, 0, "all are bf16 values");
    ok(down > 0 && down < COUNT, "%d of them below 1", down);
    ok(fabs(mean - (1 - STEPS * 1e-4)) < 5 * sqrt(STEPS * p * (1 - p) / COUNT) / 256, "their mean %.6f, of fp32 %.6f",
       mean, 1 - STEPS * 1e-4);
    ops_end(&r);
}

/* What NMSE does not see: signs of zero, NaN, infinities, rows without columns. */
static void edges(struct dev *d) {
    struct ops_run r = {.d = d};
    float table[2] = {-0.0f, 1}, y[8], top = 1;
    int32_t ids[2] = {0, 7}, label = 2;
    dptr out = ops_blank(&r, 8), d_ids = ops_put(&r, ids, 8);
    must(dev_embed_fwd(d, &(struct embed_fwd_args){d_ids, ops_put_f32(&r, table, 2), out, 2, 1, 0, 2}));
    must(dev_download(d, y, out, 8));
    ok(y[0] == 0 && !signbit(y[0]) && y[1] == 0 && !signbit(y[1]), "embedding: -0 and absent rows give +0");

    float x[6] = {1, -3, NAN, 2, -INFINITY, 0.5f}, bound[2] = {0, 5};
    dptr d_x = ops_put_f32(&r, x, 6), d_top = ops_put_f32(&r, &top, 1), d_rows = ops_put_f32(&r, bound, 2);
    must(dev_amax(d, &(struct amax_args){d_x, d_top, 1, 2, 2}));
    must(dev_download(d, y, d_top, 4));
    ok(y[0] == 3, "amax of 1, -3 above 1");
    must(dev_amax_blocks(d, &(struct amax_blocks_args){d_x, d_rows, 2, 3, 3, {1, 3, 0, 0, 1}}));
    must(dev_download(d, y, d_rows, 8));
    ok(isnan(y[0]) && y[1] == INFINITY, "amax: NaN and infinity go through");
    must(dev_amax(d, &(struct amax_args){d_x, d_rows, 1, 1, 1}));
    must(dev_download(d, y, d_rows, 4));
    ok(isnan(y[0]), "amax: NaN stays");

    struct row_max_args m = {.z = d_x, .rowmax = out, .best = d_ids, .n = 1, .v = 0, .inv_temp = 1};
    must(dev_row_max(d, &m));
    must(dev_download(d, y, out, 4));
    must(dev_download(d, ids, d_ids, 4));
    ok(y[0] == -INFINITY && ids[0] == INT32_MAX, "no columns: maximum -inf, an index that loses every tie");
    struct sum_exp_args s = {.z = d_x,
                             .rowmax = d_top,
                             .labels = ops_put(&r, &label, 4),
                             .sumexp = out,
                             .target = dptr_f32(out, 1),
                             .n = 1,
                             .segments = 2,
                             .inv_temp = 1};
    must(dev_sum_exp(d, &s));
    must(dev_download(d, y, out, 8));
    ok(y[0] == 0 && y[1] == 0, "no columns: sum 0, target 0");
    s.v = 3, s.seg[1] = 2, s.seg[2] = 4;
    is_status(dev_sum_exp(d, &s), TM_ERR_SHAPE);

    float zs[3] = {0, 1, 2}, zt[3] = {0, -INFINITY, 1}, one = 1, stop = 2, ssum = 0, tsum = 0, w = 0;
    for (int i = 0; i < 3; i++) ssum += expf(zs[i] - 2), tsum += expf(zt[i] - 1);
    struct kl_grad_args k = {.zs = ops_put_f32(&r, zs, 3),
                             .zt = ops_put_f32(&r, zt, 3),
                             .smax = ops_put_f32(&r, &stop, 1),
                             .ssum = ops_put_f32(&r, &ssum, 1),
                             .tmax = ops_put_f32(&r, &one, 1),
                             .tsum = ops_put_f32(&r, &tsum, 1),
                             .weight = ops_put_f32(&r, &one, 1),
                             .kl = out,
                             .n = 1,
                             .v = 3,
                             .lds = 3,
                             .ldt = 3,
                             .segments = 1,
                             .seg = {0, 3},
                             .inv_temp = 1};
    double p = exp(-1) / (1 + exp(-1)), q = 1 + exp(-1) + exp(-2),
           want = p * log(p * q / exp(-2)) + (1 - p) * log((1 - p) * q);
    must(dev_kl_grad(d, &k));
    must(dev_download(d, y, out, 4));
    is_near((double)y[0], want, 1e-6, "a teacher's -inf adds nothing to the divergence");
    must(dev_download(d, y, k.zs, 12));
    is_near((double)y[1], exp(-1) / q, 1e-6, "and the student's probability to the gradient");
    must(dev_ce_grad(d, &(struct ce_grad_args){dptr_f32(d_x, 1), d_top, k.tsum, s.labels, ops_put_f32(&r, &w, 1), 1, 2,
                                               2, 0}));
    must(dev_download(d, y, d_x, 16));
    ok(y[1] == 0 && y[2] == 0 && y[3] == 2 && y[0] == 1, "a masked token's gradient is 0, whatever its logits");
    is_status(dev_rmsnorm_fwd(d, &(struct rmsnorm_fwd_args){.x = d_x, .delta = d_x}), TM_ERR_INTERNAL);
    is_status(dev_layernorm_fwd(d, &(struct layernorm_fwd_args){.x = d_x, .delta = d_x}), TM_ERR_INTERNAL);
    is_status(dev_act_fwd(d, &(struct act_fwd_args){.kind = ACT_KINDS}), TM_ERR_INTERNAL);
    is_status(dev_act_bwd(d, &(struct act_bwd_args){.kind = -1}), TM_ERR_INTERNAL);
    is_status(dev_rope(d, &(struct rope_args){.heads = 1, .d = 8, .rot = 3, .ld = 8}), TM_ERR_SHAPE);
    is_status(dev_colsum(d, &(struct colsum_args){.c = 5, .ld = 4}), TM_ERR_SHAPE);
    is_status(dev_rmsnorm_bwd(d, &(struct rmsnorm_bwd_args){.heads = 1}), TM_ERR_SHAPE);
    ops_end(&r);
}

int main(void) {
    struct dev *d = ops_open(NULL, 2);
    printf("# %s\n", dev_describe(d));
    for (int c = 0; c < OPS_CASES; c++) {
        double worst = 0;
        int at = 0;
        bool clean = true;
        for (int s = 0; s < OPS_SHAPES; s++) {
            struct ops_run r = {.d = d, .seed = (uint64_t)(100 * c + s)};
            ops_cases[c].run(&r, ops_shape[s][0], ops_shape[s][1]);
            clean &= ops_canaries(&r);
            if (r.worst > worst) worst = r.worst, at = s;
            ops_end(&r);
        }
        ok(worst <= ops_cases[c].bound, "%s: NMSE %.2g at %lld x %lld, at most %.2g", ops_cases[c].name, worst,
           (long long)ops_shape[at][0], (long long)ops_shape[at][1], ops_cases[c].bound);
        ok(clean, "%s: canaries hold", ops_cases[c].name);
    }
    edges(d);
    stochastic_rounding(d);
    dev_close(&d);
    return tap_done();
}
