/* TEST ranks=1 backends=host,guard tier=1 */
/* model/: gradients before and after a step's products: sums that are added to begin with zeros, the others hold nothing until a product has
 * written them, and zeros where none did. */
#include "base/mem.h"
#include "model/model.h"
#include "tap_mpi.h"

static struct dev *dev;

/* How many of n floats at p are `value` (NaN: are NaN). */
static int64_t count(dptr p, int64_t n, float value) {
    float *x;
    int64_t found = 0;
    must(mem_alloc(&x, (size_t)n, sizeof *x));
    must(dev_download(dev, x, p, (size_t)n * 4));
    for (int64_t i = 0; i < n; i++) found += isnan(value) ? isnan(x[i]) : x[i] == value;
    mem_free(&x);
    return found;
}

int main(int argc, char **argv) {
    const struct par_grid grid = {.tp = 1, .cp = 1, .dp = 1, .pp = 1, .invariant = true};
    struct model_config c;
    struct model *m;
    if (tap_mpi_start(&argc, &argv)) return 1;
    must(tap_device(&dev));
    must(model_config_read("tests/data/tiny-llama", &c));
    must(model_create(&c, &(struct model_options){.dev = dev, .grid = &grid, .training = true, .max_positions = 16},
                      &m));
    const struct model_param *norm = model_find(m, MODEL_FINAL_NORM, -1), *embed = model_find(m, MODEL_EMBED, -1);
    struct model_param *up = model_find(m, MODEL_UP, 0), *down = model_find(m, MODEL_DOWN, 1);
    const int64_t all = (int64_t)(m->grad_bytes / 4), n_up = up->w.rows * up->w.cols,
                  n_down = down->w.rows * down->w.cols;
    must(dev_fill(dev, &(struct fill_args){.y = m->grads, .n = all, .value = NAN}));
    must(model_begin_grads(m));
    is_int(count(norm->w.grad, 8 * norm->w.cols, 0), 8 * norm->w.cols, "leaves of a norm begin with zeros");
    is_int(count(embed->w.grad, embed->w.rows * embed->w.cols, 0), embed->w.rows * embed->w.cols,
           "and so does the look-up");
    is_int(count(up->w.grad, n_up, NAN), n_up, "a matrix is not touched");
    must(dev_fill(dev, &(struct fill_args){.y = up->w.grad, .n = n_up, .value = 3}));
    *up->w.written = true;
    must(model_settle_grads(m, 0));
    is_int(count(up->w.grad, n_up, 3), n_up, "what a product wrote stays");
    is_int(count(down->w.grad, n_down, 0), n_down, "what none wrote is zero");
    is_int(count(m->grads, all, NAN), 0, "nothing is left undefined");
    must(model_begin_grads(m));
    ok(!*up->w.written && !*down->w.written, "the next step begins with nothing again");
    model_destroy(&m);
    dev_close(&dev);
    return tap_mpi_done();
}
