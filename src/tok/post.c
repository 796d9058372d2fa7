/* Post-processors: the special tokens around one text or between two, and spans without their blanks. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

static enum status add(struct tok_template *t, int32_t id, int64_t type) {
    TM_TRY(mem_grow(&t->p, &t->cap, t->n + 1, sizeof *t->p));
    t->p[t->n++] = (struct tok_part){.id = id, .type = (int32_t)type};
    return TM_OK;
}

static enum status refuse_second(const struct tok_tables *t, const char *where) {
    return t->single.n ? TM_FAIL(TM_ERR_UNSUPPORTED,
                                 "%s: post_processor: two of its parts put special tokens around the text", where)
                       : TM_OK;
}

/* --- TemplateProcessing ---------------------------------------------------------------------------------------------------*/

static enum status add_special(const json_t *special, const json_t *table, int64_t type, const char *where,
                               const struct tok_tables *t, struct tok_template *out) {
    const char *name;
    TM_TRY(json_get_str(special, "id", where, "", &name));
    const json_t *ids = json_object_get(json_object_get(table, name), "ids");
    if (!json_array_size(ids))
        return TM_FAIL(TM_ERR_FORMAT, "%s: post_processor: special token \"%s\" has no ids", where, name);
    for (size_t k = 0; k < json_array_size(ids); k++) {
        int64_t id = json_integer_value(json_array_get(ids, k));
        if (id < 0 || id >= t->size || !t->tokens[id].used)
            return TM_FAIL(TM_ERR_FORMAT, "%s: post_processor: special token \"%s\" has id %lld: not in the vocabulary",
                           where, name, (long long)id);
        TM_TRY(add(out, (int32_t)id, type));
    }
    return TM_OK;
}

/* [{"SpecialToken": {"id": NAME, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, ...], each text once. */
static enum status read_parts(const json_t *list, const json_t *table, int texts, const char *where,
                              const struct tok_tables *t, struct tok_template *out) {
    int seen[2] = {0, 0};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i), *special = json_object_get(item, "SpecialToken");
        const json_t *text = json_object_get(item, "Sequence");
        int64_t type;
        const char *name;
        TM_TRY(json_get_i64(special ? special : text, "type_id", where, 0, &type));
        if (special) {
            TM_TRY(add_special(special, table, type, where, t, out));
            continue;
        }
        TM_TRY(json_get_str(text, "id", where, "", &name));
        int k = !strcmp(name, "A") ? 0 : !strcmp(name, "B") && texts == 2 ? 1 : -1;
        if (k < 0 || seen[k]++)
            return TM_FAIL(
                TM_ERR_FORMAT,
                "%s: post_processor: part %zu is \"%s\": expected a special token or a text that is not there yet",
                where, i, name);
        TM_TRY(add(out, -1 - k, type));
    }
    if (list && (!seen[0] || (texts == 2 && !seen[1])))
        return TM_FAIL(TM_ERR_FORMAT, "%s: post_processor: a template for %d texts leaves one out", where, texts);
    return TM_OK;
}

enum status tok_read_template(const json_t *node, const char *where, struct tok_tables *t) {
    const json_t *table = json_object_get(node, "special_tokens"), *single = json_object_get(node, "single");
    TM_TRY(refuse_second(t, where));
    if (!json_is_array(single)) return TM_FAIL(TM_ERR_FORMAT, "%s: post_processor: single is not a list", where);
    TM_TRY(read_parts(single, table, 1, where, t, &t->single));
    return read_parts(json_object_get(node, "pair"), table, 2, where, t, &t->pair);
}

/* --- the others -------------------------------------------------------------------------------------------------------------*/

/* ["[SEP]", 3] */
static enum status read_end(const json_t *node, const char *key, const char *where, const struct tok_tables *t,
                            int32_t *id) {
    const json_t *value = json_array_get(json_object_get(node, key), 1);
    int64_t k = json_is_integer(value) ? json_integer_value(value) : -1;
    if (k < 0 || k >= t->size || !t->tokens[k].used)
        return TM_FAIL(TM_ERR_FORMAT, "%s: post_processor: %s is not a pair of a token and its id", where, key);
    *id = (int32_t)k;
    return TM_OK;
}

/* cls A sep; and cls A sep B sep (BERT, B of type 1), cls A sep sep B sep (RoBERTa, all of type 0). */
static enum status read_ends(const json_t *node, const char *where, bool bert, struct tok_tables *t) {
    int32_t cls = 0, sep = 0;
    TM_TRY(refuse_second(t, where));
    TM_TRY(read_end(node, "cls", where, t, &cls));
    TM_TRY(read_end(node, "sep", where, t, &sep));
    for (int texts = 1; texts <= 2; texts++) {
        struct tok_template *out = texts == 1 ? &t->single : &t->pair;
        TM_TRY(add(out, cls, 0));
        TM_TRY(add(out, -1, 0));
        TM_TRY(add(out, sep, 0));
        if (texts == 1) continue;
        if (!bert) TM_TRY(add(out, sep, 0));
        TM_TRY(add(out, -2, bert));
        TM_TRY(add(out, sep, bert));
    }
    return TM_OK;
}

enum status tok_read_bert_ends(const json_t *node, const char *where, struct tok_tables *t) {
    return read_ends(node, where, true, t);
}

enum status tok_read_trim(const json_t *node, const char *where, struct tok_tables *t) {
    TM_TRY(json_get_bool(node, "trim_offsets", where, true, &t->trim));
    return json_get_bool(node, "add_prefix_space", where, true, &t->trim_front);
}

enum status tok_read_roberta_ends(const json_t *node, const char *where, struct tok_tables *t) {
    TM_TRY(tok_read_trim(node, where, t));
    return read_ends(node, where, false, t);
}
