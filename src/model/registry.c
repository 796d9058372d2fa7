/* The list of a model's parameters: global names, shapes, cuts, boxes of this rank, and their memory. */
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "model/model.h"

/* Name, where it is and how it is cut, by role. Shape letters: V vocabulary, C hidden, Q heads*D, K kv_heads*D, F ffn, D head_dim. */
static const struct {
    enum model_role role;
    const char *name; /* %d = layer */
    char rows, cols;  /* cols 0: a vector */
    int cut;          /* -1 none, else the axis cut over the tensor group */
    bool linear;
} roles[] = {
    {MODEL_EMBED, "model.embed_tokens.weight", 'V', 'C', 0, false},
    {MODEL_INPUT_NORM, "model.layers.%d.input_layernorm.weight", 'C', 0, -1, false},
    {MODEL_INPUT_NORM_BIAS, "model.layers.%d.input_layernorm.bias", 'C', 0, -1, false},
    {MODEL_Q, "model.layers.%d.self_attn.q_proj.weight", 'Q', 'C', 0, true},
    {MODEL_K, "model.layers.%d.self_attn.k_proj.weight", 'K', 'C', 0, true},
    {MODEL_V, "model.layers.%d.self_attn.v_proj.weight", 'K', 'C', 0, true},
    {MODEL_Q_BIAS, "model.layers.%d.self_attn.q_proj.bias", 'Q', 0, 0, false},
    {MODEL_K_BIAS, "model.layers.%d.self_attn.k_proj.bias", 'K', 0, 0, false},
    {MODEL_V_BIAS, "model.layers.%d.self_attn.v_proj.bias", 'K', 0, 0, false},
    {MODEL_Q_NORM, "model.layers.%d.self_attn.q_norm.weight", 'D', 0, -1, false},
    {MODEL_K_NORM, "model.layers.%d.self_attn.k_norm.weight", 'D', 0, -1, false},
    {MODEL_O, "model.layers.%d.self_attn.o_proj.weight", 'C', 'Q', 1, true},
    {MODEL_O_BIAS, "model.layers.%d.self_attn.o_proj.bias", 'C', 0, -1, false},
    {MODEL_POST_NORM, "model.layers.%d.post_attention_layernorm.weight", 'C', 0, -1, false},
    {MODEL_POST_NORM_BIAS, "model.layers.%d.post_attention_layernorm.bias", 'C', 0, -1, false},
    {MODEL_GATE, "model.layers.%d.mlp.gate_proj.weight", 'F', 'C', 0, true},
    {MODEL_UP, "model.layers.%d.mlp.up_proj.weight", 'F', 'C', 0, true},
    {MODEL_GATE_BIAS, "model.layers.%d.mlp.gate_proj.bias", 'F', 0, 0, false},
    {MODEL_UP_BIAS, "model.layers.%d.mlp.up_proj.bias", 'F', 0, 0, false},
    {MODEL_DOWN, "model.layers.%d.mlp.down_proj.weight", 'C', 'F', 1, true},
    {MODEL_DOWN_BIAS, "model.layers.%d.mlp.down_proj.bias", 'C', 0, -1, false},
    {MODEL_FINAL_NORM, "model.norm.weight", 'C', 0, -1, false},
    {MODEL_FINAL_NORM_BIAS, "model.norm.bias", 'C', 0, -1, false},
    {MODEL_HEAD, "lm_head.weight", 'V', 'C', 0, true},
};
_Static_assert(sizeof roles / sizeof *roles == MODEL_ROLES, "one row per role");

static bool has_role(const struct model_config *c, enum model_role role) {
    switch (role) {
    case MODEL_Q_BIAS:
    case MODEL_K_BIAS:
    case MODEL_V_BIAS: return c->qkv_bias;
    case MODEL_O_BIAS: return c->out_bias;
    case MODEL_INPUT_NORM_BIAS:
    case MODEL_POST_NORM_BIAS:
    case MODEL_FINAL_NORM_BIAS: return c->layernorm;
    case MODEL_GATE: return c->gated;
    case MODEL_GATE_BIAS: return c->gated && c->mlp_bias;
    case MODEL_UP_BIAS:
    case MODEL_DOWN_BIAS: return c->mlp_bias;
    case MODEL_Q_NORM:
    case MODEL_K_NORM: return c->qk_norm;
    case MODEL_HEAD: return !c->tied;
    default: return true;
    }
}

static int64_t extent(const struct model_config *c, char letter) {
    switch (letter) {
    case 'V': return c->vocab;
    case 'C': return c->hidden;
    case 'Q': return c->heads * c->head_dim;
    case 'K': return c->kv_heads * c->head_dim;
    case 'F': return c->ffn;
    default: return c->head_dim;
    }
}

static const struct tensor_axis *axis_of(const struct model *m, char letter) {
    return letter == 'Q'   ? &m->axis_attention_q
           : letter == 'K' ? &m->axis_attention_kv
           : letter == 'F' ? &m->axis_ffn
                           : &m->axis_vocab;
}

/* Is the parameter on this stage? A tied embedding is on the first and on the last. */
static bool here(const struct model *m, enum model_role role, int layer) {
    if (layer >= 0) return layer >= m->layer0 && layer < m->layer1;
    if (role == MODEL_EMBED) return m->first || (m->last && m->config.tied);
    return m->last;
}

static void add_param(struct model *m, enum model_role role, int layer) {
    const struct model_config *c = &m->config;
    struct model_param *p = &m->param[m->n_params];
    if (m->role_at[role] < 0) m->role_at[role] = m->n_params;
    m->n_params++;
    int64_t rows = extent(c, roles[role].rows), cols = roles[role].cols ? extent(c, roles[role].cols) : 0;
    *p = (struct model_param){
        .role = role, .layer = layer, .cut = roles[role].cut, .linear = roles[role].linear, .grad_parts = 1};
    p->desc.dtype = DTYPE_f32;
    p->desc.rank = cols ? 2 : 1;
    p->desc.shape[0] = rows;
    p->desc.shape[1] = cols;
    char name[96]; /* the table's formats take at most one int */
    snprintf(name, sizeof name, "%s", roles[role].name);
    char *place = strstr(name, "%d");
    if (place) {
        *place = 0;
        snprintf(p->desc.name, sizeof p->desc.name, "%s%d%s", name, layer, place + 2);
    } else {
        snprintf(p->desc.name, sizeof p->desc.name, "%s", name);
    }
    p->desc.box = tensor_box_whole(p->desc.rank, p->desc.shape);
    if (p->cut >= 0) {
        p->axis = *axis_of(m, p->cut == 0 ? roles[role].rows : roles[role].cols);
        tensor_axis_range(&p->axis, m->o.grid->tp_rank, m->o.grid->tp, &p->desc.box.lo[p->cut],
                          &p->desc.box.hi[p->cut]);
    }
    if (!here(m, role, layer)) p->desc.box.hi[0] = p->desc.box.lo[0] = 0;
    if (p->desc.rank == 1) p->grad_parts = OPS_ROW_SEGMENTS;
    if (role == MODEL_Q_NORM || role == MODEL_K_NORM) p->grad_parts = c->kv_heads * OPS_ROW_SEGMENTS;
    bool vector = p->desc.rank == 1;
    int64_t n0 = p->desc.box.hi[0] - p->desc.box.lo[0], n1 = vector ? 0 : p->desc.box.hi[1] - p->desc.box.lo[1];
    p->w.rows = vector ? (n0 > 0) : n0;
    p->w.cols = vector ? n0 : n1;
    p->w.bf16 = m->o.bf16;
}

static enum status build_list(struct model *m) {
    bool in_layer[MODEL_ROLES];
    for (int r = 0; r < MODEL_ROLES; r++) {
        in_layer[r] = strchr(roles[r].name, '%') && has_role(&m->config, (enum model_role)r);
        m->per_layer += in_layer[r];
        m->role_at[r] = -1;
    }
    TM_TRY(mem_alloc(&m->param, (size_t)(4 + m->per_layer * (int)m->config.layers), sizeof *m->param));
    add_param(m, MODEL_EMBED, -1);
    for (int l = 0; l < m->config.layers; l++)
        for (int r = 0; r < MODEL_ROLES; r++)
            if (in_layer[r]) add_param(m, (enum model_role)r, l);
    add_param(m, MODEL_FINAL_NORM, -1);
    if (m->config.layernorm) add_param(m, MODEL_FINAL_NORM_BIAS, -1);
    if (!m->config.tied) add_param(m, MODEL_HEAD, -1);
    return TM_OK;
}

/* The gradient is written by products alone: not leaves of a vector, nor rows of a look-up. */
static bool by_products(const struct model_param *p) { return p->desc.rank == 2 && p->role != MODEL_EMBED; }

static enum status place_grads(struct model *m, struct arena *g, bool products) {
    uint64_t at;
    for (int i = 0; i < m->n_params; i++) {
        struct model_param *p = &m->param[i];
        const size_t bytes = (size_t)tensor_box_elems(&p->desc.box) * 4;
        const bool unused = p->role == MODEL_EMBED &&
                            !m->first; /* the last stage's copy of a tied embedding: its gradient is the head's */
        if (bytes == 0 || unused || by_products(p) != products) continue;
        TM_TRY(arena_take(g, bytes * (size_t)p->grad_parts, &at));
        p->w.grad = (dptr){at};
        if (products) p->w.written = &p->grad_written;
    }
    return TM_OK;
}

/* Weights and gradients, each in one block. The first walk counts, the second places. */
static enum status place(struct model *m, dptr weights, dptr grads) {
    struct arena w, g;
    uint64_t at;
    arena_init(&w, "weights", weights.a, m->weight_bytes);
    arena_init(&g, "gradients", grads.a, m->grad_bytes);
    for (int i = 0; i < m->n_params; i++) {
        struct model_param *p = &m->param[i];
        size_t bytes = (size_t)tensor_box_elems(&p->desc.box) * 4;
        if (bytes == 0) continue;
        TM_TRY(arena_take(&w, bytes, &at));
        p->master = p->w.value = (dptr){at};
    }
    if (m->o.training) {
        TM_TRY(place_grads(m, &g, false));
        m->added_bytes = g.high;
        TM_TRY(place_grads(m, &g, true));
    }
    const struct model_param *e = model_find(m, MODEL_EMBED, -1);
    m->tied = (struct tape_weight){.value = e->w.value, .rows = e->w.rows, .cols = e->w.cols, .bf16 = e->w.bf16};
    if (m->config.tied && m->o.training && m->last) {
        TM_TRY(arena_take(&g, (size_t)(e->w.rows * e->w.cols) * 4, &at));
        m->tied.grad = (dptr){at};
        m->tied.written = &m->tied_written;
    }
    m->weight_bytes = w.high;
    m->grad_bytes = g.high;
    return TM_OK;
}

static enum status allocate(struct model *m) {
    float *table;
    TM_TRY(place(m, (dptr){0}, (dptr){0}));
    TM_TRY(dev_alloc(m->o.dev, "weights", m->weight_bytes, &m->weights));
    TM_TRY(dev_alloc(m->o.dev, "gradients", m->grad_bytes, &m->grads));
    TM_TRY(place(m, m->weights, m->grads));
    size_t n = (size_t)(m->o.max_positions * m->config.rotary);
    m->rope_bytes = n * 4;
    TM_TRY(dev_alloc(m->o.dev, "rotary table", m->rope_bytes, &m->rope));
    if (dev_backend(m->o.dev) == DEV_PLAN) return TM_OK;
    TM_TRY(mem_alloc(&table, n, sizeof *table));
    model_rope_table(&m->config, m->o.max_positions, table);
    enum status st = dev_upload(m->o.dev, m->rope, table, n * 4);
    mem_free(&table);
    return st;
}

static enum status create(struct model *m) {
    const struct par_grid *g = m->o.grid;
    const struct model_config *c = &m->config;
    if (g->pp > c->layers)
        return TM_FAIL(TM_ERR_DECK, "grid.pp = %d: more pipeline stages than the model's %lld layers", g->pp,
                       (long long)c->layers);
    m->layer0 = (int)(c->layers * g->pp_rank / g->pp);
    m->layer1 = (int)(c->layers * (g->pp_rank + 1) / g->pp);
    m->first = g->pp_rank == 0;
    m->last = g->pp_rank == g->pp - 1;
    int64_t block = size_gcd(c->ffn, 32);
    m->axis_attention_q = (struct tensor_axis){c->kv_heads, c->heads / c->kv_heads * c->head_dim, PAR_TP_SEGMENTS};
    m->axis_attention_kv = (struct tensor_axis){c->kv_heads, c->head_dim, PAR_TP_SEGMENTS};
    m->axis_ffn = (struct tensor_axis){c->ffn / block, block, PAR_TP_SEGMENTS};
    m->axis_vocab = (struct tensor_axis){c->vocab, 1, PAR_TP_SEGMENTS};
    TM_TRY(build_list(m));
    return allocate(m);
}

enum status model_create(struct model_config *config, const struct model_options *o, struct model **out) {
    enum status st = mem_alloc(out, 1, sizeof **out);
    if (st != TM_OK) {
        model_config_free(config);
        return st;
    }
    (*out)->config = *config;
    *config = (struct model_config){0};
    (*out)->o = *o;
    st = create(*out);
    if (st != TM_OK) model_destroy(out);
    return st;
}

/* --- packed weights ---------------------------------------------------------------------------------------------------------- */
/* The product's segments of k: those of the weight's columns, where the tensor group cuts them. */
static struct packed_factor packed_cut(const struct model *m, const struct model_param *p, bool invariant) {
    struct packed_factor f = {.segments = 1, .k = {0, p->w.cols}};
    if (p->cut == 1) f.segments = tape_cut(m->o.grid, invariant, &p->axis, f.k);
    return f;
}

/* at: where the first lies; the bytes of all. count: no more than that. */
static enum status pack_weights(struct model *m, bool invariant, bool count) {
    struct arena a;
    arena_init(&a, "packed weights", m->packed.a, m->packed_bytes);
    for (int i = 0; i < m->n_params; i++) {
        struct model_param *p = &m->param[i];
        struct tape_weight *w = p->role == MODEL_EMBED ? &m->tied : &p->w;
        const bool head = p->role == MODEL_EMBED && m->config.tied && m->last;
        struct pack_args x = {.x = w->value, .rows = w->rows, .ldx = w->cols, .is_b = 1};
        if (!(p->linear || head) || w->rows * w->cols == 0) continue;
        x.to = packed_cut(m, p, invariant);
        TM_TRY(arena_take(&a, (size_t)ops_packed_bytes(w->rows, x.to.segments, x.to.k), &x.to.at.a));
        if (!count) TM_TRY(dev_pack(m->o.dev, &x));
        w->packed = x.to.at;
    }
    m->packed_bytes = a.high;
    return TM_OK;
}

enum status model_pack(struct model *m, bool invariant) {
    if (!m->o.bf16) return TM_OK;
    if (!m->packed.a) {
        TM_TRY(pack_weights(m, invariant, true));
        TM_TRY(dev_alloc(m->o.dev, "packed weights", m->packed_bytes, &m->packed));
    }
    return pack_weights(m, invariant, false);
}

void model_destroy(struct model **model) {
    struct model *m = *model;
    if (!m) return;
    dev_free(m->o.dev, &m->weights);
    dev_free(m->o.dev, &m->grads);
    dev_free(m->o.dev, &m->rope);
    dev_free(m->o.dev, &m->packed);
    model_config_free(&m->config);
    mem_free(&m->param);
    mem_free(model);
}

struct model_param *model_find(const struct model *m, enum model_role role, int layer) {
    int first = m->role_at[role];
    return first < 0 ? NULL : &m->param[first + (layer > 0 ? layer * m->per_layer : 0)];
}

const struct tape_weight *model_head(const struct model *m) {
    const struct model_param *h = model_find(m, MODEL_HEAD, -1);
    return h ? &h->w : &m->tied;
}

void model_module_name(const struct model_param *p, char out[TENSOR_NAME_MAX]) {
    snprintf(out, TENSOR_NAME_MAX, "%s", p->desc.name);
    char *dot = strrchr(out, '.');
    if (dot) *dot = 0;
}

static bool is_norm(enum model_role r) {
    return r == MODEL_INPUT_NORM || r == MODEL_POST_NORM || r == MODEL_FINAL_NORM || r == MODEL_Q_NORM ||
           r == MODEL_K_NORM;
}

/* Fill the box of one parameter (a norm's gain with `one`): element (i, j) of the global tensor is normal number i * columns + j of the stream of its name. */
static void init_box(const struct model_param *p, uint64_t seed, float std, float one, float *out) {
    const struct tensor_box *b = &p->desc.box;
    uint64_t stream = rng_stream(p->desc.name);
    int64_t cols = p->desc.rank == 2 ? p->desc.shape[1] : 1, lo1 = p->desc.rank == 2 ? b->lo[1] : 0,
            hi1 = p->desc.rank == 2 ? b->hi[1] : 1;
    for (int64_t i = b->lo[0]; i < b->hi[0]; i++)
        for (int64_t j = lo1; j < hi1; j++)
            *out++ = p->desc.rank == 2  ? std * rng_normal(seed, stream, (uint64_t)(i * cols + j))
                     : is_norm(p->role) ? one
                                        : 0.0f;
}

enum status model_init(struct model *m, uint64_t seed, float std) {
    enum status st = TM_OK;
    for (int i = 0; i < m->n_params && st == TM_OK; i++) {
        const struct model_param *p = &m->param[i];
        size_t n = (size_t)tensor_box_elems(&p->desc.box);
        float *host;
        TM_TRY(mem_alloc(&host, n, sizeof *host));
        if (n) {
            init_box(p, seed, std, 1 - m->config.norm_offset, host);
            st = dev_upload(m->o.dev, p->master, host, n * 4);
        }
        mem_free(&host);
    }
    return st;
}

enum status model_begin_grads(struct model *m) {
    const bool all = dev_records(m->o.dev); /* what is recorded does the same every time: it adds */
    const size_t bytes = all ? m->grad_bytes : m->added_bytes;
    for (int i = 0; i < m->n_params; i++) m->param[i].grad_written = all;
    m->tied_written = all;
    return bytes ? dev_fill(m->o.dev, &(struct fill_args){.y = m->grads, .n = (int64_t)(bytes / 4), .value = 0})
                 : TM_OK;
}

int64_t model_grads_from(const struct model *m, int layer) {
    uint64_t at = m->grads.a + m->grad_bytes;
    if (m->tied.grad.a) at = m->tied.grad.a;
    for (int i = m->n_params - 1; i >= 0; i--) { /* they lie in the order of the list */
        const struct model_param *p = &m->param[i];
        if (p->w.grad.a && by_products(p) && (p->layer < 0 || p->layer >= layer)) at = p->w.grad.a;
    }
    return (int64_t)(at - m->grads.a);
}

static enum status settle(struct model *m, const struct tape_weight *w, int64_t from) {
    if (!w->grad.a || !w->written || *w->written || w->grad.a < m->grads.a + (uint64_t)from) return TM_OK;
    *w->written = true;
    return dev_fill(m->o.dev, &(struct fill_args){.y = w->grad, .n = w->rows * w->cols, .value = 0});
}

enum status model_settle_grads(struct model *m, int64_t from) {
    for (int i = 0; i < m->n_params; i++) TM_TRY(settle(m, &m->param[i].w, from));
    return settle(m, &m->tied, from);
}
