/* The quantizers' operations on activations: fake quantization and the observation of maxima. */
#include "base/size.h"
#include "tape/impl.h"

struct tape_blocks tape_blocks_of(const struct tape *t, int64_t cols, const struct tape_quantizer *q) {
    const struct par_grid *g = t->o.grid;
    const int64_t width = q->axis ? q->axis->units * q->axis->unit : cols,
                  block = size_max(q->block ? q->block : width, 1), own = q->block ? block : size_max(cols, 1);
    struct tape_blocks b = {.grid = {.rows = 1, .cols = own, .ld = size_ceil_div(cols, own)}};
    if (q->axis && tensor_axis_divides(q->axis, g->tp, block)) {
        int64_t lo, hi;
        tensor_axis_range(q->axis, g->tp_rank, g->tp, &lo, &hi);
        b.agreed = true;
        b.grid = (struct block_grid){.rows = 1, .cols = block, .col0 = lo, .ld = size_ceil_div(width, block)};
    }
    return b;
}

enum status tape_agree_maxima(struct tape *t, const struct tape_blocks *b, dptr x, int64_t cols, dptr maxima) {
    struct dev *d = t->o.dev;
    const int64_t n = t->o.tokens * b->grid.ld;
    TM_TRY(dev_fill(d, &(struct fill_args){.y = maxima, .n = n, .value = 0}));
    TM_TRY(
        dev_amax_blocks(d, &(struct amax_blocks_args){
                               .x = x, .out = maxima, .rows = t->o.tokens, .cols = cols, .ld = cols, .grid = b->grid}));
    return par_max_f32(t->o.grid->tp_group, d, maxima, n);
}

static enum status fake_quant_forward(struct tape *t, const struct tape_op *op) {
    const struct tape_value *v = &t->value[op->in[0]];
    struct fake_quant_args a = {.x = tape_at(t, op, op->in[0]),
                                .y = tape_at(t, op, op->out[0]),
                                .amax = op->u.quant.amax,
                                .rows = v->rows,
                                .cols = v->cols,
                                .ldx = v->cols,
                                .ldy = v->cols,
                                .kind = op->u.quant.kind,
                                .grid = op->u.quant.blocks.grid,
                                .packed = tape_packed_at(t, op, op->out[0])};
    if (op->u.quant.blocks.agreed) {
        a.maxima = tape_scratch_at(t);
        TM_TRY(tape_agree_maxima(t, &op->u.quant.blocks, a.x, v->cols, a.maxima));
    }
    return dev_fake_quant(t->o.dev, &a);
}
/* The gradient of the output is the gradient of the input, in place. */
static enum status pass_backward(struct tape *t, const struct tape_op *op) {
    (void)t, (void)op;
    return TM_OK;
}
static const struct tape_kind fake_quant_kind = {
    .name = "fake_quant", .forward = fake_quant_forward, .backward = pass_backward, .grad_in = 1, .grad_through = true};

enum status tape_fake_quant(struct tape *t, tape_val x, const struct tape_quantizer *q, tape_val *y) {
    const int64_t cols = t->value[x].cols;
    struct tape_op op = {.kind = &fake_quant_kind, .n_in = 1, .in = {x}, .n_out = 1, .packs = 1};
    op.u.quant.kind = q->kind;
    op.u.quant.amax = q->amax;
    op.u.quant.blocks = tape_blocks_of(t, cols, q);
    if (op.u.quant.blocks.agreed) op.scratch_forward = (size_t)(t->value[x].rows * op.u.quant.blocks.grid.ld) * 4;
    TM_TRY(tape_value_new(t, "fake_quant.y", t->value[x].rows, cols, y));
    op.out[0] = *y;
    return tape_op_add(t, &op);
}

static enum status observe_forward(struct tape *t, const struct tape_op *op) {
    const struct tape_value *v = &t->value[op->in[0]];
    return dev_amax(t->o.dev, &(struct amax_args){.x = tape_at(t, op, op->in[0]),
                                                  .out = op->u.quant.amax,
                                                  .rows = v->rows,
                                                  .cols = v->cols,
                                                  .ld = v->cols});
}
static const struct tape_kind observe_kind = {.name = "observe", .forward = observe_forward, .once = true};

enum status tape_observe(struct tape *t, tape_val x, dptr amax) {
    struct tape_op op = {.kind = &observe_kind, .n_in = 1, .in = {x}, .u.quant.amax = amax};
    return tape_op_add(t, &op);
}
