/* TEST ranks=1 backends=host,guard,cuda tier=1 limit=120
 * Packed factors of bf16 products: a product that reads one has the bits of the product of the fp32 factor, on every kernel, whichever of the two
 * factors are packed, from any row they may be read from, and whether dev_pack wrote them or the operation whose result they are. What is
 * not written of a packed factor's memory is NaN here: it must not show. */
#include "ops_case.h"

#include "cuda_gemm.h"

static const char *const kernels[] = {NULL, "avx512", "avx2", "portable"};
enum { KERNELS = 4, PACK_A = 1, PACK_B = 2 };
static const struct {
    int segments;
    int64_t k[OPS_MAX_SEGMENTS + 1];
} ks[] = {
    {1, {0, 1}},
    {1, {0, 32}},
    {1, {0, 97}},
    {1, {0, 1700}},
    {3, {0, 33, 33, 66}},
    {4, {0, 0, 0, 7, 7}},
    {8, {0, 24, 48, 72, 96, 120, 144, 168, 192}},
    {8, {0, 64, 128, 128, 161, 162, 192, 224, 256}},
};
static const struct { int64_t m, n; } shapes[] = {{1, 1}, {5, 67}, {16, 129}, {17, 33}, {65, 127}, {129, 131}};
enum { KS = sizeof ks / sizeof *ks, SHAPES = sizeof shapes / sizeof *shapes };

/* Memory for a packed factor, all NaN. */
static dptr room(struct dev *d, int64_t rows, const struct packed_factor *f) {
    const int64_t bytes = ops_packed_bytes(rows, f->segments, f->k);
    unsigned char *x;
    dptr p;
    ops_must(mem_alloc(&x, (size_t)bytes + 1, 1));
    memset(x, 0xff, (size_t)bytes);
    ops_must(dev_alloc(d, "test", (size_t)bytes, &p));
    ops_must(dev_upload(d, p, x, (size_t)bytes));
    mem_free(&x);
    return p;
}
/* The largest cases take long there. */
static bool emulated(const struct dev *d) { return dev_backend(d) == DEV_CUDA; }

static struct packed_factor cut_of(const struct gemm_args *a) {
    struct packed_factor f = {.segments = a->segments};
    memcpy(f.k, a->term[0].k, sizeof f.k);
    return f;
}
static dptr packed(struct dev *d, const struct gemm_args *a, dptr x, int64_t rows, int64_t ld, int is_b) {
    struct pack_args p = {.x = x, .rows = rows, .ldx = ld, .is_b = is_b, .to = cut_of(a)};
    p.to.at = room(d, rows, &p.to);
    ops_must(dev_pack(d, &p));
    return p.to.at;
}

/* C of rows [row, row + m) of A, by some factors packed. */
static float *product(struct dev *d, const struct prod *p, int which, int64_t row, int64_t m) {
    struct gemm_args a = p->a;
    struct gemm_term *t = &a.term[0];
    dptr fa, fb;
    float *c;
    const int64_t k = t->k[a.segments], n = m > 0 ? (m - 1) * a.ldc + a.n : 0;
    a.m = m;
    ops_must(prod_send(d, p->fa[0], (p->a.m - 1) * t->lda + k, &fa));
    ops_must(prod_send(d, p->fb[0], (a.n - 1) * t->ldb + k, &fb));
    t->a = dptr_f32(fa, row * t->lda), t->b = fb;
    if (which & PACK_A) a.packed_a = packed(d, &a, fa, p->a.m, t->lda, 0), a.packed_row = row, t->a.a = 0;
    if (which & PACK_B) a.packed_b = packed(d, &a, fb, a.n, t->ldb, 1), t->b.a = 0;
    if (p->bias) ops_must(prod_send(d, p->bias, a.n, &a.bias));
    ops_must(prod_send(d, p->c0, n, &a.c));
    ops_must(dev_gemm(d, &a));
    ops_must(mem_alloc(&c, (size_t)n + 1, sizeof *c));
    ops_must(dev_download(d, c, a.c, (size_t)n * 4));
    dev_free(d, &fa), dev_free(d, &fb), dev_free(d, &a.c), dev_free(d, &a.bias);
    dev_free(d, &a.packed_a), dev_free(d, &a.packed_b);
    return c;
}

/* Every step-th shape. */
static void sweep(struct dev *d, const char *name, int step) {
    int all = 0, differ = 0;
    for (int s = step - 1; s < SHAPES; s += step)
        for (int i = 0; i < KS; i++) {
            struct prod p;
            if (emulated(d) && i == 3 && s > 3) continue;
            const bool accumulate = ks[i].segments == 1 && s % 2;
            need(prod_init(&p, GEMM_NT, shapes[s].m, shapes[s].n, 1, ks[i].segments, ks[i].k, i % 2 ? 3 : 0, accumulate,
                           (s + i) % 2));
            p.a.bf16 = 1;
            float *want = product(d, &p, 0, 0, p.a.m);
            for (int which = 1; which < 4; which++, all++) {
                float *got = product(d, &p, which, 0, p.a.m);
                if (memcmp(got, want, (size_t)p.c_elems * sizeof *got) != 0)
                    differ++, printf("# m %d n %d case %d packed %d\n", (int)p.a.m, (int)p.a.n, i, which);
                mem_free(&got);
            }
            mem_free(&want);
            prod_free(&p);
        }
    ok(differ == 0, "%s: %d products of packed factors, %d differ", name, all, differ);
}

static void from_a_row(struct dev *d) {
    struct prod p;
    int differ = 0;
    need(prod_init(&p, GEMM_NT, 300, 67, 1, ks[7].segments, ks[7].k, 0, false, true));
    p.a.bf16 = 1;
    const int64_t rows[][2] = {{0, 128}, {128, 128}, {256, 44}, {128, 172}, {256, 3}};
    for (int i = 0; i < 5; i++) {
        float *want = product(d, &p, 0, rows[i][0], rows[i][1]),
              *got = product(d, &p, PACK_A | PACK_B, rows[i][0], rows[i][1]);
        differ += memcmp(got, want, (size_t)(rows[i][1] * p.a.n) * sizeof *got) != 0;
        mem_free(&got);
        mem_free(&want);
    }
    prod_free(&p);
    ok(differ == 0, "a packed factor is read from a row on (%d differ)", differ);
}

/* --- operations that leave their result packed ----------------------------------------------------------------------------------- */
/* Take the product of x [rows, k] in fp32, or packed, with some right factor. */
static void times(struct ops_run *r, const struct packed_factor *f, dptr x, int64_t rows) {
    enum { N = 40 };
    const int64_t k = f->k[f->segments];
    float *b = ops_host(r, (size_t)(N * k), sizeof *b);
    for (int64_t i = 0; i < N * k; i++) b[i] = rng_normal(3, 1, (uint64_t)i);
    struct gemm_args g = {.layout = GEMM_NT,
                          .m = rows,
                          .n = N,
                          .terms = 1,
                          .segments = f->segments,
                          .c = ops_blank(r, rows * N),
                          .ldc = N,
                          .bf16 = 1,
                          .packed_a = f->at};
    g.term[0] = (struct gemm_term){.a = x, .b = ops_put_f32(r, b, N * k), .lda = k, .ldb = k};
    memcpy(g.term[0].k, f->k, sizeof f->k);
    ops_must(dev_gemm(r->d, &g));
    ops_take(r, g.c, NULL, rows * N);
}

enum { BOTH, ALONE, MODES };
struct maker {
    const char *name;
    void (*run)(struct ops_run *r, int64_t rows, dptr y, const struct packed_factor *f);
};
static void run_norm(struct ops_run *r, int64_t rows, dptr y, const struct packed_factor *f) {
    const int64_t c = f->k[f->segments];
    struct rmsnorm_fwd_args a = {.x = ops_put_f32(r, ops_normal(r, rows * c, 1), rows * c),
                                 .gain = ops_put_f32(r, ops_normal(r, c, 1), c),
                                 .y = y,
                                 .rstd = ops_blank(r, rows),
                                 .rows = rows,
                                 .c = c,
                                 .eps = 1e-5f,
                                 .packed = *f};
    ops_must(dev_rmsnorm_fwd(r->d, &a));
}
static void run_layernorm(struct ops_run *r, int64_t rows, dptr y, const struct packed_factor *f) {
    const int64_t c = f->k[f->segments];
    struct layernorm_fwd_args a = {.x = ops_put_f32(r, ops_normal(r, rows * c, 1), rows * c),
                                   .gain = ops_put_f32(r, ops_normal(r, c, 1), c),
                                   .bias = ops_put_f32(r, ops_normal(r, c, 1), c),
                                   .y = y,
                                   .mean = ops_blank(r, rows),
                                   .rstd = ops_blank(r, rows),
                                   .rows = rows,
                                   .c = c,
                                   .eps = 1e-5f,
                                   .packed = *f};
    ops_must(dev_layernorm_fwd(r->d, &a));
}
static void run_act(struct ops_run *r, int64_t rows, dptr y, const struct packed_factor *f) {
    const int64_t n = rows * f->k[f->segments];
    struct act_fwd_args a = {.x = ops_put_f32(r, ops_normal(r, n, 1), n),
                             .y = y,
                             .n = n,
                             .kind = rows == 3 ? ACT_GELU : ACT_RELU2,
                             .packed = *f};
    ops_must(dev_act_fwd(r->d, &a));
}
static void run_swiglu(struct ops_run *r, int64_t rows, dptr y, const struct packed_factor *f) {
    const int64_t n = rows * f->k[f->segments];
    struct swiglu_fwd_args a = {.g = ops_put_f32(r, ops_normal(r, n, 1), n),
                                .u = ops_put_f32(r, ops_normal(r, n, 1), n),
                                .y = y,
                                .n = n,
                                .packed = *f};
    ops_must(dev_swiglu_fwd(r->d, &a));
}
static void run_fake_quant(struct ops_run *r, int64_t rows, dptr y, const struct packed_factor *f) {
    const int64_t c = f->k[f->segments], n = rows * c;
    const float top = 4;
    struct fake_quant_args a = {.x = ops_put_f32(r, ops_normal(r, n, 1), n),
                                .y = y,
                                .amax = ops_put_f32(r, &top, 1),
                                .rows = rows,
                                .cols = c,
                                .ldx = c,
                                .ldy = c,
                                .kind = rows == 3 ? FQ_FP8 : FQ_NVFP4,
                                .grid = {.rows = 1, .cols = 16, .ld = c / 16},
                                .packed = *f};
    ops_must(dev_fake_quant(r->d, &a));
}
static void attention(struct ops_run *r, int64_t rows, int64_t d, dptr o, const struct packed_factor *f) {
    const int64_t c = f->k[f->segments], heads = c / d, n = rows * c;
    struct attn_fwd_args a = {.q = ops_put_f32(r, ops_normal(r, n, 1), n),
                              .k = ops_put_f32(r, ops_normal(r, n, 1), n),
                              .v = ops_put_f32(r, ops_normal(r, n, 1), n),
                              .o = o,
                              .lse = ops_blank(r, rows * heads),
                              .b = 1,
                              .t = rows,
                              .hq = heads,
                              .hkv = heads,
                              .d = d,
                              .ldq = c,
                              .ldk = c,
                              .ldv = c,
                              .ldo = c,
                              .scale = 0.25f,
                              .bf16 = 1,
                              .packed = *f};
    ops_must(dev_attn_fwd(r->d, &a));
}
static void run_attention(struct ops_run *r, int64_t rows, dptr o, const struct packed_factor *f) {
    attention(r, rows, 16, o, f);
}
static void run_odd_heads(struct ops_run *r, int64_t rows, dptr o, const struct packed_factor *f) {
    attention(r, rows, 3, o, f);
}

/* The product of what it leaves in fp32 (want), packed beside it, packed alone. */
static void try_maker(struct dev *d, const struct maker *m) {
    static const struct {
        int segments;
        int64_t k[OPS_MAX_SEGMENTS + 1];
    } cuts[] = {
        {1, {0, 96}}, {3, {0, 48, 48, 96}}, {8, {0, 24, 27, 27, 30, 60, 93, 93, 96}}, {1, {0, 336}}, {2, {0, 96, 240}}};
    const int64_t rows[] = {33, 3, 1, 130};
    int differ = 0, all = 0;
    for (int c = 0; c < (emulated(d) ? 3 : 5); c++)
        for (int s = 0; s < (emulated(d) ? 2 : 4); s++)
            for (int mode = 0; mode < MODES; mode++, all++) {
                struct ops_run r = {.d = d, .seed = 11};
                struct packed_factor f = {.segments = cuts[c].segments}, plain;
                memcpy(f.k, cuts[c].k, sizeof f.k);
                const int64_t k = f.k[f.segments], size = rows[s] * 40;
                plain = f;
                f.at = room(d, rows[s], &f);
                dptr y = ops_blank(&r, rows[s] * k);
                m->run(&r, rows[s], mode == BOTH ? y : (dptr){0}, &f);
                if (mode == ALONE) {
                    struct ops_run again = {.d = d, .seed = 11};
                    m->run(&again, rows[s], y, &plain);
                    ops_end(&again);
                }
                times(&r, &plain, y, rows[s]);
                times(&r, &f, (dptr){0}, rows[s]);
                differ += memcmp(r.out, r.out + size, (size_t)size * sizeof *r.out) != 0 || !ops_canaries(&r);
                dev_free(d, &f.at);
                ops_end(&r);
            }
    ok(differ == 0, "%s leaves its result packed: %d of %d products differ", m->name, differ, all);
}

static void refusals(struct dev *d) {
    struct gemm_args a = {.layout = GEMM_NN, .m = 1, .n = 1, .terms = 1, .segments = 1, .ldc = 1, .bf16 = 1};
    ops_must(dev_alloc(d, "test", 1 << 16, &a.c));
    a.packed_b = a.c;
    a.term[0] = (struct gemm_term){.a = a.c, .b = a.c, .lda = 1, .ldb = 1, .k = {0, 1}};
    is_status(dev_gemm(d, &a), TM_ERR_SHAPE);
    a.layout = GEMM_NT, a.bf16 = 0;
    is_status(dev_gemm(d, &a), TM_ERR_SHAPE);
    a.bf16 = 1, a.packed_row = 1;
    is_status(dev_gemm(d, &a), TM_ERR_SHAPE);
    struct pack_args p = {.x = a.c, .rows = 2, .ldx = 3, .to = {.at = a.c, .segments = 1, .k = {0, 4}}};
    is_status(dev_pack(d, &p), TM_ERR_SHAPE);
    struct swiglu_fwd_args s = {.g = a.c, .u = a.c, .y = a.c, .n = 7, .packed = p.to};
    is_status(dev_swiglu_fwd(d, &s), TM_ERR_SHAPE);
    dev_free(d, &a.c);
}

static const struct maker makers[] = {
    {"norm", run_norm},          {"layer norm", run_layernorm},         {"swiglu", run_swiglu},
    {"relu2, gelu", run_act},    {"fake quantization", run_fake_quant}, {"attention", run_attention},
    {"odd heads", run_odd_heads}};
static void all(struct dev *d, const char *name, int step) {
    sweep(d, name, step);
    from_a_row(d);
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++) try_maker(d, &makers[i]);
}

int main(void) {
    struct dev *d = ops_open(NULL, 2);
    const bool cuda = dev_backend(d) == DEV_CUDA;
    all(d, "the best kernel", 1);
    if (!cuda) refusals(d); /* a device is not asked to check */
    dev_close(&d);
    if (cuda) {
        setenv("CUEMU_ARCH", "90", 1);
        d = ops_open(NULL, 2);
        all(d, "wgmma, which reads by TMA", 2);
        dev_close(&d);
    }
    for (int i = 1; i < KERNELS && !cuda; i++) {
        struct dev_options o = {.backend = dev_backend_named(getenv("TEMPER_TEST_BACKEND")),
                                .threads = 1,
                                .invariant = true,
                                .kernel = kernels[i]};
        if (dev_open(&o, &d) != TM_OK) continue; /* not this CPU's */
        sweep(d, kernels[i], 1);
        try_maker(d, &makers[0]);
        dev_close(&d);
    }
    return tap_done();
}
