/* Rates of a device's operations at the shapes of an 8 B model (Llama 3: 4096 wide, 32 query and 8 key heads of 128, FFN 14336), and in small
 * where the device is slow:   bench-dev [cuda|host] [small]
 * Prints for each operation its microseconds, and GB/s and TFLOP/s by the formulas of ops.def. `fast` products need no fixed order of sums. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "dev/dev.h"

struct bench {
    struct dev *d;
    bool small;
    dptr arena;
    size_t bytes, used;
    int64_t n, tokens, width; /* of element-wise operations; rows and columns of the others */
};
typedef enum status bench_fn(struct bench *b, int which);

/* Memory of the arena with n random floats in (-0.5, 0.5). A case that takes too much ends the program. */
static dptr take(struct bench *b, int64_t n) {
    dptr p = {b->arena.a + b->used};
    b->used += ((size_t)n * 4 + 255) & ~(size_t)255;
    if (b->used > b->bytes) {
        fprintf(stderr, "bench-dev: a case needs %zu bytes, the arena has %zu\n", b->used, b->bytes);
        exit(1);
    }
    return p;
}

static enum status fill_arena(struct bench *b) {
    enum { BLOCK = 1 << 20 };
    float *x;
    TM_TRY(mem_alloc(&x, BLOCK, 4));
    for (int64_t i = 0; i < BLOCK; i++) x[i] = rng_uniform(1, 1, (uint64_t)i) - 0.5f;
    enum status st = TM_OK;
    for (size_t at = 0; st == TM_OK && at < b->bytes; at += BLOCK * 4)
        st = dev_upload(b->d, (dptr){b->arena.a + at}, x, b->bytes - at < BLOCK * 4 ? b->bytes - at : BLOCK * 4);
    mem_free(&x);
    return st;
}

/* --- the cases ---------------------------------------------------------------------------------------------------------------- */
static enum status elementwise(struct bench *b, int which) {
    const int64_t n = b->n;
    dptr x = take(b, n), y = take(b, n), z = take(b, n), w = take(b, n);
    switch (which) {
    case 0: return dev_copy(b->d, &(struct copy_args){x, y, (size_t)n * 4});
    case 1: return dev_fill(b->d, &(struct fill_args){y, n, 0.25f});
    case 2: return dev_scale(b->d, &(struct scale_args){y, n, 1.0f});
    case 3: return dev_add(b->d, &(struct add_args){x, y, n});
    case 4: return dev_swiglu_fwd(b->d, &(struct swiglu_fwd_args){x, y, z, n, .packed = {.segments = 0}});
    case 5: return dev_swiglu_bwd(b->d, &(struct swiglu_bwd_args){x, y, z, w, w, n});
    case 6: return dev_act_fwd(b->d, &(struct act_fwd_args){x, y, n, ACT_RELU2, .packed = {.segments = 0}});
    case 7: return dev_act_bwd(b->d, &(struct act_bwd_args){x, y, z, n, ACT_RELU2});
    default:
        return dev_adamw(b->d,
                         &(struct adamw_args){x, y, z, w, n, 1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, 0.5f, 1.0f, 0});
    }
}

static enum status rows(struct bench *b, int which) {
    const int64_t t = b->tokens, c = b->width;
    dptr x = take(b, t * c), y = take(b, t * c), h = take(b, t * c), gain = take(b, c), rstd = take(b, t),
         mean = take(b, t), out = take(b, 8 * c);
    switch (which) {
    case 0:
        return dev_rmsnorm_fwd(b->d, &(struct rmsnorm_fwd_args){x, y, gain, h, y, rstd, t, c, 1e-5f,
                                                                .packed = {.segments = 0}});
    case 1: return dev_rmsnorm_bwd(b->d, &(struct rmsnorm_bwd_args){x, h, gain, rstd, y, y, out, t, 1, 1, c});
    case 2: return dev_colsum(b->d, &(struct colsum_args){x, out, t, c, c});
    case 3: return dev_bias_add(b->d, &(struct bias_add_args){x, gain, t, c});
    case 4: return dev_sum_squares(b->d, &(struct sum_squares_args){x, out, t, c, c});
    case 5: return dev_amax(b->d, &(struct amax_args){x, out, t, c, c});
    case 6:
        return dev_layernorm_fwd(b->d, &(struct layernorm_fwd_args){x, y, gain, gain, h, y, mean, rstd, t, c, 1e-5f, 1,
                                                                    .packed = {.segments = 0}});
    case 7: return dev_layernorm_bwd(b->d, &(struct layernorm_bwd_args){x, h, gain, mean, rstd, y, y, out, t, c, 1});
    case 8:
        return dev_fake_quant(
            b->d, &(struct fake_quant_args){
                      .x = x, .y = y, .amax = gain, .rows = t, .cols = c, .ldx = c, .ldy = c, .kind = FQ_FP8});
    default:
        return dev_fake_quant(b->d, &(struct fake_quant_args){.x = x,
                                                              .y = y,
                                                              .amax = gain,
                                                              .rows = t,
                                                              .cols = c,
                                                              .ldx = c,
                                                              .ldy = c,
                                                              .kind = FQ_NVFP4,
                                                              .grid = {.rows = 1, .cols = 16, .ld = c / 16}});
    }
}

static enum status logits(struct bench *b, int which) {
    const int64_t n = b->small ? 4 : 512, v = b->small ? 1000 : 128256;
    dptr z = take(b, n * v), zt = take(b, n * v), most = take(b, n), sum = take(b, n), out = take(b, n);
    struct sum_exp_args s = {
        .z = z, .rowmax = most, .sumexp = out, .n = n, .v = v, .ld = v, .segments = 8, .inv_temp = 1};
    struct kl_grad_args k = {.zs = z,
                             .zt = zt,
                             .smax = most,
                             .ssum = sum,
                             .tmax = most,
                             .tsum = sum,
                             .weight = sum,
                             .kl = out,
                             .n = n,
                             .v = v,
                             .lds = v,
                             .ldt = v,
                             .segments = 8,
                             .inv_temp = 1};
    for (int i = 0; i <= 8; i++) s.seg[i] = k.seg[i] = (v * i + 7) / 8;
    switch (which) {
    case 0:
        return dev_row_max(b->d, &(struct row_max_args){.z = z, .rowmax = out, .n = n, .v = v, .ld = v, .inv_temp = 1});
    case 1: TM_TRY(dev_fill(b->d, &(struct fill_args){s.labels = take(b, n), n, 0})); return dev_sum_exp(b->d, &s);
    default: return dev_kl_grad(b->d, &k);
    }
}

static const struct {
    const char *name;
    int64_t n, k;
    int bf16, segments, layout;
} gemms[] = {{"gemm q 4096x4096 fp32", 4096, 4096, 0, 8, GEMM_NT},
             {"gemm q 4096x4096 bf16", 4096, 4096, 1, 8, GEMM_NT},
             {"gemm kv 1024x4096 bf16", 1024, 4096, 1, 8, GEMM_NT},
             {"gemm up 14336x4096 bf16", 14336, 4096, 1, 8, GEMM_NT},
             {"gemm up, dx, bf16", 4096, 14336, 1, 8, GEMM_NN},
             {"gemm up, dw, bf16", 14336, 4096, 1, 8, GEMM_TN},
             {"gemm down 4096x14336 bf16", 4096, 14336, 1, 8, GEMM_NT}};
enum { GEMMS = sizeof gemms / sizeof *gemms };

static enum status gemm(struct bench *b, int which) {
    const int64_t s = b->small ? 64 : 1, m = b->tokens, n = gemms[which].n / s, k = gemms[which].k / s;
    struct gemm_args g = {.layout = (enum gemm_layout)gemms[which].layout,
                          .m = m,
                          .n = n,
                          .terms = 1,
                          .segments = gemms[which].segments,
                          .ldc = n,
                          .bf16 = gemms[which].bf16};
    g.term[0].a = take(b, m * k);
    g.term[0].b = take(b, n * k);
    g.c = take(b, m * n);
    g.term[0].lda = g.layout == GEMM_TN ? m : k;
    g.term[0].ldb = g.layout == GEMM_NT ? k : n;
    for (int i = 1; i <= g.segments; i++) g.term[0].k[i] = (k * i + g.segments - 1) / g.segments;
    return dev_gemm(b->d, &g);
}

static enum status attention(struct bench *b, int which) {
    const int64_t t = b->small ? 64 : 4096, hq = b->small ? 2 : 32, hkv = b->small ? 1 : 8, d = 128, q = hq * d,
                  kv = hkv * d;
    dptr x[9];
    for (int i = 0; i < 9; i++) x[i] = take(b, t * (i == 0 || i >= 3 ? q : kv));
    dptr lse = take(b, t * hq), delta = take(b, t * hq), none = {0};
    if (which == 0)
        return dev_attn_fwd(b->d,
                            &(struct attn_fwd_args){x[0], x[1], x[2],   x[3], lse, none, 1,
                                                    t,    hq,   hkv,    d,    q,   kv,   kv,
                                                    q,    0,    0.088f, 0,    0,   0,    .packed = {.segments = 0}});
    return dev_attn_bwd(b->d,
                        &(struct attn_bwd_args){x[0], x[1], x[2], x[3], lse, none, x[4], x[5], x[6], x[7],   delta, 1,
                                                t,    hq,   hkv,  d,    q,   kv,   kv,   q,    0,    0.088f, 0});
}

/* --- measuring ----------------------------------------------------------------------------------------------------------------- */
static void measure(struct bench *b, const char *name, bench_fn *fn, int which) {
    double flops = 0, bytes = 0, began = 0;
    int reps = 0;
    enum status st = TM_OK;
    for (int round = 0; st == TM_OK && round < 2; round++) { /* the first warms up */
        began = clock_seconds();
        dev_counters_reset(b->d);
        for (reps = 0; st == TM_OK && (reps == 0 || (round && !b->small && reps < 20)); reps++) {
            b->used = 0;
            st = fn(b, which);
        }
        if (st == TM_OK) st = dev_sync(b->d);
    }
    const double s = (clock_seconds() - began) / reps;
    for (int i = 0; i < dev_op_count(); i++) {
        flops += dev_counter(b->d, i).flops / reps;
        bytes += dev_counter(b->d, i).bytes / reps;
    }
    if (st == TM_OK)
        printf("%-28s %10.1f us %8.1f GB/s %9.3f TFLOP/s\n", name, s * 1e6, bytes / s * 1e-9, flops / s * 1e-12);
    else
        printf("%-28s %s\n", name, status_message());
}

static void run(struct bench *b) {
    static const char *const e[] = {"copy",       "fill",    "scale",   "add",  "swiglu_fwd",
                                    "swiglu_bwd", "act_fwd", "act_bwd", "adamw"};
    static const char *const r[] = {"rmsnorm_fwd",     "rmsnorm_bwd",   "colsum",
                                    "bias_add",        "sum_squares",   "amax",
                                    "layernorm_fwd",   "layernorm_bwd", "fake_quant fp8",
                                    "fake_quant nvfp4"};
    static const char *const l[] = {"row_max", "sum_exp", "kl_grad"};
    for (int i = 0; i < 9; i++) measure(b, e[i], elementwise, i);
    for (int i = 0; i < 10; i++) measure(b, r[i], rows, i);
    for (int i = 0; i < 3; i++) measure(b, l[i], logits, i);
    for (int i = 0; i < GEMMS; i++) measure(b, gemms[i].name, gemm, i);
    measure(b, "attn_fwd", attention, 0);
    measure(b, "attn_bwd", attention, 1);
}

static enum status bench(enum dev_backend backend, bool small) {
    struct bench b = {.small = small,
                      .n = small ? 1 << 14 : 1 << 26,
                      .tokens = small ? 64 : 4096,
                      .width = small ? 256 : 4096};
    b.bytes = small ? 4 << 20 : (size_t)3 << 30;
    for (int fast = 0; fast < 2; fast++) {
        TM_TRY(dev_open(&(struct dev_options){.backend = backend, .invariant = !fast}, &b.d));
        printf("%s%s, %lld tokens\n", dev_describe(b.d), fast ? ", fast products" : "", (long long)b.tokens);
        enum status st = dev_alloc(b.d, "bench", b.bytes, &b.arena);
        if (st == TM_OK) st = fill_arena(&b);
        if (st == TM_OK && !fast) run(&b);
        for (int i = 0; st == TM_OK && fast && i < GEMMS; i++) measure(&b, gemms[i].name, gemm, i);
        dev_close(&b.d);
        TM_TRY(st);
    }
    return TM_OK;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "cuda";
    enum status st = bench(dev_backend_named(name), argc > 2 && !strcmp(argv[2], "small"));
    if (st != TM_OK) fprintf(stderr, "bench-dev: %s\n", status_message());
    return st != TM_OK;
}
