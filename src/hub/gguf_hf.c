/* A GGUF model's tensors under hub names: the mapping by tables, and their rows in hub order. */
#include "hub/gguf_hf.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "base/str.h"
#include "hub/gguf_impl.h"
#include "numfmt/bf16.h"

enum { LAYERS_MAX = 1 << 14, HEAD_DIM_MAX = 1 << 12, NAME_BYTES = 96, CHUNK_ELEMS = 1 << 18 };

const struct gguf_arch gguf_archs[] = {
#define ARCH(name, type, class, pairs, biases, norm) {#name, type, class, pairs, biases, norm},
#include "hub/gguf_arch.def"
#undef ARCH
};
enum { ARCHS = sizeof gguf_archs / sizeof *gguf_archs };

enum place { MODEL, LAYER };
enum presence { MAY, NEED };
enum heads { NONE, Q, KV };
static const struct {
    enum place place;
    enum presence presence;
    const char *gguf, *hub;
    enum heads heads;
} rows_of_names[] = {
#define TENSOR(place, presence, gguf, hub, heads) {place, presence, gguf, hub, heads},
#include "hub/gguf_names.def"
#undef TENSOR
};
enum { NAMES = sizeof rows_of_names / sizeof *rows_of_names };

struct gguf_source {
    const struct hub_gguf_tensor *t;
    int64_t pairs; /* > 0: rows of a head whose rotary pairs lie side by side */
};

/* --- facts ----------------------------------------------------------------------------------------------------------------- */

static enum status find_arch(const struct hub_gguf *g, int *out) {
    const char *name;
    struct str known = {0};
    TM_TRY(hub_gguf_get_text(g, "general.architecture", "", &name));
    for (*out = 0; *out < ARCHS; ++*out)
        if (!strcmp(gguf_archs[*out].name, name)) return TM_OK;
    for (int i = 0; i < ARCHS; i++) TM_TRY(str_printf(&known, "%s%s", i ? ", " : "", gguf_archs[i].name));
    enum status st = TM_FAIL(TM_ERR_UNSUPPORTED, "%s: architecture \"%s\" is not supported; supported: %s",
                             hub_gguf_path(g), name, known.p);
    str_free(&known);
    return st;
}

static void arch_key(const struct hub_gguf_hf *m, const char *key, char out[GGUF_KEY_BYTES]) {
    snprintf(out, GGUF_KEY_BYTES, "%s.%s", gguf_archs[m->arch].name, key);
}
enum status gguf_arch_i64(const struct hub_gguf_hf *m, const char *key, int64_t absent, int64_t *out) {
    char full[GGUF_KEY_BYTES];
    arch_key(m, key, full);
    return hub_gguf_get_i64(m->g, full, absent, out);
}
enum status gguf_arch_f64(const struct hub_gguf_hf *m, const char *key, double absent, double *out) {
    char full[GGUF_KEY_BYTES];
    arch_key(m, key, full);
    return hub_gguf_get_f64(m->g, full, absent, out);
}
enum status gguf_arch_text(const struct hub_gguf_hf *m, const char *key, const char *absent, const char **out) {
    char full[GGUF_KEY_BYTES];
    arch_key(m, key, full);
    return hub_gguf_get_text(m->g, full, absent, out);
}

static enum status need(const struct hub_gguf_hf *m, const char *key, int64_t most, int64_t *out) {
    TM_TRY(gguf_arch_i64(m, key, -1, out));
    if (*out < 1 || *out > most)
        return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s.%s\" is missing or not from 1 to %lld", hub_gguf_path(m->g),
                       gguf_archs[m->arch].name, key, (long long)most);
    return TM_OK;
}

static enum status read_facts(struct hub_gguf_hf *m) {
    int64_t value_length, rope;
    TM_TRY(need(m, "block_count", LAYERS_MAX, &m->layers));
    TM_TRY(need(m, "embedding_length", 1 << 20, &m->hidden));
    TM_TRY(need(m, "attention.head_count", 1 << 14, &m->heads));
    TM_TRY(need(m, "feed_forward_length", 1 << 24, &m->ffn));
    TM_TRY(need(m, "context_length", INT32_MAX, &m->context));
    TM_TRY(gguf_arch_i64(m, "attention.head_count_kv", m->heads, &m->kv_heads));
    TM_TRY(gguf_arch_i64(m, "attention.key_length", m->hidden / m->heads, &m->head_dim));
    TM_TRY(gguf_arch_i64(m, "attention.value_length", m->head_dim, &value_length));
    TM_TRY(gguf_arch_i64(m, "rope.dimension_count", m->head_dim, &rope));
    if (m->kv_heads < 1 || m->kv_heads > m->heads || m->head_dim < 2 || m->head_dim > HEAD_DIM_MAX || m->head_dim % 2)
        return TM_FAIL(TM_ERR_FORMAT, "%s: %lld key heads of %lld elements: expected 1 to %lld, 2 to %d and even",
                       hub_gguf_path(m->g), (long long)m->kv_heads, (long long)m->head_dim, (long long)m->heads,
                       HEAD_DIM_MAX);
    if (value_length != m->head_dim || rope != m->head_dim)
        return TM_FAIL(TM_ERR_UNSUPPORTED,
                       "%s: keys have %lld elements, values %lld and rope turns %lld: they must be equal",
                       hub_gguf_path(m->g), (long long)m->head_dim, (long long)value_length, (long long)rope);
    return TM_OK;
}

enum status hub_gguf_dtype(const struct hub_gguf *g, enum dtype *out) {
    const struct hub_gguf_tensor *t = hub_gguf_find(g, "token_embd.weight");
    if (!t) return TM_FAIL(TM_ERR_FORMAT, "%s: no tensor \"token_embd.weight\"", hub_gguf_path(g));
    *out = strcmp(hub_gguf_type(t), "F32") ? DTYPE_bf16 : DTYPE_f32;
    return TM_OK;
}

/* --- tensors --------------------------------------------------------------------------------------------------------------- */

static void spell(char out[NAME_BYTES], enum place place, const char *front, int64_t layer, const char *name) {
    if (place == LAYER)
        snprintf(out, NAME_BYTES, "%s%lld.%s", front, (long long)layer, name);
    else
        snprintf(out, NAME_BYTES, "%s", name);
}

/* One row of the table for one layer; an optional tensor is there in all layers or in none. */
static enum status add_tensor(struct hub_gguf_hf *m, int row, int64_t layer, enum dtype dtype) {
    char name[NAME_BYTES], first[NAME_BYTES], *hub = m->names + (size_t)m->n * NAME_BYTES;
    enum place place = rows_of_names[row].place;
    spell(name, place, "blk.", layer, rows_of_names[row].gguf);
    spell(first, place, "blk.", 0, rows_of_names[row].gguf);
    spell(hub, place, "model.layers.", layer, rows_of_names[row].hub);
    const struct hub_gguf_tensor *t = hub_gguf_find(m->g, name);
    if (!t && rows_of_names[row].presence == MAY && !hub_gguf_find(m->g, first)) return TM_OK;
    if (!t) return TM_FAIL(TM_ERR_FORMAT, "%s: no tensor \"%s\"", hub_gguf_path(m->g), name);
    struct hub_tensor *h = &m->tensors[m->n];
    *h = (struct hub_tensor){.name = hub, .dtype = dtype, .rank = t->rank};
    memcpy(h->shape, t->shape, sizeof t->shape);
    int64_t heads = rows_of_names[row].heads == Q ? m->heads : rows_of_names[row].heads == KV ? m->kv_heads : 0;
    if (heads && t->shape[0] != heads * m->head_dim)
        return TM_FAIL(TM_ERR_SHAPE, "%s: tensor \"%s\" has %lld rows, expected %lld heads of %lld",
                       hub_gguf_path(m->g), name, (long long)t->shape[0], (long long)heads, (long long)m->head_dim);
    m->source[m->n++] = (struct gguf_source){t, heads && gguf_archs[m->arch].pairs ? m->head_dim : 0};
    return TM_OK;
}

/* A tensor that nothing took would be lost without a word. */
static enum status check_all_taken(const struct hub_gguf_hf *m) {
    unsigned char *taken;
    int count = hub_gguf_count(m->g), i = 0;
    const struct hub_gguf_tensor *factors = hub_gguf_find(m->g, GGUF_ROPE_FACTORS), *first = hub_gguf_tensor(m->g, 0);
    if (m->n + (factors != NULL) == count) return TM_OK;
    TM_TRY(mem_alloc(&taken, (size_t)count, 1));
    if (factors) taken[factors - first] = 1;
    for (int k = 0; k < m->n; k++) taken[m->source[k].t - first] = 1;
    while (taken[i]) i++;
    mem_free(&taken);
    return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: tensor \"%s\" has no place in a %s model", hub_gguf_path(m->g),
                   first[i].name, gguf_archs[m->arch].type);
}

/* Optional tensors that the family's config.json cannot say would be left out of the forward pass without a word. */
static enum status check_optional(const struct hub_gguf_hf *m) {
    static const char *const names[] = {"attn_q.bias",      "attn_k.bias",        "attn_v.bias",
                                        "attn_output.bias", "ffn_gate.bias",      "ffn_up.bias",
                                        "ffn_down.bias",    "attn_q_norm.weight", "attn_k_norm.weight"};
    enum { O_BIAS = 3, DOWN_BIAS = 6, N = sizeof names / sizeof *names };
    const struct gguf_arch *a = &gguf_archs[m->arch];
    bool there[N];
    for (int i = 0; i < N; i++) {
        char name[NAME_BYTES];
        spell(name, LAYER, "blk.", 0, names[i]);
        there[i] = hub_gguf_find(m->g, name) != NULL;
    }
    for (int i = 0; i < N; i++) {
        bool want = i > DOWN_BIAS ? a->qk_norm : i > O_BIAS ? there[DOWN_BIAS] : there[O_BIAS];
        if (a->biases == QKV && i <= O_BIAS) want = i < O_BIAS;
        if (there[i] != want)
            return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: layers %s %s: no %s model is so", hub_gguf_path(m->g),
                           want ? "without" : "with", names[i], a->type);
    }
    return TM_OK;
}

static enum status read_tensors(struct hub_gguf_hf *m, enum dtype dtype) {
    size_t most = (size_t)size_min(NAMES * m->layers, hub_gguf_count(m->g)) + 1;
    TM_TRY(mem_alloc(&m->tensors, most, sizeof *m->tensors));
    TM_TRY(mem_alloc(&m->source, most, sizeof *m->source));
    TM_TRY(mem_alloc(&m->names, most, NAME_BYTES));
    for (int row = 0; row < NAMES; row++)
        for (int64_t layer = 0; layer < (rows_of_names[row].place == LAYER ? m->layers : 1); layer++)
            TM_TRY(add_tensor(m, row, layer, dtype));
    TM_TRY(check_all_taken(m));
    TM_TRY(check_optional(m));
    const struct hub_gguf_tensor *embed = hub_gguf_find(m->g, "token_embd.weight");
    m->vocab = embed->shape[0];
    m->tied = !hub_gguf_find(m->g, "output.weight");
    m->attention_bias = hub_gguf_find(m->g, "blk.0.attn_output.bias") != NULL;
    m->mlp_bias = hub_gguf_find(m->g, "blk.0.ffn_down.bias") != NULL;
    return TM_OK;
}

enum status hub_gguf_hf_create(const struct hub_gguf *g, enum dtype dtype, struct hub_gguf_hf **out) {
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    (*out)->g = g;
    enum status st = find_arch(g, &(*out)->arch);
    if (st == TM_OK) st = read_facts(*out);
    if (st == TM_OK) st = read_tensors(*out, dtype);
    if (st != TM_OK) hub_gguf_hf_destroy(out);
    return st;
}

void hub_gguf_hf_destroy(struct hub_gguf_hf **m) {
    if (!*m) return;
    mem_free(&(*m)->tensors);
    mem_free(&(*m)->source);
    mem_free(&(*m)->names);
    mem_free(&(*m)->rows);
    mem_free(m);
}

/* --- rows ------------------------------------------------------------------------------------------------------------------ */

/* Row r of a hub tensor in the file. The hub has the first elements of a head's rotary pairs, then the second ones; the file has pair
 * after pair. */
static int64_t row_in_file(const struct gguf_source *s, int64_t r) {
    int64_t in_head = r % s->pairs, half = s->pairs / 2;
    return r - in_head + 2 * (in_head % half) + in_head / half;
}

static enum status put(const struct hub_gguf_hf *m, const struct hub_tensor *h, const float *x, int64_t n, char *out) {
    if (hub_count_nonfinite(x, n))
        return TM_FAIL(TM_ERR_NUMERIC, "%s: tensor \"%s\" holds NaN or Inf", hub_gguf_path(m->g), h->name);
    if (h->dtype == DTYPE_f32)
        memcpy(out, x, (size_t)n * sizeof *x);
    else
        for (int64_t i = 0; i < n; i++) ((uint16_t *)out)[i] = bf16_encode(x[i]);
    return TM_OK;
}

enum status hub_gguf_hf_rows(struct hub_gguf_hf *m, int tensor, int64_t row0, int64_t rows, void *out) {
    const struct hub_tensor *h = &m->tensors[tensor];
    const struct gguf_source *s = &m->source[tensor];
    int64_t cols = s->t->elems / h->shape[0], row_bytes = cols * (int64_t)dtype_bytes(h->dtype);
    int64_t step = s->pairs ? 1 : size_min(rows, size_max(1, CHUNK_ELEMS / cols));
    TM_TRY(mem_grow(&m->rows, &m->rows_cap, (size_t)(step * cols), sizeof *m->rows));
    for (int64_t r = row0; r < row0 + rows; r += step) {
        int64_t n = size_min(step, row0 + rows - r);
        TM_TRY(hub_gguf_read(m->g, s->t, (s->pairs ? row_in_file(s, r) : r) * cols, n * cols, m->rows));
        TM_TRY(put(m, h, m->rows, n * cols, (char *)out + (r - row0) * row_bytes));
    }
    return TM_OK;
}
