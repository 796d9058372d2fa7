/* TEST ranks=1 backends=cuda tier=1 limit=120 */
/* The row operations of the CUDA backend on what t240 leaves out: edges of their tiles, empty segments, no columns, arrays that do not lie on
 * 16 bytes, rows longer than shared memory, ties, signs of zero, infinities and NaN. The host's bits, between canaries; any NaN is a NaN. */
#include "ops_bound.h"
#include "ops_case.h"

enum { KNOBS = 6 };
typedef int64_t knobs[KNOBS];
typedef void trial(struct ops_run *r, const int64_t *k);

static struct dev *host, *cuda;

static bool same(const struct ops_run *a, const struct ops_run *b) {
    return a->n == b->n && a->n > 0 && ops_agree(b->out, a->out, a->n, ops_loosest(cuda));
}
static void both(const char *name, trial *f, const knobs *k, size_t n) {
    int differ = 0;
    for (size_t i = 0; i < n; i++) {
        struct ops_run a = {.d = host, .seed = i}, b = {.d = cuda, .seed = i};
        f(&a, k[i]);
        f(&b, k[i]);
        if (!same(&a, &b) || !ops_canaries(&b)) {
            fprintf(stderr, "# %s: differs at", name);
            for (int j = 0; j < KNOBS; j++) fprintf(stderr, " %lld", (long long)k[i][j]);
            fprintf(stderr, "\n");
            differ++;
        }
        ops_end(&a);
        ops_end(&b);
    }
    ok(!differ, "%s: the host's bits (%zu trials, %d differ)", name, n, differ);
}
#define BOTH(name, f, ...)                         \
    do {                                           \
        static const knobs k_[] = {__VA_ARGS__};   \
        both(name, f, k_, sizeof k_ / sizeof *k_); \
    } while (0)

/* n floats that begin `skew` floats after 16 aligned bytes. */
static dptr put(struct ops_run *r, const float *x, int64_t n, int64_t skew) {
    float *y = ops_host(r, (size_t)(n + skew), sizeof *y);
    memcpy(y + skew, x, (size_t)n * sizeof *y);
    return dptr_f32(ops_put_f32(r, y, n + skew), skew);
}
static dptr normal(struct ops_run *r, int64_t n, int64_t skew) { return put(r, ops_normal(r, n, 1), n, skew); }
static dptr blank(struct ops_run *r, int64_t n, int64_t skew) { return dptr_f32(ops_blank(r, n + skew), skew); }
static void take(struct ops_run *r, dptr p, int64_t n) { ops_take(r, p, NULL, n); }

/* n, c, rows of the table, ids from 0 to .. (0: all the same), skew */
static void embedding(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0], c = k[1], rows = k[2], skew = k[4], row0 = 3;
    int32_t *ids = ops_below(r, n, 0, k[3] ? (int)k[3] : 1);
    for (int64_t i = 0; i < n; i++) ids[i] += k[3] ? -5 : (int32_t)row0 + 1;
    dptr at = ops_put(r, ids, (size_t)n * 4), y = blank(r, n * c, skew), dtable = normal(r, rows * c, skew);
    ops_must(dev_embed_fwd(r->d, &(struct embed_fwd_args){at, normal(r, rows * c, skew), y, n, c, row0, rows}));
    ops_must(dev_embed_bwd(r->d, &(struct embed_bwd_args){at, normal(r, n * c, skew), dtable, n, c, row0, rows}));
    take(r, y, n * c);
    take(r, dtable, rows * c);
}

/* tokens, heads, heads of a group, c, skew, what else: 1 residual, 2 a NaN and an infinity, 4 dx over dres */
static void norm(struct ops_run *r, const int64_t *k) {
    int64_t tokens = k[0], heads = k[1], c = k[3], skew = k[4], rows = tokens * heads, n = rows * c;
    int64_t leaves = (heads + k[2] - 1) / k[2] * OPS_ROW_SEGMENTS;
    float *h = ops_normal(r, n, 1);
    if (k[5] & 2) h[n / 2] = NAN, h[n - 1] = -INFINITY;
    dptr x = put(r, h, n, skew), gain = normal(r, c, skew), y = blank(r, n, skew), rstd = blank(r, rows, 0);
    struct rmsnorm_fwd_args f = {.x = x, .gain = gain, .y = y, .rstd = rstd, .rows = rows, .c = c, .eps = 1e-6f};
    if (k[5] & 1) f.delta = normal(r, n, skew), f.h_out = blank(r, n, skew);
    ops_must(dev_rmsnorm_fwd(r->d, &f));
    dptr dy = normal(r, n, skew), dres = normal(r, n, skew), dgain = normal(r, leaves * c, skew);
    struct rmsnorm_bwd_args b = {dy, k[5] & 1 ? f.h_out : x, gain, rstd, {0}, dy, dgain, tokens, heads, k[2], c};
    if (k[5] & 1) b.dres = dres;
    if (k[5] & 4) b.dx = dres;
    ops_must(dev_rmsnorm_bwd(r->d, &b));
    take(r, y, n);
    take(r, rstd, rows);
    take(r, b.dx, n);
    take(r, dgain, leaves * c);
}

/* rows, c, skew, what else: as above */
static void layernorm(struct ops_run *r, const int64_t *k) {
    int64_t rows = k[0], c = k[1], skew = k[2], n = rows * c;
    float *h = ops_normal(r, n, 1);
    if (k[3] & 2) h[n / 2] = NAN, h[n - 1] = -INFINITY;
    struct layernorm_fwd_args f = {.x = put(r, h, n, skew),
                                   .gain = normal(r, c, skew),
                                   .bias = normal(r, c, skew),
                                   .y = blank(r, n, skew),
                                   .mean = blank(r, rows, 0),
                                   .rstd = blank(r, rows, 0),
                                   .rows = rows,
                                   .c = c,
                                   .eps = 1e-6f,
                                   .offset = (float)(k[3] & 1)};
    if (k[3] & 1) f.delta = normal(r, n, skew), f.h_out = blank(r, n, skew);
    ops_must(dev_layernorm_fwd(r->d, &f));
    dptr dy = normal(r, n, skew), dres = normal(r, n, skew), dgain = normal(r, OPS_ROW_SEGMENTS * c, skew);
    struct layernorm_bwd_args b = {dy,      k[3] & 1 ? f.h_out : f.x, f.gain, f.mean, f.rstd, {0}, dy, dgain, rows, c,
                                   f.offset};
    if (k[3] & 1) b.dres = dres;
    if (k[3] & 4) b.dx = dres;
    ops_must(dev_layernorm_bwd(r->d, &b));
    take(r, f.y, n);
    take(r, f.mean, rows);
    take(r, f.rstd, rows);
    if (k[3] & 1) take(r, f.h_out, n);
    take(r, b.dx, n);
    take(r, dgain, OPS_ROW_SEGMENTS * c);
}

/* n, heads, d, rot, extra columns, skew */
static void rotary(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0], ld = k[1] * k[2] + k[4];
    dptr x = normal(r, n * ld, k[5]);
    struct rope_args a = {x,
                          ops_put(r, ops_below(r, n, 0, 9), (size_t)n * 4),
                          normal(r, 9 * k[3], 0),
                          n,
                          k[1],
                          k[2],
                          k[3],
                          ld,
                          k[0] % 2 ? 1 : -1};
    ops_must(dev_rope(r->d, &a));
    take(r, x, n * ld);
}

/* n, c, extra columns */
static void columns(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0], c = k[1], ld = c + k[2];
    dptr out = normal(r, OPS_ROW_SEGMENTS * c, 0);
    ops_must(dev_colsum(r->d, &(struct colsum_args){normal(r, n * ld, 0), out, n, c, ld}));
    take(r, out, OPS_ROW_SEGMENTS * c);
}
/* parts, n, skew */
static void fold(struct ops_run *r, const int64_t *k) {
    dptr x = normal(r, k[0] * k[1], k[2]);
    ops_must(dev_tree_fold(r->d, &(struct tree_fold_args){x, k[0], k[1]}));
    take(r, x, k[1]);
}
/* rows, columns, extra columns */
static void squares(struct ops_run *r, const int64_t *k) {
    dptr out = ops_blank(r, 2);
    ops_must(dev_sum_squares(r->d, &(struct sum_squares_args){normal(r, k[0] * (k[1] + k[2]), 0), out, k[0], k[1],
                                                              k[1] + k[2]}));
    take(r, out, 2);
}

static const float odd[] = {-0.0f, -INFINITY, NAN, 1e-40f, -7};

/* rows, columns, extra columns, skew, which of `odd` is in the middle, the start */
static void largest(struct ops_run *r, const int64_t *k) {
    int64_t ld = k[1] + k[2], n = k[0] * ld;
    float *x = ops_normal(r, n, 1), start = odd[k[5]];
    if (n) x[n / 2] = -odd[k[4]];
    dptr out = ops_put_f32(r, &start, 1);
    ops_must(dev_amax(r->d, &(struct amax_args){put(r, x, n, k[3]), out, k[0], k[1], ld}));
    take(r, out, 1);
}
/* rows, columns of a block, row0, col0, and the box: rows, columns (+ 1 extra when odd) */
static void blocks(struct ops_run *r, const int64_t *k) {
    int64_t rows = k[4], cols = k[5], ld = cols + 4 * (rows % 2), n = rows * ld;
    int64_t down = (k[2] + rows + k[0] - 1) / k[0], across = (k[3] + cols + k[1] - 1) / k[1];
    float *x = ops_normal(r, n, 1), *start = ops_normal(r, down * across, 0.5f);
    x[n / 2] = odd[n % 5];
    dptr out = ops_put_f32(r, start, down * across);
    struct amax_blocks_args a = {ops_put_f32(r, x, n), out, rows, cols, ld, {k[0], k[1], k[2], k[3], across}};
    ops_must(dev_amax_blocks(r->d, &a));
    take(r, out, down * across);
}

/* Ordinary logits; ties of the maximum; zeros of both signs above the rest; all -inf; NaN among numbers; all NaN. */
static float *logits(struct ops_run *r, int64_t n, int64_t ld, int64_t v, int64_t kind) {
    float *z = ops_normal(r, n * ld, 3);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < v; j++) {
            float *x = &z[i * ld + j];
            if (kind == 1) *x = rintf(*x / 3);
            if (kind == 2) *x = fabsf(*x) > 1 ? -1 : *x > 0 ? 0.0f : -0.0f;
            if (kind == 3) *x = -INFINITY;
            if (kind == 4 && (j + i) % 11 == 0) *x = j % 2 ? NAN : -INFINITY;
            if (kind == 5) *x = NAN;
        }
    return z;
}
/* rows, columns, segments, extra columns, kind of logits, 1 no target */
static void softmax(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0], v = k[1], ld = v + k[3], col0 = 40;
    int32_t *labels = ops_below(r, n, 35, 45 + (int)v);
    float *z = logits(r, n, ld, v, k[4]), *weight = ops_normal(r, n, 1);
    for (int64_t i = 2; i < n; i += 3) weight[i] = i % 2 ? 0.0f : -0.0f;
    dptr d_z = ops_put_f32(r, z, n * ld), top = ops_blank(r, n), best = ops_blank(r, n), sum = ops_blank(r, n);
    dptr target = ops_blank(r, n), d_labels = ops_put(r, labels, (size_t)n * 4);
    struct sum_exp_args s = {d_z, top, d_labels, sum, target, n, v, ld, col0, (int)k[2], {0}, 0.7f, 0, {0}};
    if (k[5]) s.target.a = 0;
    for (int j = 0; j <= s.segments; j++) s.seg[j] = v * j * j / s.segments / s.segments; /* uneven, some empty */
    ops_must(dev_row_max(r->d, &(struct row_max_args){d_z, top, best, n, v, ld, col0, 0.7f}));
    ops_must(dev_sum_exp(r->d, &s));
    dptr once_top = ops_blank(r, n), once_best = ops_blank(r, n), once_sum = ops_blank(r, n); /* all in one */
    s.rowmax = once_top, s.best = once_best, s.sumexp = once_sum, s.with_max = 1;
    ops_must(dev_sum_exp(r->d, &s));
    struct ce_grad_args c = {d_z, top, sum, d_labels, ops_put_f32(r, weight, n), n, v, ld, col0};
    ops_must(dev_ce_grad(r->d, &c));
    take(r, top, n);
    take(r, best, n);
    take(r, sum, n);
    take(r, target, n);
    take(r, once_top, n);
    take(r, once_best, n);
    take(r, once_sum, n);
    take(r, d_z, n * ld);
}
/* rows, columns, segments, extra columns of the teacher, kind of the teacher's logits, 1 without the gradient */
static void divergence(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0], v = k[1], ldt = v + k[3];
    dptr zs = normal(r, n * v, 0), zt = ops_put_f32(r, logits(r, n, ldt, v, k[4]), n * ldt), kl = ops_blank(r, n);
    float *one = ops_host(r, (size_t)n, 4);
    for (int64_t i = 0; i < n; i++) one[i] = (float)(v ? v : 1) * 1.5f;
    dptr sum = ops_put_f32(r, one, n), smax = normal(r, n, 0), tmax = normal(r, n, 0);
    struct kl_grad_args a = {zs, zt, smax, sum, tmax, normal(r, n, 0), {0}, kl, n, v, v, ldt, (int)k[2], {0}, 0.5f};
    if (k[4] != 2) a.tsum = sum; /* else logarithms of negative sums: NaN */
    if (!k[5]) a.weight = normal(r, n, 0);
    for (int j = 0; j <= a.segments; j++) a.seg[j] = v * j * j / a.segments / a.segments;
    ops_must(dev_kl_grad(r->d, &a));
    take(r, kl, n);
    take(r, zs, n * v);
}

/* n, skew, what the elements are multiplied with */
static void elements(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0];
    float *g = ops_normal(r, n, (float)k[2]);
    g[n / 2] = odd[n % 5];
    dptr a[5] = {put(r, g, n, k[1])};
    for (int i = 1; i < 5; i++) a[i] = normal(r, n, k[1]);
    ops_must(dev_swiglu_fwd(r->d, &(struct swiglu_fwd_args){.g = a[0], .u = a[1], .y = a[2], .n = n}));
    take(r, a[2], n);
    ops_must(dev_swiglu_bwd(r->d, &(struct swiglu_bwd_args){a[0], a[1], a[2], a[0], a[3], n}));
    ops_must(dev_add(r->d, &(struct add_args){a[3], a[4], n}));
    struct adamw_args w = {a[0], a[1], a[4], a[2], n, 0.1f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.1f, 0.05f, 0.3f, 0};
    ops_must(dev_adamw(r->d, &w));
    w.rounding_seed = 12345;
    w.m = a[3];
    ops_must(dev_adamw(r->d, &w));
    ops_must(dev_scale(r->d, &(struct scale_args){a[3], n, 0.3f}));
    ops_must(dev_fill(r->d, &(struct fill_args){a[2], n, -0.0f}));
    for (int i = 0; i < 5; i++) take(r, a[i], n);
}
/* n, skew, what the elements are multiplied with, kind */
static void activation(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0];
    float *x = ops_normal(r, n, (float)k[2]);
    x[n / 2] = odd[n % 5];
    dptr a = put(r, x, n, k[1]), y = blank(r, n, k[1]), dy = normal(r, n, k[1]);
    ops_must(dev_act_fwd(r->d, &(struct act_fwd_args){.x = a, .y = y, .n = n, .kind = (int)k[3]}));
    ops_must(dev_act_bwd(r->d, &(struct act_bwd_args){a, dy, dy, n, (int)k[3]}));
    take(r, y, n);
    take(r, dy, n);
}
/* rows, columns, extra columns of x and of y, skew */
static void rows(struct ops_run *r, const int64_t *k) {
    int64_t n = k[0], c = k[1], ldx = c + k[2], ldy = c + k[3];
    dptr y = normal(r, n * ldy, k[4]), x = normal(r, n * c, k[4]);
    ops_must(dev_copy_rows(r->d, &(struct copy_rows_args){normal(r, n * ldx, k[4]), y, n, c, ldx, ldy}));
    ops_must(dev_bias_add(r->d, &(struct bias_add_args){x, normal(r, c, k[4]), n, c}));
    take(r, y, n * ldy);
    take(r, x, n * c);
}

/* Numbers known without the host: what wins a tie, what NaN does, which sum a column without tokens keeps. */
static void rules(void) {
    struct ops_run r = {.d = cuda};
    float z[24], top, y[2];
    int32_t best;
    for (int i = 0; i < 24; i++) z[i] = i % 16 == 5 ? 2 : i == 3 ? NAN : -1; /* 2 at 5 and 21: one lane */
    z[20] = 2;                                                               /* and in another */
    dptr d_top = ops_blank(&r, 1), d_best = ops_blank(&r, 1);
    must(dev_row_max(cuda, &(struct row_max_args){ops_put_f32(&r, z, 24), d_top, d_best, 1, 24, 24, 1000, 0.5f}));
    must(dev_download(cuda, &top, d_top, 4));
    must(dev_download(cuda, &best, d_best, 4));
    ok(top == 1 && best == 1005, "the lowest of equal maxima, NaN passed over (%g at %d)", (double)top, best);

    float x[3] = {1, -NAN, 2}, was = 3;
    dptr d_was = ops_put_f32(&r, &was, 1), d_x = ops_put_f32(&r, x, 3);
    must(dev_amax(cuda, &(struct amax_args){d_x, d_was, 1, 1, 1}));
    must(dev_download(cuda, &was, d_was, 4));
    is_near((double)was, 3, 0, "amax stays above what is smaller");
    must(dev_amax(cuda, &(struct amax_args){d_x, d_was, 3, 1, 1}));
    must(dev_download(cuda, &was, d_was, 4));
    ok(isnan(was) && !signbit(was), "amax: a NaN is above everything");

    int32_t ids[3] = {1, 1, -2};
    float dy[3] = {1e8f, -1e8f, 5}, table[2] = {-0.0f, 1};
    dptr d_table = ops_put_f32(&r, table, 2);
    struct embed_bwd_args e = {ops_put(&r, ids, 12), ops_put_f32(&r, dy, 3), d_table, 3, 1, 0, 2};
    must(dev_embed_bwd(cuda, &e));
    must(dev_download(cuda, y, d_table, 8));
    ok(y[0] == 0 && signbit(y[0]), "a row without tokens keeps its bits");
    ok(y[1] == 0, "tokens in rising order: (1 + 1e8) - 1e8 in fp32 is 0 (got %g)", (double)y[1]);
    ops_end(&r);
}

int main(void) {
    must(dev_open(&(struct dev_options){.backend = DEV_HOST, .threads = 1, .invariant = true}, &host));
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true}, &cuda));
    BOTH("embedding", embedding, {1, 1, 1, 9, 0}, {511, 3, 40, 60, 0}, {513, 4, 300, 400, 0}, {1030, 8, 9, 30, 1},
         {1030, 8, 9, 30, 0}, {37, 132, 20, 30, 0}, {520, 4, 5, 0, 0}, {17, 5, 0, 9, 0}, {6, 516, 4, 9, 1});
    BOTH("norm", norm, {1, 1, 1, 1, 0, 0}, {17, 1, 1, 48, 0, 1}, {17, 1, 1, 48, 1, 5}, {9, 6, 4, 20, 0, 0},
         {5, 3, 2, 31, 0, 7}, {130, 1, 1, 32, 0, 3}, {3, 1, 1, 512, 0, 1}, {3, 1, 1, 1040, 0, 4}, {2, 1, 1, 4193, 0, 1},
         {2, 1, 1, 4224, 0, 1}, {1, 1, 1, 8417, 0, 1}, {1, 1, 1, 8452, 0, 5}, {71, 8, 1, 16, 0, 2});
    BOTH("layer norm", layernorm, {1, 1, 0, 0}, {17, 48, 0, 1}, {17, 48, 1, 5}, {5, 31, 0, 7}, {130, 32, 0, 3},
         {3, 512, 0, 1}, {3, 1040, 0, 4}, {9, 4193, 0, 1}, {1, 8452, 0, 5}, {71, 16, 0, 2}, {0, 8, 0, 0});
    BOTH("rope", rotary, {1, 1, 2, 2, 0, 0}, {7, 3, 8, 8, 0, 0}, {7, 3, 8, 8, 4, 1}, {5, 2, 24, 16, 4, 0},
         {2, 5, 12, 6, 3, 0}, {33, 4, 64, 32, 0, 0}, {3, 40, 16, 0, 0, 0});
    BOTH("column sums", columns, {1, 1, 0}, {7, 33, 2}, {512, 31, 0}, {520, 32, 1}, {1033, 5, 0}, {2, 100, 0});
    BOTH("tree", fold, {1, 5, 0}, {2, 1, 0}, {3, 64, 0}, {7, 64, 1}, {8, 1028, 0}, {9, 6, 0}, {64, 8, 0}, {65, 8, 0},
         {100, 3, 0});
    BOTH("squares", squares, {1, 1, 0}, {31, 255, 0}, {33, 257, 1}, {65, 17, 0}, {0, 4, 0}, {2, 0, 1}, {3, 1024, 0});
    BOTH("amax", largest, {1, 1, 0, 0, 0, 0}, {1, 5003, 0, 1, 4, 3}, {33, 64, 0, 0, 1, 4}, {33, 61, 3, 0, 2, 0},
         {2100, 4, 4, 0, 4, 2}, {0, 4, 0, 0, 0, 4}, {1, 8192, 0, 0, 3, 3});
    BOTH("amax of blocks", blocks, {1, 16, 0, 0, 5, 64}, {1, 16, 2, 8, 5, 70}, {1, 1000, 0, 0, 3, 1000},
         {128, 128, 64, 64, 130, 200}, {17, 32, 3, 16, 40, 96}, {33, 5, 40, 7, 70, 31}, {16, 1, 0, 0, 33, 9},
         {1, 32, 0, 0, 9, 300}, {7, 3, 5, 2, 1, 1});
    BOTH("softmax", softmax, {1, 1, 1, 0, 0, 0}, {3, 0, 2, 3, 0, 0}, {2, 5003, 8, 0, 0, 0}, {9, 37, 3, 2, 1, 0},
         {20, 41, 8, 0, 2, 1}, {4, 100, 5, 0, 3, 0}, {5, 511, 1, 1, 4, 0}, {5, 513, 2, 0, 5, 0}, {1, 9001, 1, 0, 1, 0},
         {17, 16, 7, 0, 0, 0}, {3, 2049, 4, 0, 2, 0});
    BOTH("divergence", divergence, {1, 1, 1, 0, 0, 0}, {3, 0, 2, 3, 0, 0}, {2, 5003, 8, 1, 0, 0}, {9, 37, 3, 2, 1, 1},
         {20, 41, 8, 0, 2, 0}, {4, 100, 5, 0, 3, 0}, {5, 255, 1, 1, 4, 0}, {5, 257, 2, 0, 5, 0});
    BOTH("elements", elements, {1, 0, 1}, {3, 1, 1}, {4, 0, 100}, {5, 0, 1}, {1023, 1, 40}, {1026, 0, 1}, {4097, 0, 3});
    BOTH("activation", activation, {1, 0, 1, 0}, {4, 0, 9, 0}, {1023, 1, 2, 0}, {5, 1, 1, 1}, {1027, 0, 3, 1},
         {4, 0, 40, 1}, {2, 1, 1, 2}, {1026, 0, 3, 2}, {4099, 1, 40, 2});
    BOTH("rows", rows, {1, 1, 0, 0, 0}, {7, 64, 4, 8, 0}, {7, 64, 4, 8, 1}, {9, 65, 0, 1, 0}, {300, 4, 0, 0, 0},
         {2, 1500, 4, 4, 0});
    rules();
    ops_work(cuda);
    dev_close(&cuda);
    dev_close(&host);
    return tap_done();
}
