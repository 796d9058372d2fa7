/* tokenizer.json and the files beside it, out of a GGUF file's vocabulary. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "hub/gguf_impl.h"
#include "hub/pretty.h"

static const struct gguf_pre {
    const char *name, *pattern;
    bool digits, nfc, ignore_merges, bos;
} pres[] = {
#define PRE(name, pattern, digits, nfc, whole, bos) {name, pattern, digits, nfc, whole, bos},
#include "hub/gguf_pre.def"
#undef PRE
};
enum { PRES = sizeof pres / sizeof *pres };

static enum status no_memory(void) { return TM_FAIL(TM_ERR_MEMORY, "out of memory"); }

/* --- reading --------------------------------------------------------------------------------------------------------------- */

static enum status find_pre(struct gguf_vocabulary *v) {
    const char *name;
    struct str known = {0};
    TM_TRY(hub_gguf_get_text(v->m->g, "tokenizer.ggml.pre", "", &name));
    for (int i = 0; i < PRES; i++) {
        if (!strcmp(pres[i].name, name)) v->pre = &pres[i];
        TM_TRY(str_printf(&known, "%s%s", i ? ", " : "", pres[i].name));
    }
    enum status st =
        v->pre ? TM_OK
               : TM_FAIL(TM_ERR_UNSUPPORTED, "%s: tokenizer.ggml.pre = \"%s\" is not supported; supported: %s", v->path,
                         name, known.p);
    str_free(&known);
    return st;
}

static enum status read_vocabulary(struct gguf_vocabulary *v) {
    const struct hub_gguf *g = v->m->g;
    const char *model;
    int64_t n;
    TM_TRY(hub_gguf_get_text(g, "tokenizer.ggml.model", "", &model));
    if (strcmp(model, "gpt2") && strcmp(model, "llama"))
        return TM_FAIL(
            TM_ERR_UNSUPPORTED,
            "%s: tokenizer \"%s\" is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)",
            v->path, model);
    if (!strcmp(model, "gpt2")) TM_TRY(find_pre(v));
    TM_TRY(hub_gguf_get_texts(g, "tokenizer.ggml.tokens", &v->tokens));
    if (v->tokens.n < 1 || v->tokens.n > v->m->vocab)
        return TM_FAIL(TM_ERR_FORMAT, "%s: tokenizer.ggml.tokens has %lld tokens, the embedding %lld rows", v->path,
                       (long long)v->tokens.n, (long long)v->m->vocab);
    TM_TRY(hub_gguf_get_numbers(g, "tokenizer.ggml.token_type", &v->types, &n));
    if (n != v->tokens.n && n != 0)
        return TM_FAIL(TM_ERR_FORMAT, "%s: tokenizer.ggml.token_type has %lld entries for %lld tokens", v->path,
                       (long long)n, (long long)v->tokens.n);
    if (n == 0) mem_free(&v->types);
    return TM_OK;
}

/* --- tokenizer.json -------------------------------------------------------------------------------------------------------- */

/* {token: id}; unused ids are left out. */
static enum status make_vocab(const struct gguf_vocabulary *v, json_t **out) {
    json_t *j = *out = json_object();
    for (int64_t i = 0; i < v->tokens.n; i++) {
        const char *token = v->tokens.at[i];
        if (gguf_token_type(v, i) == GGUF_UNUSED) continue;
        if (json_object_get(j, token))
            return TM_FAIL(TM_ERR_FORMAT, "%s: two tokens are \"%s\", one of them number %lld", v->path, token,
                           (long long)i);
        if (json_object_set_new(j, token, json_integer(i)))
            return TM_FAIL(TM_ERR_FORMAT, "%s: token %lld is not UTF-8", v->path, (long long)i);
    }
    return TM_OK;
}

/* Control tokens are special: they are never made of text and are left out of what is shown. */
static enum status make_added(const struct gguf_vocabulary *v, json_t **out) {
    *out = json_array();
    for (int64_t i = 0; i < v->tokens.n; i++) {
        int type = gguf_token_type(v, i);
        if (type != GGUF_CONTROL && type != GGUF_USER_DEFINED && type != GGUF_UNKNOWN) continue;
        json_t *j = json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content", v->tokens.at[i],
                              "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                              type != GGUF_USER_DEFINED);
        if (json_array_append_new(*out, j)) return no_memory();
    }
    return TM_OK;
}

/* [["a", "b"], ...] from "a b": tokens have no blanks, a leading one would be a token of its own. */
static enum status make_merges(const struct gguf_vocabulary *v, json_t **out) {
    struct hub_gguf_texts merges;
    enum status st = hub_gguf_get_texts(v->m->g, "tokenizer.ggml.merges", &merges);
    *out = json_array();
    for (int64_t i = 0; i < merges.n && st == TM_OK; i++) {
        const char *text = merges.at[i], *blank = *text ? strchr(text + 1, ' ') : NULL;
        if (!blank || !blank[1])
            st = TM_FAIL(TM_ERR_FORMAT, "%s: merge %lld is \"%s\": expected two tokens", v->path, (long long)i, text);
        else if (json_array_append_new(*out, json_pack("[s%, s]", text, (size_t)(blank - text), blank + 1)))
            st = TM_FAIL(TM_ERR_FORMAT, "%s: merge %lld is not UTF-8", v->path, (long long)i);
    }
    hub_gguf_texts_free(&merges);
    return st;
}

static json_t *byte_level(bool prefix, bool trim, bool regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix, "trim_offsets", trim,
                     "use_regex", regex);
}

static json_t *pre_tokenizer(const struct gguf_pre *p) {
    json_t *first = NULL;
    if (p->digits) first = json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    if (p->pattern)
        first = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", p->pattern, "behavior",
                          "Isolated", "invert", 0);
    json_t *last = byte_level(false, true, !p->pattern);
    return first ? json_pack("{s:s, s:[o, o]}", "type", "Sequence", "pretokenizers", first, last) : last;
}

/* What add_bos_token and add_eos_token put around a text; NULL: nothing. */
struct ends {
    const char *token[2];
    int64_t id[2];
};

static enum status read_ends(const struct gguf_vocabulary *v, struct ends *out) {
    static const char *const keys[] = {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"};
    static const char *const what[] = {"bos", "eos"};
    for (int k = 0; k < 2; k++) {
        bool add;
        out->token[k] = NULL;
        TM_TRY(hub_gguf_get_bool(v->m->g, keys[k], k == 0 && (!v->pre || v->pre->bos), &add));
        TM_TRY(gguf_token_id(v->m, what[k], &out->id[k]));
        if (add && out->id[k] >= 0 && out->id[k] < v->tokens.n) out->token[k] = v->tokens.at[out->id[k]];
    }
    return TM_OK;
}

static json_t *template(const struct ends *e, int sequences) {
    json_t *list = json_array();
    for (int i = 0; i < sequences; i++)
        for (int k = 0; k < 3; k++) {
            const char *token = k == 1 ? i ? "B" : "A" : e->token[k / 2];
            if (token)
                json_array_append_new(list, json_pack("{s:{s:s, s:i}}", k == 1 ? "Sequence" : "SpecialToken", "id",
                                                      token, "type_id", i));
        }
    return list;
}

static enum status post_processor(const struct gguf_vocabulary *v, json_t **out) {
    struct ends e;
    json_t *table = json_object();
    enum status st = read_ends(v, &e);
    for (int k = 0; k < 2 && st == TM_OK; k++)
        if (e.token[k])
            json_object_set_new(table, e.token[k],
                                json_pack("{s:s, s:[I], s:[s]}", "id", e.token[k], "ids", (json_int_t)e.id[k], "tokens",
                                          e.token[k]));
    *out = NULL;
    if (st == TM_OK && (e.token[0] || e.token[1]))
        *out = json_pack("{s:s, s:o, s:o, s:O}", "type", "TemplateProcessing", "single", template(&e, 1), "pair",
                         template(&e, 2), "special_tokens", table);
    else if (st == TM_OK)
        *out = json_null();
    json_decref(table);
    return st == TM_OK && !*out ? no_memory() : st;
}

/* The stages that are not the same for both kinds of BPE. */
static enum status make_stages(const struct gguf_vocabulary *v, json_t *root) {
    bool prefix;
    int rc;
    TM_TRY(hub_gguf_get_bool(v->m->g, "tokenizer.ggml.add_space_prefix", true, &prefix));
    if (v->pre) {
        rc = json_object_set_new(root, "normalizer", v->pre->nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
        rc |= json_object_set_new(root, "pre_tokenizer", pre_tokenizer(v->pre));
        rc |= json_object_set_new(root, "decoder", byte_level(true, true, true));
    } else {
        rc = json_object_set_new(root, "normalizer", gguf_spm_normalizer(prefix));
        rc |= json_object_set_new(root, "pre_tokenizer", json_null());
        rc |= json_object_set_new(root, "decoder", gguf_spm_decoder(prefix));
    }
    return rc ? no_memory() : TM_OK;
}

static enum status make_model(const struct gguf_vocabulary *v, json_t **out) {
    json_t *vocab = NULL, *merges = NULL;
    int64_t unknown;
    const char *unk = NULL;
    *out = NULL;
    enum status st = gguf_token_id(v->m, "unknown", &unknown);
    if (!v->pre) unk = v->tokens.at[unknown >= 0 && unknown < v->tokens.n ? unknown : 0];
    if (st == TM_OK) st = make_vocab(v, &vocab);
    if (st == TM_OK) st = v->pre ? make_merges(v, &merges) : gguf_spm_merges(v, vocab, &merges);
    if (st == TM_OK) {
        *out = json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE", "dropout", "unk_token",
                         unk, "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", !v->pre, "byte_fallback",
                         !v->pre, "ignore_merges", v->pre && v->pre->ignore_merges, "vocab", vocab, "merges", merges);
        if (!*out) st = no_memory();
    }
    json_decref(vocab);
    json_decref(merges);
    return st;
}

/* Members in the order in which Hugging Face writes them. */
static enum status make_tokenizer(const struct gguf_vocabulary *v, json_t **out) {
    json_t *added = NULL, *post = NULL, *model = NULL;
    *out = json_pack("{s:s, s:n, s:n, s:n, s:n, s:n, s:n, s:n, s:n}", "version", "1.0", "truncation", "padding",
                     "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model");
    enum status st = *out ? make_added(v, &added) : no_memory();
    if (st == TM_OK) st = post_processor(v, &post);
    if (st == TM_OK) st = make_model(v, &model);
    if (st == TM_OK) st = make_stages(v, *out);
    if (st == TM_OK && (json_object_set(*out, "added_tokens", added) || json_object_set(*out, "post_processor", post) ||
                        json_object_set(*out, "model", model)))
        st = no_memory();
    json_decref(added);
    json_decref(post);
    json_decref(model);
    return st;
}

/* --- the files beside it --------------------------------------------------------------------------------------------------- */

/* {"bos_token": ...}: the tokens that have a role. */
static enum status make_roles(const struct gguf_vocabulary *v, json_t **out) {
    static const char *const roles[][2] = {{"bos", "bos_token"},
                                           {"eos", "eos_token"},
                                           {"unknown", "unk_token"},
                                           {"padding", "pad_token"}};
    *out = json_object();
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        int64_t id;
        TM_TRY(gguf_token_id(v->m, roles[i][0], &id));
        if (id < 0 || id >= v->tokens.n) continue;
        if (json_object_set_new(*out, roles[i][1], json_string(v->tokens.at[id]))) return no_memory();
    }
    return TM_OK;
}

static enum status make_tokenizer_config(const struct gguf_vocabulary *v, json_t *roles, json_t **out) {
    const char *template;
    TM_TRY(hub_gguf_get_text(v->m->g, "tokenizer.chat_template", NULL, &template));
    *out = json_pack("{s:s}", "tokenizer_class", "PreTrainedTokenizerFast");
    int rc = json_object_update(*out, roles);
    rc |= json_object_set_new(*out, "clean_up_tokenization_spaces", json_false());
    rc |= json_object_set_new(*out, "model_max_length", json_integer(v->m->context));
    if (rc) return no_memory();
    if (template && json_object_set_new(*out, "chat_template", json_string(template)))
        return TM_FAIL(TM_ERR_FORMAT, "%s: tokenizer.chat_template is not UTF-8", v->path);
    return TM_OK;
}

static enum status write(const char *dir, const char *name, json_t *j) {
    char path[4096];
    TM_TRY(str_path(path, sizeof path, dir, name));
    return hub_write_json(path, j, 2);
}

static enum status write_all_three(const struct gguf_vocabulary *v, const char *dir) {
    json_t *tokenizer = NULL, *roles = NULL, *config = NULL;
    enum status st = make_tokenizer(v, &tokenizer);
    if (st == TM_OK) st = make_roles(v, &roles);
    if (st == TM_OK) st = make_tokenizer_config(v, roles, &config);
    if (st == TM_OK) st = write(dir, "tokenizer.json", tokenizer);
    if (st == TM_OK) st = write(dir, "tokenizer_config.json", config);
    if (st == TM_OK) st = write(dir, "special_tokens_map.json", roles);
    json_decref(tokenizer);
    json_decref(roles);
    json_decref(config);
    return st;
}

enum status hub_gguf_write_tokenizer(const struct hub_gguf_hf *m, const char *dir) {
    struct gguf_vocabulary v = {.m = m, .path = hub_gguf_path(m->g)};
    enum status st = read_vocabulary(&v);
    if (st == TM_OK) st = write_all_three(&v, dir);
    hub_gguf_texts_free(&v.tokens);
    mem_free(&v.types);
    return st;
}
