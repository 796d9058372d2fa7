/* hf_quant_config.json and config.json's quantization_config. */
#include "quant/config.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

static const char *algorithm(const struct quant_linear *l) {
    const struct quant_format_info *f = quant_format(l->weight);
    return l->input == QUANT_NONE ? f->algo_weight_only : f->algo;
}

/* --- exclude_modules: the fewest patterns "prefix*" (cut at dots) that name no quantized module ---------------------------- */

/* The first `len` characters of `name`, then `tail`, as a new set member. */
static int put(json_t *set, const char *name, size_t len, const char *tail) {
    struct str s = {0};
    bool good = str_append(&s, name, len) == TM_OK && str_append(&s, tail, strlen(tail)) == TM_OK;
    int rc = good ? json_object_set_new(set, s.p, json_true()) : -1;
    str_free(&s);
    return rc;
}

/* Whether a quantized module's name starts with the first `len` characters of `name` (dot: followed by a '.'; exact: and ends there). */
static bool quantized_below(const struct quant_linear *l, size_t n, const char *name, size_t len, char next) {
    for (size_t i = 0; i < n; i++)
        if (l[i].weight != QUANT_NONE && !strncmp(l[i].name, name, len) && (next == '*' || l[i].name[len] == next))
            return true;
    return false;
}

static int exclude(json_t *set, const struct quant_linear *l, size_t n, const char *name) {
    for (size_t i = 0; name[i]; i++) {
        if (name[i] != '.') continue;
        if (!quantized_below(l, n, name, i, '*')) return put(set, name, i, "*");
        if (!quantized_below(l, n, name, i, '\0') && !quantized_below(l, n, name, i, '.'))
            return put(set, name, i, "") || put(set, name, i, ".*");
    }
    return put(set, name, strlen(name), "");
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The texts, sorted, as an array. They are borrowed; json is NULL when memory ran out. */
static enum status sorted_array(const char **texts, size_t n, json_t **out) {
    if (n) qsort(texts, n, sizeof *texts, by_text);
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(a, json_string(texts[i]))) {
            json_decref(a);
            return TM_FAIL(TM_ERR_MEMORY, "JSON list of %zu module names", n);
        }
    *out = a;
    return TM_OK;
}

static enum status excluded(const struct quant_linear *l, size_t n, json_t **out) {
    json_t *set = json_object();
    const char **texts = NULL, *key;
    json_t *value;
    size_t count = 0;
    enum status st = TM_OK;
    for (size_t i = 0; i < n && st == TM_OK; i++)
        if (l[i].weight == QUANT_NONE && exclude(set, l, n, l[i].name))
            st = TM_FAIL(TM_ERR_MEMORY, "JSON set of excluded modules");
    if (st == TM_OK) st = mem_alloc(&texts, json_object_size(set), sizeof *texts);
    if (st == TM_OK) {
        json_object_foreach(set, key, value) texts[count++] = key;
        st = sorted_array(texts, count, out);
    }
    mem_free(&texts);
    json_decref(set);
    return st;
}

/* --- hf_quant_config.json ------------------------------------------------------------------------------------------------- */

/* {"quant_algo": .., ["group_size": ..]} of one linear. */
static json_t *layer_config(const struct quant_linear *l) {
    int block = quant_format(l->weight)->block;
    return block ? json_pack("{s:s, s:i}", "quant_algo", algorithm(l), "group_size", block)
                 : json_pack("{s:s}", "quant_algo", algorithm(l));
}

static json_t *quantized_layers(const struct quant_linear *l, size_t n) {
    json_t *layers = json_object();
    for (size_t i = 0; i < n; i++)
        if (l[i].weight != QUANT_NONE && json_object_set_new(layers, l[i].name, layer_config(&l[i]))) {
            json_decref(layers);
            return NULL;
        }
    return layers;
}

enum status quant_config(const struct quant_linear *l, size_t n, const struct quant_kv *kv, size_t nkv,
                         const char *producer, const char *version, json_t **out) {
    const struct quant_linear *first = NULL;
    bool mixed = false;
    json_t *list = NULL;
    *out = NULL;
    TM_TRY(quant_check(l, n, kv, nkv));
    for (size_t i = 0; i < n; i++) {
        if (l[i].weight == QUANT_NONE) continue;
        mixed = mixed || (first && strcmp(algorithm(first), algorithm(&l[i])));
        first = first ? first : &l[i];
    }
    const char *algo = mixed ? "MIXED_PRECISION" : first ? algorithm(first) : NULL;
    const char *kv_algo = nkv ? quant_format(kv[0].k)->kv_algo : NULL;
    json_t *q = json_pack("{s:s?, s:s?}", "quant_algo", algo, "kv_cache_quant_algo", kv_algo);
    int rc = q ? 0 : -1;
    if (first && !mixed && quant_format(first->weight)->block)
        rc |= json_object_set_new(q, "group_size", json_integer(quant_format(first->weight)->block));
    if (mixed) {
        rc |= json_object_set_new(q, "quantized_layers", quantized_layers(l, n));
    } else {
        enum status st = excluded(l, n, &list);
        if (st != TM_OK) {
            json_decref(q);
            return st;
        }
        rc |= json_object_set_new(q, "exclude_modules", list);
    }
    if (!rc)
        *out = json_pack("{s:{s:s, s:s}, s:O}", "producer", "name", producer, "version", version, "quantization", q);
    json_decref(q);
    return *out ? TM_OK : TM_FAIL(TM_ERR_MEMORY, "JSON of the quantization");
}

/* --- config.json ---------------------------------------------------------------------------------------------------------- */

/* What config_groups says of an algorithm: {"input_activations": {..}, "weights": {..}}; weight-only ones have no activations. */
static json_t *group_config(const char *algo) {
    const struct quant_format_info *f = NULL;
    bool weight_only = false;
    for (int i = QUANT_NONE + 1; i < QUANT_FORMATS; i++) {
        const struct quant_format_info *t = quant_format((enum quant_format)i);
        if (!strcmp(t->algo, algo)) f = t;
        if (t->algo_weight_only && !strcmp(t->algo_weight_only, algo)) {
            f = t;
            weight_only = true;
        }
    }
    if (!f) return NULL;
    json_t *x = json_pack("{s:b, s:i, s:s}", "dynamic", 0, "num_bits", f->bits, "type", f->number);
    if (f->block) json_object_set_new(x, "group_size", json_integer(f->block));
    json_t *w = json_deep_copy(x);
    if (f->strategy && !weight_only) json_object_set_new(w, "strategy", json_string(f->strategy));
    json_t *g =
        weight_only ? json_pack("{s:O}", "weights", w) : json_pack("{s:O, s:O}", "input_activations", x, "weights", w);
    json_decref(x);
    json_decref(w);
    return g;
}

static bool spelled_out(const char *algo) {
    for (int i = QUANT_NONE + 1; i < QUANT_FORMATS; i++) {
        const struct quant_format_info *t = quant_format((enum quant_format)i);
        if (t->groups && (!strcmp(t->algo, algo) || (t->algo_weight_only && !strcmp(t->algo_weight_only, algo))))
            return true;
    }
    return false;
}

/* The layers of the same configuration as `like`, sorted by name. */
static enum status group_targets(const json_t *layers, const json_t *like, json_t **out) {
    const char **texts, *key;
    json_t *value;
    size_t n = 0;
    TM_TRY(mem_alloc(&texts, json_object_size(layers), sizeof *texts));
    json_object_foreach((json_t *)layers, key, value) if (json_equal(value, like)) texts[n++] = key;
    enum status st = sorted_array(texts, n, out);
    mem_free(&texts);
    return st;
}

/* Of MIXED_PRECISION: a group for each distinct configuration, in the order of their first layers. */
static enum status mixed_groups(const json_t *layers, json_t *groups) {
    json_t *seen = json_array(), *value, *targets = NULL;
    const char *key;
    enum status st = TM_OK;
    json_object_foreach((json_t *)layers, key, value) {
        char name[24];
        bool known = false;
        for (size_t i = 0; i < json_array_size(seen); i++) known = known || json_equal(json_array_get(seen, i), value);
        if (known) continue;
        if ((st = group_targets(layers, value, &targets)) != TM_OK) break;
        json_t *g = group_config(json_string_value(json_object_get(value, "quant_algo")));
        snprintf(name, sizeof name, "group_%zu", json_array_size(seen));
        int rc = json_object_set_new(g, "targets", targets);
        rc |= json_object_set_new(groups, name, g);
        rc |= json_array_append(seen, value);
        if (rc) {
            st = TM_FAIL(TM_ERR_MEMORY, "JSON of config_groups");
            break;
        }
    }
    json_decref(seen);
    return st;
}

static enum status config_groups(const char *algo, const json_t *layers, json_t *config) {
    if (layers) {
        json_t *groups = json_object();
        int rc = json_object_set_new(config, "config_groups", groups); /* the config owns it now */
        if (!rc) TM_TRY(mixed_groups(layers, groups));
        rc |= json_object_set(config, "quantized_layers", (json_t *)layers);
        return rc ? TM_FAIL(TM_ERR_MEMORY, "JSON of config_groups") : TM_OK;
    }
    if (!algo || !spelled_out(algo)) return TM_OK;
    json_t *g = group_config(algo);
    int rc = json_object_set_new(g, "targets", json_pack("[s]", "Linear"));
    rc |= json_object_set_new(config, "config_groups", json_pack("{s:o}", "group_0", g));
    return rc ? TM_FAIL(TM_ERR_MEMORY, "JSON of config_groups") : TM_OK;
}

enum status quant_config_hf(const json_t *hf_quant, json_t **out) {
    json_t *q = json_object_get(hf_quant, "quantization"), *exclude_list = json_object_get(q, "exclude_modules"),
           *c = json_object();
    const char *algo = json_string_value(json_object_get(q, "quant_algo"));
    const char *kv = json_string_value(json_object_get(q, "kv_cache_quant_algo"));
    *out = NULL;
    enum status st = config_groups(algo, json_object_get(q, "quantized_layers"), c);
    int rc = exclude_list ? json_object_set(c, "ignore", exclude_list) : json_object_set_new(c, "ignore", json_array());
    if (algo) rc |= json_object_set(c, "quant_algo", json_object_get(q, "quant_algo"));
    if (kv)
        rc |= json_object_set_new(c, "kv_cache_scheme",
                                  strcmp(kv, "FP8")
                                      ? json_string(kv)
                                      : json_pack("{s:b, s:i, s:s}", "dynamic", 0, "num_bits", 8, "type", "float"));
    rc |= json_object_set(c, "producer", json_object_get(hf_quant, "producer"));
    rc |= json_object_set_new(c, "quant_method", json_string("modelopt"));
    if (st == TM_OK && rc) st = TM_FAIL(TM_ERR_MEMORY, "JSON of quantization_config");
    if (st == TM_OK)
        *out = c;
    else
        json_decref(c);
    return st;
}
