/* TEST ranks=1 backends=cuda tier=1 limit=120 */
/* CUDA graphs: a tape's passes leave the same bits as without, are recorded the second time and queued as one from then on, also after the kernels' work
 * space has moved; counters count them; what a recording does not allow is an error and leaves the device as it was. */
#include "base/mem.h"
#include "base/rng.h"
#include "dev/dev.h"
#include "tap.h"
#include "tape/tape.h"

enum { N = 20, C = 32, F = 48, V = 20, RUNS = 5 };

struct program {
    struct dev *dev;
    struct tape *t;
    struct tape_weight gain, up, gate, down, head;
    dptr weights, grads, kept, scratch;
    size_t bytes;
    tape_val x, labels, ce;
    struct tape_head_out out;
};

static const struct par_grid grid = {.tp = 1, .cp = 1, .dp = 1, .pp = 1, .invariant = true};
static const struct tensor_axis ffn = {F / 16, 16, 8}, vocab = {V, 1, 8};

static void weight(struct program *p, struct tape_weight *w, int64_t rows, int64_t cols, int64_t *at) {
    *w = (struct tape_weight){.value = dptr_f32(p->weights, *at),
                              .grad = dptr_f32(p->grads, *at * 8),
                              .rows = rows,
                              .cols = cols};
    *at += rows * cols;
}

static void record(struct program *p) {
    tape_val h, y, gu[2], a, d;
    must(tape_create(
        &(struct tape_options){
            .name = "test", .dev = p->dev, .grid = &grid, .tokens = N, .slots = 1, .training = true, .invariant = true},
        &p->t));
    must(tape_input(p->t, "x", N, C, true, &p->x));
    must(tape_input(p->t, "labels", N, 1, false, &p->labels));
    must(tape_input(p->t, "ce", N, 1, false, &p->ce));
    must(tape_norm(p->t, p->x, TAPE_NONE, &p->gain, 1e-5f, &h, &y));
    must(tape_linear(p->t, y, 2, (const struct tape_weight *const[]){&p->gate, &p->up}, NULL,
                     (const struct tensor_axis[]){ffn, ffn}, gu));
    must(tape_swiglu(p->t, gu[0], gu[1], &a));
    must(tape_linear_row(p->t, a, &p->down, NULL, &ffn, &d));
    must(tape_norm(p->t, h, d, &p->gain, 1e-5f, NULL, &y));
    must(tape_head(p->t, y,
                   &(struct tape_head){.w = &p->head,
                                       .axis = vocab,
                                       .teacher = TAPE_NONE,
                                       .labels = p->labels,
                                       .ce_weight = p->ce,
                                       .kl_weight = TAPE_NONE,
                                       .inv_temperature = 1,
                                       .chunk = 5},
                   &p->out));
    must(tape_finish(p->t));
}

static void open_program(struct program *p, bool graphs) {
    enum { WEIGHTS = C + 3 * F * C + V * C };
    float x[WEIGHTS];
    int64_t at = 0;
    *p = (struct program){.bytes = WEIGHTS * 4 * 8};
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true, .graphs = graphs}, &p->dev));
    for (int i = 0; i < WEIGHTS; i++) x[i] = 0.2f * rng_normal(1, 1, (uint64_t)i);
    must(dev_alloc(p->dev, "weights", sizeof x, &p->weights));
    must(dev_alloc(p->dev, "gradients", p->bytes, &p->grads));
    must(dev_upload(p->dev, p->weights, x, sizeof x));
    weight(p, &p->gain, 1, C, &at);
    weight(p, &p->up, F, C, &at);
    weight(p, &p->gate, F, C, &at);
    weight(p, &p->down, C, F, &at);
    weight(p, &p->head, V, C, &at);
    record(p);
    must(dev_alloc(p->dev, "activations", tape_kept_bytes(p->t), &p->kept));
    must(dev_alloc(p->dev, "scratch", tape_scratch_bytes(p->t), &p->scratch));
    tape_bind(p->t, p->kept, p->scratch);
}

/* A step on the data of `seed`: gradients go on adding up. */
static void step(struct program *p, uint64_t seed) {
    float x[N * C], ce[N];
    int32_t labels[N];
    for (int i = 0; i < N * C; i++) x[i] = rng_normal(seed, 7, (uint64_t)i);
    for (int i = 0; i < N; i++) labels[i] = (int32_t)rng_below(seed, 8, (uint64_t)i, V), ce[i] = 1.0f / N;
    must(dev_upload(p->dev, tape_address(p->t, 0, p->x), x, sizeof x));
    must(dev_upload(p->dev, tape_address(p->t, 0, p->labels), labels, sizeof labels));
    must(dev_upload(p->dev, tape_address(p->t, 0, p->ce), ce, sizeof ce));
    must(tape_run(p->t, 0, TAPE_FORWARD));
    must(tape_run(p->t, 0, TAPE_BACKWARD));
}

/* A product that needs more work space than the tape: what was recorded holds the address of the old. */
static void move_work_space(struct dev *d) {
    enum { M = 260, K = 300 };
    dptr x;
    must(dev_alloc(d, "test", (size_t)3 * M * K * 4, &x));
    struct gemm_args a = {
        .layout = GEMM_NT, .m = M, .n = M, .terms = 1, .segments = 8, .c = dptr_f32(x, 2 * M * K), .ldc = M, .bf16 = 1};
    a.term[0] = (struct gemm_term){.a = x, .b = dptr_f32(x, M * K), .lda = K, .ldb = K};
    for (int j = 0; j <= 8; j++) a.term[0].k[j] = K * j / 8;
    must(dev_gemm(d, &a));
    dev_free(d, &x);
}

static void close_program(struct program *p) {
    tape_destroy(&p->t);
    dev_close(&p->dev);
}

static void refusals(void) {
    struct dev *d;
    struct dev_graph *g = NULL;
    dptr x, y;
    bool done;
    float one = 1;
    must(dev_open(&(struct dev_options){.backend = DEV_CUDA, .invariant = true, .graphs = true}, &d));
    must(dev_alloc(d, "test", 4, &x));
    for (int i = 0; i < 2; i++) {
        must(dev_graph_begin(d, &g, &done));
        ok(!done, "time %d: not recorded yet", i + 1);
        if (i == 0) must(dev_graph_end(d, g, TM_OK));
    }
    is_status(dev_alloc(d, "test", 4, &y), TM_ERR_DEVICE);
    is_status(dev_graph_end(d, g, TM_ERR_DEVICE), TM_ERR_DEVICE);
    must(dev_upload(d, x, &one, 4));
    must(dev_graph_begin(d, &g, &done));
    must(dev_scale(d, &(struct scale_args){.y = x, .n = 1, .s = 3}));
    must(dev_graph_end(d, g, TM_OK));
    must(dev_graph_begin(d, &g, &done));
    must(dev_download(d, &one, x, 4));
    ok(done && one == 9, "after a recording that failed another one works (%g)", (double)one);
    dev_graph_free(&g);
    dev_close(&d);
}

int main(void) {
    struct program plain, graphs;
    open_program(&plain, false);
    open_program(&graphs, true);
    float *a, *b;
    must(mem_alloc(&a, plain.bytes, 1));
    must(mem_alloc(&b, plain.bytes, 1));
    for (int i = 0; i < RUNS; i++) {
        if (i == 3) move_work_space(graphs.dev);
        step(&plain, (uint64_t)i);
        step(&graphs, (uint64_t)i);
        must(dev_download(plain.dev, a, plain.grads, plain.bytes));
        must(dev_download(graphs.dev, b, graphs.grads, graphs.bytes));
        ok(!memcmp(a, b, plain.bytes), "step %d: the same bits", i + 1);
        ok(dev_graph_runs(graphs.dev) == 2 * i, "  %lld graphs were run", (long long)dev_graph_runs(graphs.dev));
    }
    int64_t wrong = 0;
    for (int i = 0; i < dev_op_count(); i++)
        wrong += strcmp(dev_op_name(i), "gemm") && dev_counter(plain.dev, i).calls != dev_counter(graphs.dev, i).calls;
    ok(wrong == 0 && dev_graph_runs(plain.dev) == 0, "counters count what graphs do");
    mem_free(&a);
    mem_free(&b);
    close_program(&plain);
    close_program(&graphs);
    refusals();
    return tap_done();
}
