/* Norms, rotary embedding, attention, activation and residual. */
#include "base/size.h"
#include "tape/impl.h"

/* --- RMS norm, of rows or of heads --------------------------------------------------------------------------------------- */
static enum status norm_forward(struct tape *t, const struct tape_op *op) {
    int64_t c = op->u.norm.d, rows = t->o.tokens * op->u.norm.heads;
    dptr delta = tape_at(t, op, op->in[1]);
    struct rmsnorm_fwd_args a = {.x = tape_at(t, op, op->in[0]),
                                 .delta = delta,
                                 .gain = op->w[0]->value,
                                 .y = tape_at(t, op, op->out[1]),
                                 .rstd = tape_at(t, op, op->out[2]),
                                 .rows = rows,
                                 .c = c,
                                 .eps = op->u.norm.eps,
                                 .packed = tape_packed_at(t, op, op->out[1])};
    if (delta.a) a.h_out = tape_at(t, op, op->out[0]);
    return dev_rmsnorm_fwd(t->o.dev, &a);
}

/* y again, from h. */
static enum status norm_remake(struct tape *t, const struct tape_op *op) {
    return dev_rmsnorm_fwd(t->o.dev, &(struct rmsnorm_fwd_args){.x = tape_at(t, op, op->out[0]),
                                                                .gain = op->w[0]->value,
                                                                .y = tape_at(t, op, op->out[1]),
                                                                .rstd = tape_at(t, op, op->out[2]),
                                                                .rows = t->o.tokens * op->u.norm.heads,
                                                                .c = op->u.norm.d,
                                                                .eps = op->u.norm.eps});
}

static enum status norm_backward(struct tape *t, const struct tape_op *op) {
    const struct tape_weight *gain = op->w[0];
    int64_t d = op->u.norm.d;
    dptr dgain = gain->grad;
    if (dgain.a) dgain = dptr_f32(dgain, op->u.norm.group0 * OPS_ROW_SEGMENTS * d);
    return dev_rmsnorm_bwd(t->o.dev, &(struct rmsnorm_bwd_args){.dy = tape_grad_at(t, op, op->out[1]),
                                                                .h = tape_at(t, op, op->out[0]),
                                                                .gain = gain->value,
                                                                .rstd = tape_at(t, op, op->out[2]),
                                                                .dres = tape_grad_at(t, op, op->out[0]),
                                                                .dx = tape_grad_at(t, op, op->in[0]),
                                                                .dgain = dgain,
                                                                .tokens = t->o.tokens,
                                                                .heads = op->u.norm.heads,
                                                                .group_heads = op->u.norm.group_heads,
                                                                .c = d});
}

/* Output 0 is h: without a delta it is the input's memory. */
static const struct tape_kind norm_kind = {.name = "norm",
                                           .forward = norm_forward,
                                           .backward = norm_backward,
                                           .remake = norm_remake,
                                           .saved_out = 1 | 4,
                                           .made_again = 2,
                                           .grad_in = 1 | 2,
                                           .grad_joint = true};

static enum status add_norm(struct tape *t, struct tape_op *op, int64_t cols, tape_val *h, tape_val *y) {
    tape_val rstd, sum;
    op->kind = &norm_kind;
    op->n_in = 2;
    op->n_out = 3;
    TM_TRY(tape_value_new(t, "norm.h", t->o.tokens, cols, &sum));
    TM_TRY(tape_value_new(t, "norm.y", t->o.tokens, cols, y));
    TM_TRY(tape_value_new(t, "norm.rstd", t->o.tokens * op->u.norm.heads, 1, &rstd));
    op->out[0] = sum;
    op->out[1] = *y;
    op->out[2] = rstd;
    op->packs = op->u.norm.heads == 1 ? 2 : 0;
    if (op->in[1] == TAPE_NONE) t->value[sum].memory_of = op->in[0];
    if (h) *h = sum;
    return tape_op_add(t, op);
}

enum status tape_norm(struct tape *t, tape_val x, tape_val delta, const struct tape_weight *gain, float eps,
                      tape_val *h, tape_val *y) {
    struct tape_op op = {.in = {x, delta}, .n_w = 1, .w = {gain}, .u.norm = {eps, 1, 1, 0, gain->cols}};
    return add_norm(t, &op, gain->cols, h, y);
}

enum status tape_head_norm(struct tape *t, tape_val x, int64_t heads, int64_t group_heads, int64_t group0,
                           const struct tape_weight *gain, float eps, tape_val *y) {
    struct tape_op op = {.in = {x, TAPE_NONE},
                         .n_w = 1,
                         .w = {gain},
                         .u.norm = {eps, heads, group_heads, group0, gain->cols}};
    return add_norm(t, &op, heads * gain->cols, NULL, y);
}

/* --- layer norm ---------------------------------------------------------------------------------------------------------- */
static struct layernorm_fwd_args layernorm_args(struct tape *t, const struct tape_op *op, tape_val x) {
    return (struct layernorm_fwd_args){.x = tape_at(t, op, x),
                                       .gain = op->w[0]->value,
                                       .bias = op->w[1]->value,
                                       .y = tape_at(t, op, op->out[1]),
                                       .rstd = tape_at(t, op, op->out[2]),
                                       .mean = tape_at(t, op, op->out[3]),
                                       .rows = t->o.tokens,
                                       .c = op->w[0]->cols,
                                       .eps = op->u.layernorm.eps,
                                       .offset = op->u.layernorm.offset};
}
static enum status layernorm_forward(struct tape *t, const struct tape_op *op) {
    struct layernorm_fwd_args a = layernorm_args(t, op, op->in[0]);
    a.delta = tape_at(t, op, op->in[1]);
    a.packed = tape_packed_at(t, op, op->out[1]);
    if (a.delta.a) a.h_out = tape_at(t, op, op->out[0]);
    return dev_layernorm_fwd(t->o.dev, &a);
}
static enum status layernorm_remake(struct tape *t, const struct tape_op *op) { /* y again, from h */
    struct layernorm_fwd_args a = layernorm_args(t, op, op->out[0]);
    return dev_layernorm_fwd(t->o.dev, &a);
}

static enum status layernorm_backward(struct tape *t, const struct tape_op *op) {
    dptr dy = tape_grad_at(t, op, op->out[1]);
    int64_t n = t->o.tokens, c = op->w[0]->cols;
    if (op->w[1]->grad.a)
        TM_TRY(dev_colsum(t->o.dev, &(struct colsum_args){.x = dy, .out = op->w[1]->grad, .n = n, .c = c, .ld = c}));
    return dev_layernorm_bwd(t->o.dev, &(struct layernorm_bwd_args){.dy = dy,
                                                                    .h = tape_at(t, op, op->out[0]),
                                                                    .gain = op->w[0]->value,
                                                                    .rstd = tape_at(t, op, op->out[2]),
                                                                    .mean = tape_at(t, op, op->out[3]),
                                                                    .dres = tape_grad_at(t, op, op->out[0]),
                                                                    .dx = tape_grad_at(t, op, op->in[0]),
                                                                    .dgain = op->w[0]->grad,
                                                                    .rows = n,
                                                                    .c = c,
                                                                    .offset = op->u.layernorm.offset});
}

static const struct tape_kind layernorm_kind = {.name = "layernorm",
                                                .forward = layernorm_forward,
                                                .backward = layernorm_backward,
                                                .remake = layernorm_remake,
                                                .saved_out = 1 | 4 | 8,
                                                .made_again = 2,
                                                .grad_in = 1 | 2,
                                                .grad_joint = true};

enum status tape_layernorm(struct tape *t, tape_val x, tape_val delta, const struct tape_weight *gain,
                           const struct tape_weight *bias, float offset, float eps, tape_val *h, tape_val *y) {
    struct tape_op op = {.kind = &layernorm_kind,
                         .n_in = 2,
                         .in = {x, delta},
                         .n_out = 4,
                         .packs = 2,
                         .n_w = 2,
                         .w = {gain, bias},
                         .u.layernorm = {eps, offset}};
    TM_TRY(tape_value_new(t, "layernorm.h", t->o.tokens, gain->cols, &op.out[0]));
    TM_TRY(tape_value_new(t, "layernorm.y", t->o.tokens, gain->cols, &op.out[1]));
    TM_TRY(tape_value_new(t, "layernorm.rstd", t->o.tokens, 1, &op.out[2]));
    TM_TRY(tape_value_new(t, "layernorm.mean", t->o.tokens, 1, &op.out[3]));
    if (delta == TAPE_NONE) t->value[op.out[0]].memory_of = x;
    *y = op.out[1];
    if (h) *h = op.out[0];
    return tape_op_add(t, &op);
}

/* --- rotary embedding ---------------------------------------------------------------------------------------------------- */
static enum status rope(struct tape *t, const struct tape_op *op, dptr x, int sign) {
    return dev_rope(t->o.dev, &(struct rope_args){.x = x,
                                                  .positions = tape_at(t, op, op->in[1]),
                                                  .table = op->u.rope.table,
                                                  .n = t->o.tokens,
                                                  .heads = op->u.rope.heads,
                                                  .d = op->u.rope.d,
                                                  .rot = op->u.rope.rot,
                                                  .ld = op->u.rope.heads * op->u.rope.d,
                                                  .sign = sign});
}
static enum status rope_forward(struct tape *t, const struct tape_op *op) {
    return rope(t, op, tape_at(t, op, op->in[0]), 1);
}
static enum status rope_backward(struct tape *t, const struct tape_op *op) {
    return rope(t, op, tape_grad_at(t, op, op->out[0]), -1);
}

static const struct tape_kind rope_kind = {.name = "rope",
                                           .forward = rope_forward,
                                           .backward = rope_backward,
                                           .saved_in = 2,
                                           .grad_in = 1,
                                           .grad_through = true,
                                           .in_place = true};

enum status tape_rope(struct tape *t, tape_val x, tape_val positions, dptr table, int64_t heads, int64_t d, int64_t rot,
                      tape_val *y) {
    struct tape_op op = {
        .kind = &rope_kind, .n_in = 2, .in = {x, positions}, .n_out = 1, .u.rope = {table, heads, d, rot}};
    TM_TRY(tape_value_new(t, "rope.y", t->o.tokens, heads * d, y));
    op.out[0] = *y;
    return tape_op_add(t, &op);
}

/* --- attention ----------------------------------------------------------------------------------------------------------- */
/* The rows of this run behind those that are in the cache already. */
static enum status put(struct tape *t, const struct tape_attention *a, dptr x, dptr cache) {
    int64_t cols = a->kv_heads * a->d;
    return dev_copy_rows(t->o.dev, &(struct copy_rows_args){.x = x,
                                                            .y = dptr_f32(cache, *a->cache->at * cols),
                                                            .rows = a->b,
                                                            .cols = a->t * cols,
                                                            .ldx = a->t * cols,
                                                            .ldy = a->cache->capacity * cols});
}

static enum status attention_forward(struct tape *t, const struct tape_op *op) {
    const struct tape_attention *a = &op->u.attention;
    const struct tape_cache *cache = a->cache;
    dptr k = tape_at(t, op, op->in[1]), v = tape_at(t, op, op->in[2]);
    if (cache) {
        if (*cache->at < 0 || *cache->at + a->t > cache->capacity)
            return TM_FAIL(TM_ERR_INTERNAL, "tape %s: %lld tokens at %lld of a cache of %lld", t->o.name,
                           (long long)a->t, (long long)*cache->at, (long long)cache->capacity);
        TM_TRY(put(t, a, k, cache->k));
        TM_TRY(put(t, a, v, cache->v));
        k = cache->k;
        v = cache->v;
    }
    return dev_attn_fwd(t->o.dev, &(struct attn_fwd_args){.q = tape_at(t, op, op->in[0]),
                                                          .k = k,
                                                          .v = v,
                                                          .t0 = cache ? *cache->at : 0,
                                                          .tk = cache ? cache->capacity : 0,
                                                          .o = tape_at(t, op, op->out[0]),
                                                          .lse = tape_at(t, op, op->out[1]),
                                                          .first = tape_at(t, op, op->in[3]),
                                                          .b = a->b,
                                                          .t = a->t,
                                                          .hq = a->heads,
                                                          .hkv = a->kv_heads,
                                                          .d = a->d,
                                                          .ldq = a->heads * a->d,
                                                          .ldk = a->kv_heads * a->d,
                                                          .ldv = a->kv_heads * a->d,
                                                          .ldo = a->heads * a->d,
                                                          .window = a->window,
                                                          .scale = a->scale,
                                                          .bf16 = a->bf16,
                                                          .packed = tape_packed_at(t, op, op->out[0])});
}

static enum status attention_backward(struct tape *t, const struct tape_op *op) {
    const struct tape_attention *a = &op->u.attention;
    return dev_attn_bwd(t->o.dev, &(struct attn_bwd_args){.q = tape_at(t, op, op->in[0]),
                                                          .k = tape_at(t, op, op->in[1]),
                                                          .v = tape_at(t, op, op->in[2]),
                                                          .o = tape_at(t, op, op->out[0]),
                                                          .lse = tape_at(t, op, op->out[1]),
                                                          .first = tape_at(t, op, op->in[3]),
                                                          .dout = tape_grad_at(t, op, op->out[0]),
                                                          .dq = tape_grad_at(t, op, op->in[0]),
                                                          .dk = tape_grad_at(t, op, op->in[1]),
                                                          .dv = tape_grad_at(t, op, op->in[2]),
                                                          .delta = tape_scratch_at(t),
                                                          .b = a->b,
                                                          .t = a->t,
                                                          .hq = a->heads,
                                                          .hkv = a->kv_heads,
                                                          .d = a->d,
                                                          .ldq = a->heads * a->d,
                                                          .ldk = a->kv_heads * a->d,
                                                          .ldv = a->kv_heads * a->d,
                                                          .ldo = a->heads * a->d,
                                                          .window = a->window,
                                                          .scale = a->scale,
                                                          .bf16 = a->bf16});
}

static const struct tape_kind attention_kind = {.name = "attention",
                                                .forward = attention_forward,
                                                .backward = attention_backward,
                                                .saved_in = 15,
                                                .saved_out = 3,
                                                .grad_in = 7};

enum status tape_attention(struct tape *t, tape_val q, tape_val k, tape_val v, tape_val first,
                           const struct tape_attention *a, tape_val *o) {
    struct tape_op op = {.kind = &attention_kind,
                         .n_in = 4,
                         .in = {q, k, v, first},
                         .n_out = 2,
                         .packs = 1,
                         .u.attention = *a,
                         .varies = a->cache != NULL};
    tape_val lse;
    if (a->cache && t->o.training)
        return TM_FAIL(TM_ERR_INTERNAL, "tape %s: training with a cache of keys and values", t->o.name);
    if (a->b * a->t != t->o.tokens)
        return TM_FAIL(TM_ERR_INTERNAL, "tape %s: %lld x %lld tokens in attention", t->o.name, (long long)a->b,
                       (long long)a->t);
    TM_TRY(tape_value_new(t, "attention.o", t->o.tokens, a->heads * a->d, o));
    TM_TRY(tape_value_new(t, "attention.lse", t->o.tokens, a->heads, &lse));
    op.out[0] = *o;
    op.out[1] = lse;
    op.scratch_backward = (size_t)(t->o.tokens * a->heads) * 4;
    return tape_op_add(t, &op);
}

/* --- activation, residual ------------------------------------------------------------------------------------------------ */
static int64_t elems(const struct tape *t, tape_val v) { return t->value[v].rows * t->value[v].cols; }

static enum status swiglu_forward(struct tape *t, const struct tape_op *op) {
    return dev_swiglu_fwd(t->o.dev, &(struct swiglu_fwd_args){.g = tape_at(t, op, op->in[0]),
                                                              .u = tape_at(t, op, op->in[1]),
                                                              .y = tape_at(t, op, op->out[0]),
                                                              .n = elems(t, op->out[0]),
                                                              .packed = tape_packed_at(t, op, op->out[0])});
}
static enum status swiglu_backward(struct tape *t, const struct tape_op *op) {
    return dev_swiglu_bwd(t->o.dev, &(struct swiglu_bwd_args){.g = tape_at(t, op, op->in[0]),
                                                              .u = tape_at(t, op, op->in[1]),
                                                              .dy = tape_grad_at(t, op, op->out[0]),
                                                              .dg = tape_grad_at(t, op, op->in[0]),
                                                              .du = tape_grad_at(t, op, op->in[1]),
                                                              .n = elems(t, op->out[0])});
}
static const struct tape_kind swiglu_kind = {.name = "swiglu",
                                             .forward = swiglu_forward,
                                             .backward = swiglu_backward,
                                             .remake = swiglu_forward,
                                             .saved_in = 3,
                                             .made_again = 1,
                                             .grad_in = 3};

enum status tape_swiglu(struct tape *t, tape_val gate, tape_val up, tape_val *y) {
    struct tape_op op = {.kind = &swiglu_kind, .n_in = 2, .in = {gate, up}, .n_out = 1, .packs = 1};
    TM_TRY(tape_value_new(t, "swiglu.y", t->value[gate].rows, t->value[gate].cols, y));
    op.out[0] = *y;
    return tape_op_add(t, &op);
}

static enum status act_forward(struct tape *t, const struct tape_op *op) {
    return dev_act_fwd(t->o.dev, &(struct act_fwd_args){.x = tape_at(t, op, op->in[0]),
                                                        .y = tape_at(t, op, op->out[0]),
                                                        .n = elems(t, op->out[0]),
                                                        .kind = (int)op->u.act,
                                                        .packed = tape_packed_at(t, op, op->out[0])});
}
static enum status act_backward(struct tape *t, const struct tape_op *op) {
    return dev_act_bwd(t->o.dev, &(struct act_bwd_args){.x = tape_at(t, op, op->in[0]),
                                                        .dy = tape_grad_at(t, op, op->out[0]),
                                                        .dx = tape_grad_at(t, op, op->in[0]),
                                                        .n = elems(t, op->out[0]),
                                                        .kind = (int)op->u.act});
}
static const struct tape_kind activation_kind = {.name = "act",
                                                 .forward = act_forward,
                                                 .backward = act_backward,
                                                 .remake = act_forward,
                                                 .saved_in = 1,
                                                 .made_again = 1,
                                                 .grad_in = 1};

enum status tape_act(struct tape *t, tape_val x, enum act_kind kind, tape_val *y) {
    struct tape_op op = {.kind = &activation_kind, .n_in = 1, .in = {x}, .n_out = 1, .packs = 1, .u.act = kind};
    TM_TRY(tape_value_new(t, "act.y", t->value[x].rows, t->value[x].cols, y));
    op.out[0] = *y;
    return tape_op_add(t, &op);
}

static enum status add_forward(struct tape *t, const struct tape_op *op) {
    dptr y = tape_at(t, op, op->out[0]);
    int64_t n = elems(t, op->out[0]);
    TM_TRY(dev_copy(t->o.dev, &(struct copy_args){.x = tape_at(t, op, op->in[0]), .y = y, .bytes = (size_t)n * 4}));
    return dev_add(t->o.dev, &(struct add_args){.x = tape_at(t, op, op->in[1]), .y = y, .n = n});
}
static enum status pass_backward(struct tape *t, const struct tape_op *op) {
    (void)t, (void)op; /* the gradient of the output is the gradient of the inputs, in place */
    return TM_OK;
}
static const struct tape_kind add_kind = {
    .name = "add", .forward = add_forward, .backward = pass_backward, .grad_in = 3, .grad_through = true};

enum status tape_add(struct tape *t, tape_val x, tape_val delta, tape_val *y) {
    struct tape_op op = {.kind = &add_kind, .n_in = 2, .in = {x, delta}, .n_out = 1};
    TM_TRY(tape_value_new(t, "add.y", t->value[x].rows, t->value[x].cols, y));
    op.out[0] = *y;
    return tape_op_add(t, &op);
}
