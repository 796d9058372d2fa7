/* The loss head: logits, cross-entropy, KL divergence and their gradients, chunk by chunk of tokens, over a vocabulary that is cut over
 * the tensor group. The gradient of the hidden states and of the head's weight is computed while the logits of a chunk are there. */
#include "base/size.h"
#include "tape/impl.h"

enum { OUT_MAX, OUT_SUM, OUT_TARGET, OUT_KL, OUT_BEST, OUT_TEACHER_BEST, OUT_DHIDDEN, OUT_COUNT };
enum { IN_HIDDEN, IN_TEACHER, IN_LABELS, IN_CE, IN_KL, IN_COUNT };

/* One chunk's view: which tokens, where its logits are, how the vocabulary is cut. */
struct chunk {
    struct tape *t;
    const struct tape_op *op;
    int64_t row0, rows, vocab, col0;
    int segments;
    int64_t seg[OPS_MAX_SEGMENTS + 1];
    dptr student, teacher, extra, teacher_max, teacher_sum; /* scratch */
};

static dptr row_of(const struct chunk *c, dptr base, int64_t cols) {
    return base.a ? dptr_f32(base, c->row0 * cols) : base;
}
static dptr in_rows(const struct chunk *c, int i) {
    tape_val v = c->op->in[i];
    return v == TAPE_NONE ? (dptr){0} : row_of(c, tape_at(c->t, c->op, v), c->t->value[v].cols);
}
static dptr out_rows(const struct chunk *c, int i) {
    tape_val v = c->op->out[i];
    return v == TAPE_NONE ? (dptr){0} : row_of(c, tape_at(c->t, c->op, v), c->t->value[v].cols);
}

static dptr packed_hidden(const struct chunk *c) { return tape_packed_at(c->t, c->op, c->op->in[IN_HIDDEN]).at; }

static struct par_group *tensor_group(const struct tape *t) { return t->o.grid->tp > 1 ? t->o.grid->tp_group : NULL; }
static enum status over_tp(const struct chunk *c, dptr x, int64_t n) {
    struct par_group *g = tensor_group(c->t);
    return g ? par_tree_sum(g, c->t->o.dev, x, n, tensor_axis_present(&c->op->u.head.axis, c->t->o.grid->tp)) : TM_OK;
}

/* packed: of all rows, or 0. */
static enum status logits(const struct chunk *c, dptr hidden, dptr packed, const struct tape_weight *w, dptr z) {
    struct gemm_args g = {.layout = GEMM_NT,
                          .m = c->rows,
                          .n = w->rows,
                          .terms = 1,
                          .segments = 1,
                          .c = z,
                          .ldc = w->rows,
                          .bf16 = w->bf16,
                          .packed_a = packed,
                          .packed_b = w->packed,
                          .packed_row = c->row0};
    g.term[0] = (struct gemm_term){.a = hidden, .b = w->value, .lda = w->cols, .ldb = w->cols, .k = {0, w->cols}};
    return dev_gemm(c->t->o.dev, &g);
}

/* Global row maxima, argmax, softmax denominators and target logits of one set of logits. */
static enum status statistics(const struct chunk *c, dptr z, float inv_temp, dptr max, dptr best, dptr sum, dptr labels,
                              dptr target) {
    struct dev *d = c->t->o.dev;
    struct par_group *g = tensor_group(c->t);
    struct sum_exp_args s = {.z = z,
                             .rowmax = max,
                             .labels = labels,
                             .sumexp = sum,
                             .target = target,
                             .n = c->rows,
                             .v = c->vocab,
                             .ld = c->vocab,
                             .col0 = c->col0,
                             .segments = c->segments,
                             .inv_temp = inv_temp,
                             .with_max = !g,
                             .best = best};
    if (g) {
        TM_TRY(dev_row_max(d, &(struct row_max_args){.z = z,
                                                     .rowmax = max,
                                                     .best = best,
                                                     .n = c->rows,
                                                     .v = c->vocab,
                                                     .ld = c->vocab,
                                                     .col0 = c->col0,
                                                     .inv_temp = inv_temp}));
        TM_TRY(par_argmax(g, d, max, best, c->rows));
    }
    for (int j = 0; j <= c->segments; j++) s.seg[j] = c->seg[j];
    TM_TRY(dev_sum_exp(d, &s));
    TM_TRY(over_tp(c, sum, c->rows));
    return target.a && g ? par_sum_one_nonzero(g, d, target, c->rows) : TM_OK;
}

static enum status kl_part(const struct chunk *c, dptr student_logits, bool gradient) {
    const struct tape_head *h = &c->op->u.head;
    struct dev *d = c->t->o.dev;
    TM_TRY(logits(c, in_rows(c, IN_TEACHER), (dptr){0}, h->teacher_w, c->teacher));
    TM_TRY(statistics(c, c->teacher, h->inv_temperature, c->teacher_max, out_rows(c, OUT_TEACHER_BEST), c->teacher_sum,
                      (dptr){0}, (dptr){0}));
    dptr max = out_rows(c, OUT_MAX), sum = out_rows(c, OUT_SUM);
    if (h->inv_temperature != 1) { /* denominators at the temperature, beside those of the NLL */
        max = dptr_f32(c->teacher_max, 2 * h->chunk);
        sum = dptr_f32(c->teacher_max, 3 * h->chunk);
        TM_TRY(
            statistics(c, student_logits, h->inv_temperature, max, out_rows(c, OUT_BEST), sum, (dptr){0}, (dptr){0}));
    }
    struct kl_grad_args k = {.zs = student_logits,
                             .zt = c->teacher,
                             .smax = max,
                             .ssum = sum,
                             .tmax = c->teacher_max,
                             .tsum = c->teacher_sum,
                             .weight = gradient ? in_rows(c, IN_KL) : (dptr){0},
                             .kl = out_rows(c, OUT_KL),
                             .n = c->rows,
                             .v = c->vocab,
                             .lds = c->vocab,
                             .ldt = c->vocab,
                             .segments = c->segments,
                             .inv_temp = h->inv_temperature};
    for (int j = 0; j <= c->segments; j++) k.seg[j] = c->seg[j];
    TM_TRY(dev_kl_grad(d, &k));
    return over_tp(c, k.kl, c->rows);
}

static enum status products(const struct chunk *c, dptr dz) {
    const struct tape_weight *w = c->op->w[0];
    struct dev *d = c->t->o.dev;
    if (w->grad.a) {
        struct gemm_args g = {.layout = GEMM_TN,
                              .m = w->rows,
                              .n = w->cols,
                              .terms = 1,
                              .segments = 1,
                              .c = w->grad,
                              .ldc = w->cols,
                              .accumulate = tape_grad_adds(w),
                              .bf16 = w->bf16};
        g.term[0] =
            (struct gemm_term){.a = dz, .b = in_rows(c, IN_HIDDEN), .lda = w->rows, .ldb = w->cols, .k = {0, c->rows}};
        TM_TRY(dev_gemm(d, &g));
    }
    dptr dh = out_rows(c, OUT_DHIDDEN);
    if (!dh.a) return TM_OK;
    struct gemm_args g = {.layout = GEMM_NN,
                          .m = c->rows,
                          .n = w->cols,
                          .terms = 1,
                          .segments = c->segments,
                          .c = dh,
                          .ldc = w->cols,
                          .bf16 = w->bf16};
    g.term[0] = (struct gemm_term){.a = dz, .b = w->value, .lda = w->rows, .ldb = w->cols};
    for (int j = 0; j <= c->segments; j++) g.term[0].k[j] = c->seg[j];
    TM_TRY(dev_gemm(d, &g));
    return over_tp(c, dh, c->rows * w->cols);
}

static enum status run_chunk(const struct chunk *c) {
    const struct tape_head *h = &c->op->u.head;
    struct dev *d = c->t->o.dev;
    bool ce = c->t->o.training && h->ce_weight != TAPE_NONE, kl = c->t->o.training && h->kl_weight != TAPE_NONE;
    dptr max = out_rows(c, OUT_MAX), sum = out_rows(c, OUT_SUM), labels = in_rows(c, IN_LABELS), kl_logits = c->student;
    TM_TRY(logits(c, in_rows(c, IN_HIDDEN), packed_hidden(c), c->op->w[0], c->student));
    TM_TRY(statistics(c, c->student, 1, max, out_rows(c, OUT_BEST), sum, labels, out_rows(c, OUT_TARGET)));
    int64_t n = c->rows * c->vocab;
    if (ce && kl) { /* two gradients in place: the second needs logits of its own */
        kl_logits = c->extra;
        TM_TRY(dev_copy(d, &(struct copy_args){.x = c->student, .y = c->extra, .bytes = (size_t)n * 4}));
    }
    if (h->teacher != TAPE_NONE) TM_TRY(kl_part(c, kl_logits, kl));
    if (ce)
        TM_TRY(dev_ce_grad(d, &(struct ce_grad_args){.z = c->student,
                                                     .rowmax = max,
                                                     .sumexp = sum,
                                                     .labels = labels,
                                                     .weight = in_rows(c, IN_CE),
                                                     .n = c->rows,
                                                     .v = c->vocab,
                                                     .ld = c->vocab,
                                                     .col0 = c->col0}));
    if (ce && kl) TM_TRY(dev_add(d, &(struct add_args){.x = c->extra, .y = c->student, .n = n}));
    return ce || kl ? products(c, c->student) : TM_OK;
}

static enum status head_forward(struct tape *t, const struct tape_op *op) {
    const struct tape_head *h = &op->u.head;
    const struct par_grid *g = t->o.grid;
    struct chunk c = {.t = t,
                      .op = op,
                      .vocab = op->w[0]->rows,
                      .segments = t->o.invariant ? h->axis.segments / g->tp : 1};
    int64_t end;
    tensor_axis_range(&h->axis, g->tp_rank, g->tp, &c.col0, &end);
    for (int j = 0; j <= c.segments; j++)
        c.seg[j] = c.segments == 1 ? j * c.vocab
                                   : tensor_axis_lo(&h->axis, h->axis.segments * g->tp_rank / g->tp + j) - c.col0;
    c.student = tape_scratch_at(t);
    c.teacher = dptr_f32(c.student, h->chunk * c.vocab);
    c.extra = dptr_f32(c.teacher, h->teacher == TAPE_NONE ? 0 : h->chunk * c.vocab);
    bool both = h->ce_weight != TAPE_NONE && h->kl_weight != TAPE_NONE;
    c.teacher_max = dptr_f32(c.extra, both ? h->chunk * c.vocab : 0);
    c.teacher_sum = dptr_f32(c.teacher_max, h->chunk);
    for (c.row0 = 0; c.row0 < t->o.tokens; c.row0 += h->chunk) {
        c.rows = size_min(h->chunk, t->o.tokens - c.row0);
        TM_TRY(run_chunk(&c));
    }
    return TM_OK;
}

static enum status head_backward(struct tape *t, const struct tape_op *op) {
    (void)t, (void)op; /* the gradient was written by the forward pass */
    return TM_OK;
}

static const struct tape_kind head_kind = {.name = "head",
                                           .forward = head_forward,
                                           .backward = head_backward,
                                           .grad_in = 1,
                                           .grad_in_output = OUT_DHIDDEN,
                                           .once = true};

enum status tape_head(struct tape *t, tape_val hidden, const struct tape_head *h, struct tape_head_out *out) {
    struct tape_op op = {.kind = &head_kind,
                         .n_in = IN_COUNT,
                         .in = {hidden, h->teacher, h->labels, h->ce_weight, h->kl_weight},
                         .n_out = OUT_COUNT,
                         .n_w = 1,
                         .w = {h->w},
                         .factors = h->w->bf16 && !t->o.training && /* its gradients read fp32 */
                                    (h->chunk % OPS_PACKED_ROWS == 0 || h->chunk >= t->o.tokens),
                         .cut = {.segments = 1, .k = {0, h->w->cols}},
                         .u.head = *h};
    static const char *const names[OUT_COUNT] = {"head.max",  "head.sum",   "head.target", "head.kl",
                                                 "head.best", "head.tbest", "head.dhidden"};
    if (t->segment >= 0) return TM_FAIL(TM_ERR_INTERNAL, "tape %s: the head cannot be recomputed", t->o.name);
    for (int i = 0; i < OUT_COUNT; i++) {
        op.out[i] = TAPE_NONE;
        if ((i == OUT_KL || i == OUT_TEACHER_BEST) && h->teacher == TAPE_NONE) continue;
        if (i == OUT_DHIDDEN && !(t->o.training && t->value[hidden].wants_grad)) continue;
        TM_TRY(tape_value_new(t, names[i], t->o.tokens, i == OUT_DHIDDEN ? h->w->cols : 1, &op.out[i]));
        t->value[op.out[i]].pinned = i != OUT_DHIDDEN;
    }
    bool teacher = h->teacher != TAPE_NONE, both = h->ce_weight != TAPE_NONE && h->kl_weight != TAPE_NONE;
    if (teacher && h->teacher_w->rows != h->w->rows)
        return TM_FAIL(TM_ERR_SHAPE, "teacher and student have other vocabularies: %lld and %lld rows here",
                       (long long)h->teacher_w->rows, (long long)h->w->rows);
    op.scratch_forward = (size_t)h->chunk * 4 * ((size_t)h->w->rows * (size_t)(1 + teacher + both) + 4);
    *out = (struct tape_head_out){op.out[OUT_MAX], op.out[OUT_SUM],  op.out[OUT_TARGET],
                                  op.out[OUT_KL],  op.out[OUT_BEST], op.out[OUT_TEACHER_BEST]};
    return tape_op_add(t, &op);
}

/* --- all logits ---------------------------------------------------------------------------------------------------------- */
static enum status logits_forward(struct tape *t, const struct tape_op *op) {
    struct chunk c = {.t = t, .op = op, .rows = t->o.tokens};
    return logits(&c, tape_at(t, op, op->in[0]), packed_hidden(&c), op->w[0], tape_at(t, op, op->out[0]));
}
static const struct tape_kind logits_kind = {.name = "logits", .forward = logits_forward, .once = true};

enum status tape_logits(struct tape *t, tape_val hidden, const struct tape_weight *w, tape_val *z) {
    struct tape_op op = {.kind = &logits_kind, .n_in = 1, .in = {hidden}, .n_out = 1, .n_w = 1, .w = {w}};
    op.factors = w->bf16;
    op.cut = (struct packed_factor){.segments = 1, .k = {0, w->cols}};
    TM_TRY(tape_value_new(t, "logits", t->o.tokens, w->rows, z));
    t->value[*z].pinned = true;
    op.out[0] = *z;
    return tape_op_add(t, &op);
}
