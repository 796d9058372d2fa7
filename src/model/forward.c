/* The forward pass of one pipeline stage, recorded on a tape. Backward, recomputation and collectives come from the tape. */
#include <math.h>
#include <stdio.h>

#include "model/model.h"

struct pass {
    struct model *m;
    struct tape *t;
    const struct model_shape *shape;
    const struct model_hook *hook;
    struct model_io *io;
};

static const struct tape_weight *weight(const struct pass *p, enum model_role role, int layer) {
    const struct model_param *q = model_find(p->m, role, layer);
    return q ? &q->w : NULL;
}

/* h = x (+ delta, which may be absent), y = its norm. */
static enum status norm(const struct pass *p, enum model_role gain, enum model_role bias, int l, tape_val x,
                        tape_val delta, tape_val *h, tape_val *y) {
    const struct model_config *c = &p->m->config;
    if (!c->layernorm) return tape_norm(p->t, x, delta, weight(p, gain, l), c->norm_eps, h, y);
    return tape_layernorm(p->t, x, delta, weight(p, gain, l), weight(p, bias, l), c->norm_offset, c->norm_eps, h, y);
}

/* Let the hook see (and replace) the value at a site. */
static enum status site(const struct pass *p, int layer, enum model_site_kind kind, tape_val in, tape_val *out) {
    static const struct {
        const char *module[TAPE_MAX_LINEAR], *site;
    } names[MODEL_SITES_PER_LAYER] = {
        [MODEL_SITE_QKV_INPUT] = {{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, "input"},
        [MODEL_SITE_K] = {{"self_attn"}, "k"},
        [MODEL_SITE_V] = {{"self_attn"}, "v"},
        [MODEL_SITE_O_INPUT] = {{"self_attn.o_proj"}, "input"},
        [MODEL_SITE_GATE_UP_INPUT] = {{"mlp.gate_proj", "mlp.up_proj"}, "input"},
        [MODEL_SITE_DOWN_INPUT] = {{"mlp.down_proj"}, "input"},
    };
    *out = in;
    if (!p->hook || !p->hook->activation) return TM_OK;
    char module[TAPE_MAX_LINEAR][TENSOR_NAME_MAX];
    struct model_site s = {.site = names[kind].site};
    s.index = layer * MODEL_SITES_PER_LAYER + (int)kind;
    const int first = kind == MODEL_SITE_GATE_UP_INPUT && !p->m->config.gated; /* no gate_proj */
    for (int i = first; i < TAPE_MAX_LINEAR && names[kind].module[i]; i++, s.n_modules++) {
        snprintf(module[i], TENSOR_NAME_MAX, "model.layers.%d.%s", layer, names[kind].module[i]);
        s.module[s.n_modules] = module[i];
    }
    return p->hook->activation(p->hook->context, p->t, &s, in, out);
}

static enum status head_site(const struct pass *p, tape_val in, tape_val *out) {
    *out = in;
    if (!p->hook || !p->hook->activation) return TM_OK;
    struct model_site s = {.site = "input",
                           .index = (int)p->m->config.layers * MODEL_SITES_PER_LAYER,
                           .n_modules = 1,
                           .module = {"lm_head"}};
    return p->hook->activation(p->hook->context, p->t, &s, in, out);
}

/* y = attention block of normalized x (before the residual). Heads here may be none (an empty box). */
static enum status attention(const struct pass *p, int l, tape_val x, tape_val *y) {
    const struct model *m = p->m;
    const struct model_config *c = &m->config;
    struct tape *t = p->t;
    int64_t d = c->head_dim, group = c->heads / c->kv_heads, kv = weight(p, MODEL_K, l)->rows / d, heads = kv * group;
    int64_t group0 = model_find(m, MODEL_K, l)->desc.box.lo[0] / d;
    tape_val in, qkv[3], o;
    TM_TRY(site(p, l, MODEL_SITE_QKV_INPUT, x, &in));
    TM_TRY(tape_linear(t, in, 3,
                       (const struct tape_weight *const[]){weight(p, MODEL_Q, l), weight(p, MODEL_K, l),
                                                           weight(p, MODEL_V, l)},
                       (const struct tape_weight *const[]){weight(p, MODEL_Q_BIAS, l), weight(p, MODEL_K_BIAS, l),
                                                           weight(p, MODEL_V_BIAS, l)},
                       (const struct tensor_axis[]){m->axis_attention_q, m->axis_attention_kv, m->axis_attention_kv},
                       qkv));
    if (c->qk_norm) {
        TM_TRY(tape_head_norm(t, qkv[0], heads, group, group0, weight(p, MODEL_Q_NORM, l), c->norm_eps, &qkv[0]));
        TM_TRY(tape_head_norm(t, qkv[1], kv, 1, group0, weight(p, MODEL_K_NORM, l), c->norm_eps, &qkv[1]));
    }
    TM_TRY(tape_rope(t, qkv[0], p->io->positions, m->rope, heads, d, c->rotary, &qkv[0]));
    TM_TRY(tape_rope(t, qkv[1], p->io->positions, m->rope, kv, d, c->rotary, &qkv[1]));
    TM_TRY(site(p, l, MODEL_SITE_K, qkv[1], &qkv[1]));
    TM_TRY(site(p, l, MODEL_SITE_V, qkv[2], &qkv[2]));
    struct tape_attention a = {.b = p->shape->b,
                               .t = p->shape->t,
                               .heads = heads,
                               .kv_heads = kv,
                               .d = d,
                               .window = c->window[l],
                               .scale = (float)(1 / sqrt((double)d)),
                               .cache = p->shape->cache ? &p->shape->cache[l] : NULL,
                               .bf16 = m->o.bf16};
    TM_TRY(tape_attention(t, qkv[0], qkv[1], qkv[2], p->io->first, &a, &o));
    TM_TRY(site(p, l, MODEL_SITE_O_INPUT, o, &o));
    return tape_linear_row(t, o, weight(p, MODEL_O, l), weight(p, MODEL_O_BIAS, l), &m->axis_attention_q, y);
}

static enum status mlp(const struct pass *p, int l, tape_val x, tape_val *y) {
    const struct model *m = p->m;
    const struct tape_weight *const w[] = {weight(p, MODEL_GATE, l), weight(p, MODEL_UP, l)};
    const struct tape_weight *const b[] = {weight(p, MODEL_GATE_BIAS, l), weight(p, MODEL_UP_BIAS, l)};
    const struct tensor_axis axis[] = {m->axis_ffn, m->axis_ffn};
    const int first = !m->config.gated;
    tape_val in, gate_up[2], a;
    TM_TRY(site(p, l, MODEL_SITE_GATE_UP_INPUT, x, &in));
    TM_TRY(tape_linear(p->t, in, 2 - first, w + first, b + first, axis + first, gate_up + first));
    if (m->config.gated)
        TM_TRY(tape_swiglu(p->t, gate_up[0], gate_up[1], &a));
    else
        TM_TRY(tape_act(p->t, gate_up[1], m->config.act, &a));
    TM_TRY(site(p, l, MODEL_SITE_DOWN_INPUT, a, &a));
    return tape_linear_row(p->t, a, weight(p, MODEL_DOWN, l), weight(p, MODEL_DOWN_BIAS, l), &m->axis_ffn, y);
}

/* One layer; the residual stream is x (+ delta, the block before, still to be added). */
static enum status layer(const struct pass *p, int l, tape_val *x, tape_val *delta) {
    tape_val h, y;
    TM_TRY(norm(p, MODEL_INPUT_NORM, MODEL_INPUT_NORM_BIAS, l, *x, *delta, &h, &y));
    if (p->shape->keep_layers && l > p->m->layer0) {
        p->io->layer_out[l] = h; /* x + delta: the output of the layer before */
        TM_TRY(tape_pin(p->t, h, false));
    }
    TM_TRY(attention(p, l, y, delta));
    TM_TRY(norm(p, MODEL_POST_NORM, MODEL_POST_NORM_BIAS, l, h, *delta, x, &y));
    return mlp(p, l, y, delta);
}

static enum status inputs(const struct pass *p) {
    struct model *m = p->m;
    int64_t n = p->shape->b * p->shape->t;
    bool grad = m->o.training;
    TM_TRY(tape_input(p->t, "positions", n, 1, false, &p->io->positions));
    TM_TRY(tape_input(p->t, "first", n, 1, false, &p->io->first));
    if (m->first) return tape_input(p->t, "ids", n, 1, false, &p->io->ids);
    return tape_input(p->t, "hidden.in", n, m->config.hidden, grad, &p->io->hidden_in);
}

static enum status outputs(const struct pass *p, tape_val x, tape_val delta) {
    const struct model *m = p->m;
    tape_val h, y;
    if (!m->last) {
        TM_TRY(tape_add(p->t, x, delta, &h));
        p->io->hidden_out = h;
        if (p->shape->keep_layers) p->io->layer_out[m->layer1] = h;
        return tape_pin(p->t, h, true);
    }
    TM_TRY(norm(p, MODEL_FINAL_NORM, MODEL_FINAL_NORM_BIAS, -1, x, delta, &h, &y));
    if (p->shape->keep_layers) {
        p->io->layer_out[m->layer1] = h;
        TM_TRY(tape_pin(p->t, h, false));
        TM_TRY(tape_pin(p->t, y, false));
    }
    return head_site(p, y, &p->io->final);
}

enum status model_record(struct model *m, struct tape *t, const struct model_shape *shape,
                         const struct model_hook *hook, struct model_io *io) {
    struct pass p = {m, t, shape, hook, io};
    tape_val *keep = io->layer_out, x, delta = TAPE_NONE;
    *io = (struct model_io){TAPE_NONE, TAPE_NONE, TAPE_NONE, TAPE_NONE, TAPE_NONE, TAPE_NONE, keep};
    for (int i = 0; shape->keep_layers && i <= m->config.layers; i++) keep[i] = TAPE_NONE;
    if (shape->t > m->o.max_positions)
        return TM_FAIL(TM_ERR_SHAPE, "sequence length %lld is over the %lld positions of the rotary table",
                       (long long)shape->t, (long long)m->o.max_positions);
    TM_TRY(inputs(&p));
    x = io->hidden_in;
    if (m->first)
        TM_TRY(tape_embed(t, io->ids, weight(&p, MODEL_EMBED, -1), model_find(m, MODEL_EMBED, -1)->desc.box.lo[0], &x));
    if (m->first && shape->keep_layers) {
        keep[0] = x;
        TM_TRY(tape_pin(t, x, false));
    }
    for (int l = m->layer0; l < m->layer1; l++) {
        TM_TRY(tape_segment_begin(t, shape->recompute));
        TM_TRY(layer(&p, l, &x, &delta));
        TM_TRY(tape_segment_end(t));
    }
    return outputs(&p, x, delta);
}
