/* Column- and row-parallel linear layers, and the embedding: products whose sums over cut dimensions are segmented. */
#include <string.h>

#include "base/size.h"
#include "tape/impl.h"

int tape_cut(const struct par_grid *g, bool invariant, const struct tensor_axis *a, int64_t *k) {
    const int n = invariant ? a->segments / g->tp : 1, first = a->segments * g->tp_rank / g->tp;
    int64_t lo, hi;
    tensor_axis_range(a, g->tp_rank, g->tp, &lo, &hi);
    for (int j = 0; j <= n; j++) k[j] = (n == 1 ? (j ? hi : lo) : tensor_axis_lo(a, first + j)) - lo;
    return n;
}

/* y = x w' by the segments of op->cut: x and w packed, where they are. */
static enum status forward_product(struct tape *t, const struct tape_op *op, const struct tape_weight *w, dptr bias,
                                   dptr y) {
    struct gemm_args g = {.layout = GEMM_NT,
                          .m = t->o.tokens,
                          .n = w->rows,
                          .terms = 1,
                          .segments = op->cut.segments,
                          .c = y,
                          .bias = bias,
                          .ldc = w->rows,
                          .bf16 = w->bf16,
                          .packed_a = tape_packed_at(t, op, op->in[0]).at,
                          .packed_b = w->packed};
    g.term[0] = (struct gemm_term){.a = tape_at(t, op, op->in[0]), .b = w->value, .lda = w->cols, .ldb = w->cols};
    memcpy(g.term[0].k, op->cut.k, sizeof g.term[0].k);
    return dev_gemm(t->o.dev, &g);
}

/* x <- tree over the tensor group; ranks whose part of the axis is empty contribute nothing. */
static enum status tree_over_tp(struct tape *t, const struct tensor_axis *a, dptr x, int64_t n) {
    const struct par_grid *g = t->o.grid;
    if (g->tp == 1 || !g->tp_group) return TM_OK;
    return par_tree_sum(g->tp_group, t->o.dev, x, n, tensor_axis_present(a, g->tp));
}

static enum status weight_gradient(struct tape *t, dptr dy, dptr x, const struct tape_weight *w) {
    if (!w->grad.a) return TM_OK;
    struct gemm_args g = {.layout = GEMM_TN,
                          .m = w->rows,
                          .n = w->cols,
                          .terms = 1,
                          .segments = 1,
                          .c = w->grad,
                          .ldc = w->cols,
                          .accumulate = tape_grad_adds(w),
                          .bf16 = w->bf16};
    g.term[0] = (struct gemm_term){.a = dy, .b = x, .lda = w->rows, .ldb = w->cols, .k = {0, t->o.tokens}};
    return dev_gemm(t->o.dev, &g);
}

static enum status bias_gradient(struct tape *t, dptr dy, const struct tape_weight *b) {
    if (!b || !b->grad.a) return TM_OK;
    return dev_colsum(t->o.dev,
                      &(struct colsum_args){.x = dy, .out = b->grad, .n = t->o.tokens, .c = b->cols, .ld = b->cols});
}

/* Whether its input is a factor of bf16 products; or scratch for an operation whose weights have codes, which must be alike, and nothing of it
 * has a gradient. */
static enum status plan_input(struct tape *t, struct tape_op *op) {
    for (int i = 0; i < op->n_w; i++)
        if (!op->w[i]->fp8 != !op->w[0]->fp8 || (op->w[i]->fp8 && t->o.training))
            return TM_FAIL(TM_ERR_INTERNAL, "tape %s: a linear by codes in part, or in training", t->o.name);
    if (op->w[0]->fp8) op->scratch_forward = tape_fp8_scratch(t, op->w[0]->cols, op->w[0]->fp8);
    op->factors = op->w[0]->bf16 && !op->w[0]->fp8;
    return TM_OK;
}

/* --- column-parallel ---------------------------------------------------------------------------------------------------- */
static enum status linear_forward_fp8(struct tape *t, const struct tape_op *op) {
    const struct tape_weight *w = op->w[0];
    struct fp8_factor x;
    TM_TRY(tape_fp8_input(t, tape_at(t, op, op->in[0]), w->cols, w->fp8, &x));
    for (int i = 0; i < op->n_w; i++)
        TM_TRY(tape_fp8_product(t, &x, op->w[i], 1, (const int64_t[]){0, w->cols},
                                op->b[i] ? op->b[i]->value : (dptr){0}, tape_at(t, op, op->out[i])));
    return TM_OK;
}

static enum status linear_forward(struct tape *t, const struct tape_op *op) {
    if (op->w[0]->fp8) return linear_forward_fp8(t, op);
    for (int i = 0; i < op->n_w; i++)
        TM_TRY(forward_product(t, op, op->w[i], op->b[i] ? op->b[i]->value : (dptr){0}, tape_at(t, op, op->out[i])));
    return TM_OK;
}

static enum status linear_backward(struct tape *t, const struct tape_op *op) {
    dptr x = tape_at(t, op, op->in[0]), dx = tape_grad_at(t, op, op->in[0]);
    int64_t c = op->w[0]->cols;
    struct gemm_args g = {
        .layout = GEMM_NN, .m = t->o.tokens, .n = c, .terms = op->n_w, .c = dx, .ldc = c, .bf16 = op->w[0]->bf16};
    for (int i = 0; i < op->n_w; i++) {
        const struct tape_weight *w = op->w[i];
        dptr dy = tape_grad_at(t, op, op->out[i]);
        TM_TRY(weight_gradient(t, dy, x, w));
        TM_TRY(bias_gradient(t, dy, op->b[i]));
        g.term[i] = (struct gemm_term){.a = dy, .b = w->value, .lda = w->rows, .ldb = c};
        g.segments = tape_cut(t->o.grid, t->o.invariant, &op->axis[i], g.term[i].k);
    }
    if (!dx.a) return TM_OK;
    TM_TRY(dev_gemm(t->o.dev, &g));
    return tree_over_tp(t, &op->axis[0], dx, t->o.tokens * c);
}

static const struct tape_kind linear_kind = {
    .name = "linear", .forward = linear_forward, .backward = linear_backward, .saved_in = 1, .grad_in = 1};

enum status tape_linear(struct tape *t, tape_val x, int n, const struct tape_weight *const w[],
                        const struct tape_weight *const b[], const struct tensor_axis axis[], tape_val y[]) {
    struct tape_op op = {.kind = &linear_kind, .n_in = 1, .in = {x}, .n_out = n, .n_w = n};
    for (int i = 0; i < n; i++) {
        op.w[i] = w[i];
        op.b[i] = b ? b[i] : NULL;
        op.axis[i] = axis[i];
        TM_TRY(tape_value_new(t, "linear.y", t->o.tokens, w[i]->rows, &y[i]));
        op.out[i] = y[i];
    }
    op.cut.segments = 1;
    op.cut.k[1] = w[0]->cols;
    TM_TRY(plan_input(t, &op));
    return tape_op_add(t, &op);
}

/* --- row-parallel ------------------------------------------------------------------------------------------------------- */
static enum status row_forward(struct tape *t, const struct tape_op *op) {
    const struct tape_weight *w = op->w[0];
    dptr y = tape_at(t, op, op->out[0]);
    if (w->fp8) {
        struct fp8_factor x;
        TM_TRY(tape_fp8_input(t, tape_at(t, op, op->in[0]), w->cols, w->fp8, &x));
        TM_TRY(tape_fp8_product(t, &x, w, op->cut.segments, op->cut.k, (dptr){0}, y));
    } else {
        TM_TRY(forward_product(t, op, w, (dptr){0}, y));
    }
    TM_TRY(tree_over_tp(t, &op->axis[0], y, t->o.tokens * w->rows));
    if (!op->b[0]) return TM_OK;
    return dev_bias_add(t->o.dev,
                        &(struct bias_add_args){.x = y, .bias = op->b[0]->value, .rows = t->o.tokens, .c = w->rows});
}

static enum status row_backward(struct tape *t, const struct tape_op *op) {
    const struct tape_weight *w = op->w[0];
    dptr dy = tape_grad_at(t, op, op->out[0]), dx = tape_grad_at(t, op, op->in[0]);
    TM_TRY(weight_gradient(t, dy, tape_at(t, op, op->in[0]), w));
    TM_TRY(bias_gradient(t, dy, op->b[0]));
    if (!dx.a) return TM_OK;
    struct gemm_args g = {.layout = GEMM_NN,
                          .m = t->o.tokens,
                          .n = w->cols,
                          .terms = 1,
                          .segments = 1,
                          .c = dx,
                          .ldc = w->cols,
                          .bf16 = w->bf16};
    g.term[0] = (struct gemm_term){.a = dy, .b = w->value, .lda = w->rows, .ldb = w->cols, .k = {0, w->rows}};
    return dev_gemm(t->o.dev, &g);
}

static const struct tape_kind row_kind = {
    .name = "linear_row", .forward = row_forward, .backward = row_backward, .saved_in = 1, .grad_in = 1};

enum status tape_linear_row(struct tape *t, tape_val x, const struct tape_weight *w, const struct tape_weight *bias,
                            const struct tensor_axis *axis, tape_val *y) {
    struct tape_op op = {
        .kind = &row_kind, .n_in = 1, .in = {x}, .n_out = 1, .n_w = 1, .w = {w}, .b = {bias}, .axis = {*axis}};
    TM_TRY(tape_value_new(t, "linear_row.y", t->o.tokens, w->rows, y));
    op.out[0] = *y;
    op.cut.segments = tape_cut(t->o.grid, t->o.invariant, axis, op.cut.k);
    TM_TRY(plan_input(t, &op));
    return tape_op_add(t, &op);
}

/* --- embedding ---------------------------------------------------------------------------------------------------------- */
static enum status embed_forward(struct tape *t, const struct tape_op *op) {
    const struct tape_weight *w = op->w[0];
    const struct par_grid *g = t->o.grid;
    dptr x = tape_at(t, op, op->out[0]);
    TM_TRY(dev_embed_fwd(t->o.dev, &(struct embed_fwd_args){.ids = tape_at(t, op, op->in[0]),
                                                            .table = w->value,
                                                            .y = x,
                                                            .n = t->o.tokens,
                                                            .c = w->cols,
                                                            .row0 = op->u.embed.row0,
                                                            .rows = w->rows}));
    if (g->tp == 1 || !g->tp_group) return TM_OK;
    return par_sum_one_nonzero(g->tp_group, t->o.dev, x, t->o.tokens * w->cols);
}

static enum status embed_backward(struct tape *t, const struct tape_op *op) {
    const struct tape_weight *w = op->w[0];
    return dev_embed_bwd(t->o.dev, &(struct embed_bwd_args){.ids = tape_at(t, op, op->in[0]),
                                                            .dy = tape_grad_at(t, op, op->out[0]),
                                                            .dtable = w->grad,
                                                            .n = t->o.tokens,
                                                            .c = w->cols,
                                                            .row0 = op->u.embed.row0,
                                                            .rows = w->rows});
}

static const struct tape_kind embed_kind = {.name = "embed",
                                            .forward = embed_forward,
                                            .backward = embed_backward,
                                            .saved_in = 1};

enum status tape_embed(struct tape *t, tape_val ids, const struct tape_weight *table, int64_t row0, tape_val *x) {
    struct tape_op op = {
        .kind = &embed_kind, .n_in = 1, .in = {ids}, .n_out = 1, .n_w = 1, .w = {table}, .u.embed = {row0}};
    TM_TRY(tape_value_new(t, "embed.x", t->o.tokens, table->cols, x));
    op.out[0] = *x;
    return tape_op_add(t, &op);
}
