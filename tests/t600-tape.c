/* TEST ranks=1 backends=host,guard tier=1 */
/* tape/: the plan's lives and memory, slots, recomputation bit for bit, and refusals of wrong recordings. */
#include "base/rng.h"
#include "tap_mpi.h"
#include "tape/tape.h"

enum { N = 12, C = 32, F = 48, V = 20 };

static struct dev *dev;
static struct par_grid grid = {.tp = 1, .cp = 1, .dp = 1, .pp = 1, .invariant = true};
static struct tape_weight gain, up, gate, down, head;
static dptr grads;
static size_t grad_bytes;
static bool written[4];

static void weight(struct tape_weight *w, int64_t rows, int64_t cols, int parts, size_t *at) {
    float host[F * C * 2];
    *w = (struct tape_weight){.rows = rows, .cols = cols};
    for (int64_t i = 0; i < rows * cols; i++) host[i] = 0.2f * rng_normal(1, *at, (uint64_t)i);
    must(dev_alloc(dev, "weights", (size_t)(rows * cols) * 4, &w->value));
    must(dev_upload(dev, w->value, host, (size_t)(rows * cols) * 4));
    w->grad = dptr_add(grads, (int64_t)*at);
    *at += (size_t)(rows * cols * parts) * 4;
}

struct program {
    struct tape *t;
    tape_val x, labels, ce;
    struct tape_head_out out;
    dptr kept, scratch;
};

/* norm -> gate, up -> swiglu -> down, twice, with a residual; then a loss head. */
static void record(struct program *p, int slots, bool recompute) {
    struct tensor_axis ffn = {F / 16, 16, 8}, vocab = {V, 1, 8};
    tape_val h, y, gu[2], a, d = TAPE_NONE;
    must(tape_create(&(struct tape_options){.name = "test",
                                            .dev = dev,
                                            .grid = &grid,
                                            .tokens = N,
                                            .slots = slots,
                                            .training = true,
                                            .invariant = true},
                     &p->t));
    must(tape_input(p->t, "x", N, C, true, &p->x));
    must(tape_input(p->t, "labels", N, 1, false, &p->labels));
    must(tape_input(p->t, "ce", N, 1, false, &p->ce));
    h = p->x;
    for (int i = 0; i < 2; i++) {
        must(tape_segment_begin(p->t, recompute));
        must(tape_norm(p->t, h, d, &gain, 1e-5f, &h, &y));
        must(tape_linear(p->t, y, 2, (const struct tape_weight *const[]){&gate, &up}, NULL,
                         (const struct tensor_axis[]){ffn, ffn}, gu));
        must(tape_swiglu(p->t, gu[0], gu[1], &a));
        must(tape_linear_row(p->t, a, &down, NULL, &ffn, &d));
        must(tape_segment_end(p->t));
    }
    must(tape_norm(p->t, h, d, &gain, 1e-5f, NULL, &y));
    must(tape_head(p->t, y,
                   &(struct tape_head){.w = &head,
                                       .axis = vocab,
                                       .teacher = TAPE_NONE,
                                       .labels = p->labels,
                                       .ce_weight = p->ce,
                                       .kl_weight = TAPE_NONE,
                                       .inv_temperature = 1,
                                       .chunk = 5},
                   &p->out));
    must(tape_finish(p->t));
    must(dev_alloc(dev, "activations", tape_kept_bytes(p->t) * (size_t)slots, &p->kept));
    must(dev_alloc(dev, "scratch", tape_scratch_bytes(p->t), &p->scratch));
    tape_bind(p->t, p->kept, p->scratch);
}

static void forward(struct program *p, int slot, uint64_t seed) {
    float x[N * C], ce[N];
    int32_t labels[N];
    for (int i = 0; i < N * C; i++) x[i] = rng_normal(seed, 7, (uint64_t)i);
    for (int i = 0; i < N; i++) {
        labels[i] = (int32_t)rng_below(seed, 8, (uint64_t)i, V);
        ce[i] = 1.0f / N;
    }
    must(dev_upload(dev, tape_address(p->t, slot, p->x), x, sizeof x));
    must(dev_upload(dev, tape_address(p->t, slot, p->labels), labels, sizeof labels));
    must(dev_upload(dev, tape_address(p->t, slot, p->ce), ce, sizeof ce));
    must(tape_run(p->t, slot, TAPE_FORWARD));
}

/* Zeros; or NaN where the first product of a gradient writes. */
static void clear(void) {
    must(dev_fill(dev, &(struct fill_args){.y = grads, .n = (int64_t)grad_bytes / 4, .value = gate.written ? NAN : 0}));
    must(dev_fill(dev, &(struct fill_args){.y = gain.grad, .n = 8 * C, .value = 0}));
    memset(written, 0, sizeof written);
}

/* Gradients after micro-batches 1 and 2: weights, and dx of the second. */
static void both(struct program *p, int slots, float *out, float dx[N * C]) {
    clear();
    if (slots == 1) {
        forward(p, 0, 1);
        must(tape_run(p->t, 0, TAPE_BACKWARD));
        forward(p, 0, 2);
        must(tape_run(p->t, 0, TAPE_BACKWARD));
    } else { /* both in flight */
        forward(p, 0, 1);
        forward(p, 1, 2);
        must(tape_run(p->t, 0, TAPE_BACKWARD));
        must(tape_run(p->t, 1, TAPE_BACKWARD));
    }
    must(dev_download(dev, out, grads, grad_bytes));
    must(dev_download(dev, dx, tape_grad_address(p->t, slots - 1, p->x), N * C * 4));
}

static void release(struct program *p) {
    tape_destroy(&p->t);
    dev_free(dev, &p->kept);
    dev_free(dev, &p->scratch);
}

static void gradients(void) {
    float *a, *b, dx[N * C], dy[N * C];
    struct program plain, two, again;
    must(mem_alloc(&a, grad_bytes, 1));
    must(mem_alloc(&b, grad_bytes, 1));
    record(&plain, 1, false);
    record(&two, 2, false);
    record(&again, 1, true);
    both(&plain, 1, a, dx);
    both(&two, 2, b, dy);
    ok(!memcmp(a, b, grad_bytes) && !memcmp(dx, dy, sizeof dx),
       "two micro-batches in flight give the bits of one after the other");
    both(&again, 1, b, dy);
    ok(!memcmp(a, b, grad_bytes) && !memcmp(dx, dy, sizeof dx), "recomputation gives the same bits");
    gate.written = &written[0], up.written = &written[1], down.written = &written[2], head.written = &written[3];
    both(&two, 2, b, dy);
    ok(!memcmp(a, b, grad_bytes) && !memcmp(dx, dy, sizeof dx),
       "what the first product writes has the bits of zeros and that");
    gate.written = up.written = down.written = head.written = NULL;
    ok(tape_kept_bytes(again.t) < tape_kept_bytes(plain.t), "and keeps less: %zu below %zu bytes",
       tape_kept_bytes(again.t), tape_kept_bytes(plain.t));
    float most = 0;
    for (size_t i = 0; i < grad_bytes / 4; i++) most = fmaxf(most, fabsf(a[i]));
    ok(most > 1e-3f && isfinite(most), "gradients are there (largest %g)", (double)most);

    /* d loss / d x[i] against a central difference of the loss, in fp64 over the head's results */
    double loss[2], step = 1e-2, worst = 0;
    for (int i = 0; i < N * C; i += 37) {
        for (int side = 0; side < 2; side++) {
            float x[N * C], max[N], sum[N], target[N];
            for (int k = 0; k < N * C; k++) x[k] = rng_normal(2, 7, (uint64_t)k);
            x[i] += (float)(side ? -step : step);
            must(dev_upload(dev, tape_address(plain.t, 0, plain.x), x, sizeof x));
            must(tape_run(plain.t, 0, TAPE_FORWARD));
            must(dev_download(dev, max, tape_address(plain.t, 0, plain.out.max), sizeof max));
            must(dev_download(dev, sum, tape_address(plain.t, 0, plain.out.sum), sizeof sum));
            must(dev_download(dev, target, tape_address(plain.t, 0, plain.out.target), sizeof target));
            loss[side] = 0;
            for (int k = 0; k < N; k++) loss[side] += ((double)max[k] + log((double)sum[k]) - (double)target[k]) / N;
        }
        worst = fmax(worst, fabs((loss[0] - loss[1]) / (2 * step) - (double)dx[i]));
    }
    ok(worst < 2e-5, "dx agrees with central differences within %.2g", worst);
    release(&plain);
    release(&two);
    release(&again);
    mem_free(&a);
    mem_free(&b);
}

static void refusals(void) {
    struct tape *t;
    tape_val x, y, h;
    must(tape_create(
        &(struct tape_options){
            .name = "wrong", .dev = dev, .grid = &grid, .tokens = N, .slots = 1, .training = true, .invariant = true},
        &t));
    must(tape_input(t, "x", N, C, true, &x));
    must(tape_norm(t, x, TAPE_NONE, &gain, 1e-5f, &h, &y));
    is_status(tape_norm(t, x, TAPE_NONE, &gain, 1e-5f, &h, &y), TM_ERR_INTERNAL);
    ok(strstr(status_message(), "gradient of x is taken by norm and by norm") != NULL,
       "a second reader of a gradient is named");
    must(tape_segment_begin(t, false));
    is_status(tape_segment_begin(t, false), TM_ERR_INTERNAL);
    is_status(tape_run(t, 0, TAPE_FORWARD), TM_ERR_INTERNAL);
    tape_destroy(&t);
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(tap_device(&dev));
    grad_bytes = (size_t)(C * 8 + 3 * F * C + V * C) * 4;
    must(dev_alloc(dev, "gradients", grad_bytes, &grads));
    size_t at = 0;
    weight(&gain, 1, C, 8, &at);
    weight(&gate, F, C, 1, &at);
    weight(&up, F, C, 1, &at);
    weight(&down, C, F, 1, &at);
    weight(&head, V, C, 1, &at);
    is_int(at, grad_bytes, "the gradient block is full");
    gradients();
    refusals();
    struct tape_weight *all[] = {&gain, &gate, &up, &down, &head};
    for (int i = 0; i < 5; i++) dev_free(dev, &all[i]->value);
    dev_free(dev, &grads);
    dev_close(&dev);
    return tap_mpi_done();
}
