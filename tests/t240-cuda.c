/* TEST ranks=1 backends=cuda tier=1 limit=300 */
/* Every row of ops.def: it says its bounds, runs on the CUDA backend, keeps its fp32 bound against the host (0: the same bits), and takes no more
 * work space than it says. */
#include "attn_ref.h"
#include "ops_bound.h"
#include "ops_cases.h"

/* What the cases of ops_cases.h leave to tests of their own, on small shapes. */
static void case_products(struct ops_run *r, int64_t rows, int64_t cols) {
    const int64_t n = rows * cols;
    const float top = 3.0f;
    dptr a = ops_put_f32(r, ops_normal(r, n, 1), n), b = ops_put_f32(r, ops_normal(r, n, 1), n);
    dptr c = ops_blank(r, rows * rows), y = ops_blank(r, n);
    struct gemm_args g = {.layout = GEMM_NT, .m = rows, .n = rows, .terms = 1, .segments = 2, .c = c, .ldc = rows};
    g.term[0] = (struct gemm_term){.a = a, .b = b, .lda = cols, .ldb = cols, .k = {0, cols / 3, cols}};
    ops_must(dev_gemm(r->d, &g));
    struct pack_args pack = {.x = a, .rows = rows, .ldx = cols, .to = {.segments = 1, .k = {0, cols}}};
    pack.to.at = ops_blank(r, ops_packed_bytes(rows, 1, pack.to.k) / 4); /* t223 compares what products make of it */
    ops_must(dev_pack(r->d, &pack));
    ops_must(dev_fake_quant(r->d, &(struct fake_quant_args){.x = a,
                                                            .y = y,
                                                            .amax = ops_put_f32(r, &top, 1),
                                                            .rows = rows,
                                                            .cols = cols,
                                                            .ldx = cols,
                                                            .ldy = cols,
                                                            .kind = FQ_FP8}));
    ops_take(r, c, NULL, rows * rows);
    ops_take(r, y, NULL, n);
    struct quant_fp8_args q = {
        .of = {.x = a, .amax = ops_put_f32(r, &top, 1), .rows = rows, .cols = cols, .ldx = cols, .kind = FQ_FP8},
        .codes = ops_blank(r, n),
        .scales = ops_blank(r, 1),
        .ldc = cols};
    ops_must(dev_quant_fp8(r->d, &q));
    const struct fp8_factor x = {q.codes, q.scales, cols, {INT32_MAX, INT32_MAX, 0, 0, 1}};
    struct gemm_fp8_args p = {.m = rows,
                              .n = rows,
                              .segments = 2,
                              .k = {0, cols / 3, cols},
                              .a = x,
                              .b = x,
                              .c = ops_blank(r, rows * rows),
                              .ldc = rows};
    ops_must(dev_gemm_fp8(r->d, &p));
    ops_take(r, p.c, NULL, rows * rows);
}

static struct ops_run run(struct dev *d, int c, int s) {
    struct ops_run r = {.d = d, .seed = (uint64_t)(100 * c + s), .bits_only = true};
    if (c < OPS_CASES) {
        ops_cases[c].run(&r, ops_shape[s][0] + (s == 3 ? 60 : 0), ops_shape[s][1] * (s == 8 ? 3 : 1));
    } else if (c == OPS_CASES) {
        case_products(&r, ops_shape[s][0], ops_shape[s][1]);
    } else {
        struct attn_problem x = {.s = attn_shapes[s]};
        attn_run(&r, &x, false);
    }
    return r;
}

int main(int argc, char **argv) {
    struct dev *host, *cuda;
    bool ran[64] = {false};
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1, .invariant = true}, &host));
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &cuda));
    for (int c = 0; c <= OPS_CASES + 1; c++) {
        const char *name = c < OPS_CASES ? ops_cases[c].name : c == OPS_CASES ? "products" : "attention";
        int differ = 0;
        if (argc > 1 && strcmp(argv[1], name) != 0) continue; /* t240-cuda NAME: one operation */
        for (int s = 0; s < (c <= OPS_CASES ? (int)OPS_SHAPES : (int)ATTN_SHAPES); s++) {
            dev_counters_reset(cuda);
            struct ops_run a = run(host, c, s), b = run(cuda, c, s);
            bool same = a.n == b.n && ops_agree(b.out, a.out, a.n, ops_loosest(cuda));
            if (!same) fprintf(stderr, "# %s: shape %d differs\n", name, s);
            differ += !same;
            for (int i = 0; i < dev_op_count(); i++) ran[i] |= dev_counter(cuda, i).calls > 0;
            ops_end(&a);
            ops_end(&b);
        }
        ok(!differ, "%s: within the bounds of ops.def (%d shapes differ)", name, differ);
    }
    for (int i = 0; argc == 1 && i < dev_op_count(); i++) {
        const struct dev_op o = dev_op(i);
        ok(ran[i] && o.bound >= 0 && (o.bound_bf16 > 0 || o.bound_bf16 == -1) && o.cost.bytes > 0,
           "%s: ran on cuda, bounds %g and %g, %g bytes", o.name, o.bound, o.bound_bf16, o.cost.bytes);
    }
    ops_work(cuda);
    dev_close(&cuda);
    dev_close(&host);
    return tap_done();
}
