/* hf_quant_config.json and config.json's quantization_config. */
#include "quant/config.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

static const struct quant_algo *algorithm(const struct quant_linear *l) { return quant_algo(l->weight, l->input); }

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

/* {"quant_algo": .., ["group_size": ..], ["has_zero_point": false, "pre_quant_scale": true]} of one linear. */
static json_t *layer_config(const struct quant_linear *l) {
    const struct quant_algo *a = algorithm(l);
    json_t *o = json_pack("{s:s}", "quant_algo", a->name);
    if (a->group_size) json_object_set_new(o, "group_size", json_integer(quant_format(l->weight)->block));
    if (a->awq) json_object_set_new(o, "has_zero_point", json_false());
    if (a->awq) json_object_set_new(o, "pre_quant_scale", json_true());
    return o;
}

/* Whether two quantized linears have the same configuration. */
static bool alike(const struct quant_linear *a, const struct quant_linear *b) {
    const struct quant_algo *x = algorithm(a), *y = algorithm(b);
    return !strcmp(x->name, y->name) &&
           (!x->group_size || quant_format(a->weight)->block == quant_format(b->weight)->block);
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
        mixed = mixed || (first && !alike(first, &l[i]));
        first = first ? first : &l[i];
    }
    const char *kv_algo = nkv ? quant_format(kv[0].k)->kv_algo : NULL;
    json_t *q =
        json_pack("{s:s?, s:s?}", "quant_algo", mixed ? "MIXED_PRECISION" : NULL, "kv_cache_quant_algo", kv_algo);
    int rc = q ? 0 : -1;
    if (first && !mixed) {
        json_t *layer = layer_config(first); /* its quant_algo takes the first place */
        rc |= json_object_update(q, layer);
        json_decref(layer);
    }
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

/* The algorithm that a configuration (of a layer, or of all) means; its block tells apart those of one name. NULL: none. */
static const struct quant_algo *meant(const json_t *config) {
    const char *name = json_string_value(json_object_get(config, "quant_algo"));
    json_int_t block = json_integer_value(json_object_get(config, "group_size"));
    const struct quant_algo *a;
    for (int i = 0; name && (a = quant_algo_at(i)); i++)
        if (!strcmp(a->name, name) && (!a->group_size || quant_format(a->weight)->block == block)) return a;
    return NULL;
}

static json_t *site_config(enum quant_format format, bool channel) {
    const struct quant_format_info *f = quant_format(format);
    json_t *o = json_pack("{s:b, s:i, s:s}", "dynamic", 0, "num_bits", f->bits, "type", f->number);
    if (f->axis == QUANT_BLOCK) json_object_set_new(o, "group_size", json_integer(f->block));
    if (f->axis == QUANT_ROW && channel) json_object_set_new(o, "strategy", json_string("channel"));
    return o;
}

/* What config_groups says of an algorithm: {"input_activations": {..}, "weights": {..}}; weight-only ones have no activations. */
static json_t *group_config(const struct quant_algo *a) {
    if (a->groups == QUANT_NEVER) return json_pack("{s:s}", "quant_algo", a->name);
    json_t *g = json_object();
    if (a->input != QUANT_NONE) json_object_set_new(g, "input_activations", site_config(a->input, false));
    json_object_set_new(g, "weights", site_config(a->weight, a->input != QUANT_NONE));
    return g;
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
        json_t *g = group_config(meant(value));
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

static enum status config_groups(const json_t *quantization, json_t *config) {
    const json_t *layers = json_object_get(quantization, "quantized_layers");
    if (layers) {
        json_t *groups = json_object();
        int rc = json_object_set_new(config, "config_groups", groups); /* the config owns it now */
        if (!rc) TM_TRY(mixed_groups(layers, groups));
        rc |= json_object_set(config, "quantized_layers", (json_t *)layers);
        return rc ? TM_FAIL(TM_ERR_MEMORY, "JSON of config_groups") : TM_OK;
    }
    const struct quant_algo *a = meant(quantization);
    if (!a || a->groups != QUANT_ALWAYS) return TM_OK;
    json_t *g = group_config(a);
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
    enum status st = config_groups(q, c);
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
