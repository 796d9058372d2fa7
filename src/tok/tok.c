/* The tokenizer handle: reads tokenizer.json, runs its stages over a text, and turns ids back into text. */
#include "tok/tok.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_impl.h"

/* Far above any vocabulary in use (262 k); bounds what a hostile id can make us allocate. */
enum { MAX_ID = 1 << 24, MAX_FILE = 1 << 28 };

struct token {
    size_t offset;
    uint32_t n;
    bool used, special;
};

struct tok {
    struct tok_map vocab; /* spelling -> id, added tokens included */
    struct token *tokens; /* [size], by id */
    int32_t size;
    struct str bytes; /* the tokens' bytes, one after the other */
    struct tok_added_list added;
    bool nfc;
    struct str normal; /* scratch: the normalized text */
    struct tok_split split;
    struct tok_bpe *model;
    struct tok_ids before, after; /* the template's special tokens */
    int32_t bos, eos;
};

/* --- encoding -----------------------------------------------------------------------------------------------------------*/

struct sink {
    struct tok *t;
    struct tok_ids *out;
};

static enum status word(void *ctx, const char *bytes, size_t n) {
    struct sink *s = ctx;
    return tok_bpe_word(s->t->model, bytes, n, s->out);
}

/* Cut the added tokens of one class out of the text, and pass on what lies between them. */
static enum status cut(struct sink *s, const char *text, size_t n, bool normalized);

static enum status between(struct sink *s, const char *text, size_t n, bool normalized) {
    struct tok *t = s->t;
    if (n == 0) return TM_OK;
    if (normalized) return tok_split_run(&t->split, text, n, word, s);
    if (!t->nfc) return cut(s, text, n, true);
    str_clear(&t->normal);
    TM_TRY(tok_nfc(text, n, &t->normal));
    return cut(s, t->normal.p, t->normal.len, true);
}

static enum status cut(struct sink *s, const char *text, size_t n, bool normalized) {
    size_t at = 0, begin, end;
    for (const struct tok_added *a; (a = tok_added_find(&s->t->added, text, n, at, normalized, &begin, &end));
         at = end) {
        TM_TRY(between(s, text + at, begin - at, normalized));
        TM_TRY(tok_ids_push(s->out, a->id));
    }
    return between(s, text + at, n - at, normalized);
}

enum status tok_encode(struct tok *t, const char *text, size_t n, unsigned flags, struct tok_ids *out) {
    size_t bad = tok_utf8_check(text, n);
    if (bad < n)
        return TM_FAIL(TM_ERR_DATA, "byte %zu (0x%02x) is not valid UTF-8", bad, (unsigned)(unsigned char)text[bad]);
    bool special = flags & TOK_ADD_SPECIAL;
    for (size_t i = 0; special && i < t->before.n; i++) TM_TRY(tok_ids_push(out, t->before.p[i]));
    TM_TRY(cut(&(struct sink){.t = t, .out = out}, text, n, false));
    for (size_t i = 0; special && i < t->after.n; i++) TM_TRY(tok_ids_push(out, t->after.p[i]));
    return TM_OK;
}

/* --- decoding and look-up -----------------------------------------------------------------------------------------------*/

bool tok_bytes(const struct tok *t, int32_t id, const char **bytes, size_t *n) {
    bool used = id >= 0 && id < t->size && t->tokens[id].used;
    *bytes = used ? t->bytes.p + t->tokens[id].offset : "";
    *n = used ? t->tokens[id].n : 0;
    return used;
}

enum status tok_decode(const struct tok *t, const int32_t *ids, size_t n, unsigned flags, struct str *out) {
    struct str raw = {0};
    enum status st = TM_OK;
    for (size_t i = 0; i < n && st == TM_OK; i++) {
        const char *bytes;
        size_t len;
        if (!tok_bytes(t, ids[i], &bytes, &len))
            st = TM_FAIL(TM_ERR_DATA, "token %zu has id %d: the vocabulary has no such token (size %d)", i, (int)ids[i],
                         (int)t->size);
        else if (!(flags & TOK_SKIP_SPECIAL) || !t->tokens[ids[i]].special)
            st = str_append(&raw, bytes, len);
    }
    if (st == TM_OK) st = tok_append_lossy(out, raw.p, raw.len);
    str_free(&raw);
    return st;
}

int32_t tok_vocab_size(const struct tok *t) { return t->size; }
int32_t tok_id_of(const struct tok *t, const char *content) { return tok_map_get(&t->vocab, content, strlen(content)); }
bool tok_is_special(const struct tok *t, int32_t id) { return id >= 0 && id < t->size && t->tokens[id].special; }
int32_t tok_eos(const struct tok *t) { return t->eos; }
int32_t tok_bos(const struct tok *t) { return t->bos; }

/* --- reading ------------------------------------------------------------------------------------------------------------*/

static enum status read_vocab(struct tok *t, const json_t *model, const char *where) {
    const json_t *vocab = json_object_get(model, "vocab");
    const char *content;
    json_t *node;
    if (!json_is_object(vocab)) return TM_FAIL(TM_ERR_FORMAT, "%s: model.vocab is not an object", where);
    json_object_foreach((json_t *)vocab, content, node) {
        int64_t id = json_is_integer(node) ? json_integer_value(node) : -1;
        if (id < 0 || id > MAX_ID)
            return TM_FAIL(TM_ERR_FORMAT, "%s: model.vocab[\"%s\"] is not an id from 0 to %d", where, content, MAX_ID);
        TM_TRY(tok_map_add(&t->vocab, content, strlen(content), (int32_t)id));
    }
    return TM_OK;
}

static enum status read_added(struct tok *t, const json_t *root, const char *where) {
    TM_TRY(tok_added_read(json_object_get(root, "added_tokens"), where, &t->added));
    for (size_t i = 0; i < t->added.n; i++) {
        struct tok_added *a = &t->added.p[i];
        int32_t known = tok_map_get(&t->vocab, a->content, a->n);
        if (a->id > MAX_ID || (known >= 0 && known != a->id))
            return TM_FAIL(TM_ERR_FORMAT, "%s: added token \"%s\" has id %d: expected %s %d", where, a->content,
                           (int)a->id, known >= 0 ? "the vocabulary's" : "at most", (int)(known >= 0 ? known : MAX_ID));
        if (known < 0) TM_TRY(tok_map_add(&t->vocab, a->content, a->n, a->id));
        if (!a->normalized || !t->nfc || !a->n) continue;
        struct str normal = {0};
        TM_TRY(tok_nfc(a->content, a->n, &normal));
        mem_free(&a->content);
        a->content = normal.p;
        a->n = normal.len;
    }
    return TM_OK;
}

/* From spellings to bytes by id. */
static enum status fill_tokens(struct tok *t, const char *where) {
    t->size = 0;
    for (size_t i = 0; i < t->vocab.nkeys; i++)
        if (t->vocab.keys[i].value >= t->size) t->size = t->vocab.keys[i].value + 1;
    if (t->size == 0) return TM_FAIL(TM_ERR_FORMAT, "%s: the vocabulary is empty", where);
    TM_TRY(mem_alloc(&t->tokens, (size_t)t->size, sizeof *t->tokens));
    for (size_t i = 0; i < t->vocab.nkeys; i++) {
        const struct tok_key *k = &t->vocab.keys[i];
        struct token *token = &t->tokens[k->value];
        bool all_bytes;
        if (token->used)
            return TM_FAIL(TM_ERR_FORMAT, "%s: two tokens have id %d, one of them \"%.*s\"", where, (int)k->value,
                           (int)k->n, t->vocab.pool.p + k->offset);
        token->used = true;
        token->offset = t->bytes.len;
        TM_TRY(tok_unspell(t->vocab.pool.p + k->offset, k->n, &t->bytes, &all_bytes));
        token->n = (uint32_t)(t->bytes.len - token->offset);
    }
    for (size_t i = 0; i < t->added.n; i++) t->tokens[t->added.p[i].id].special = t->added.p[i].special;
    return TM_OK;
}

/* {"single": [{"SpecialToken": {"id": NAME}}, {"Sequence": ...}, ...], "special_tokens": {NAME: {"ids": [...]}}} */
static enum status read_template(struct tok *t, const json_t *node, const char *where) {
    const json_t *single = json_object_get(node, "single"), *table = json_object_get(node, "special_tokens");
    bool behind = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        if (!special) {
            behind = true;
            continue;
        }
        const char *name;
        TM_TRY(json_get_str(special, "id", where, "", &name));
        const json_t *ids = json_object_get(json_object_get(table, name), "ids");
        if (!json_array_size(ids))
            return TM_FAIL(TM_ERR_FORMAT, "%s: post_processor: special token \"%s\" has no ids", where, name);
        for (size_t k = 0; k < json_array_size(ids); k++) {
            int64_t id = json_integer_value(json_array_get(ids, k));
            if (id < 0 || id >= t->size || !t->tokens[id].used)
                return TM_FAIL(TM_ERR_FORMAT,
                               "%s: post_processor: special token \"%s\" has id %lld: not in the vocabulary", where,
                               name, (long long)id);
            TM_TRY(tok_ids_push(behind ? &t->after : &t->before, (int32_t)id));
        }
    }
    return TM_OK;
}

static enum status read_post_processor(struct tok *t, const json_t *node, const char *where, int nesting) {
    const char *type;
    if (!node || json_is_null(node)) return TM_OK;
    TM_TRY(json_get_str(node, "type", where, "null", &type));
    if (!strcmp(type, "ByteLevel")) return TM_OK; /* it only moves offsets */
    if (!strcmp(type, "TemplateProcessing")) return read_template(t, node, where);
    const json_t *list = json_object_get(node, "processors");
    if (strcmp(type, "Sequence") != 0 || !json_is_array(list) || nesting == 4)
        return TM_FAIL(TM_ERR_UNSUPPORTED,
                       "%s: post_processor %s: ByteLevel, TemplateProcessing and sequences of them are supported",
                       where, type);
    for (size_t i = 0; i < json_array_size(list); i++)
        TM_TRY(read_post_processor(t, json_array_get(list, i), where, nesting + 1));
    return TM_OK;
}

/* A member that is null or one of two named types; which of them goes to *type ("null", a or b). */
static enum status read_type(const json_t *root, const char *key, const char *a, const char *b, const char *where,
                             const char **type) {
    *type = "null";
    const json_t *node = json_object_get(root, key);
    if (node && !json_is_null(node)) TM_TRY(json_get_str(node, "type", where, "?", type));
    if (strcmp(*type, a) != 0 && strcmp(*type, b) != 0)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: %s %s: %s%s%s is supported", where, key, *type, a, *b ? " or " : "", b);
    return TM_OK;
}

/* The id of root[key], a token's name or an object with "content"; `absent` when there is none. */
static int32_t named_token(const struct tok *t, const json_t *root, const char *key, int32_t absent) {
    const json_t *node = json_object_get(root, key);
    if (json_is_object(node)) node = json_object_get(node, "content");
    int32_t id = json_is_string(node) ? tok_id_of(t, json_string_value(node)) : -1;
    return id >= 0 ? id : absent;
}

/* tokenizer_config.json beside tokenizer.json names bos and eos; without it the usual names are tried. */
static enum status read_ends(struct tok *t, const char *where) {
    static const char *const usual[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>"};
    char config[4096];
    json_t *root = NULL;
    const char *slash = strrchr(where, '/');
    t->bos = t->before.n ? t->before.p[0] : -1;
    t->eos = -1;
    for (size_t i = 0; i < sizeof usual / sizeof *usual && t->eos < 0; i++) {
        int32_t id = tok_id_of(t, usual[i]);
        for (size_t k = 0; k < t->added.n; k++)
            if (t->added.p[k].id == id) t->eos = id;
    }
    int n = snprintf(config, sizeof config, "%.*stokenizer_config.json", slash ? (int)(slash - where + 1) : 0, where);
    if (n >= (int)sizeof config || !file_exists(config)) return TM_OK;
    TM_TRY(json_read_file(config, MAX_FILE, &root));
    t->bos = named_token(t, root, "bos_token", t->bos);
    t->eos = named_token(t, root, "eos_token", t->eos);
    json_decref(root);
    return TM_OK;
}

static enum status read_stages(struct tok *t, const json_t *root, const char *where) {
    const json_t *model = json_object_get(root, "model");
    const char *type, *normalizer, *decoder;
    TM_TRY(json_get_str(model, "type", where, json_object_get(model, "merges") ? "BPE" : "?", &type));
    if (strcmp(type, "BPE") != 0)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: model.type = \"%s\": byte-level BPE is supported", where, type);
    TM_TRY(read_type(root, "normalizer", "null", "NFC", where, &normalizer));
    TM_TRY(read_type(root, "decoder", "ByteLevel", "", where, &decoder));
    t->nfc = !strcmp(normalizer, "NFC");
    TM_TRY(read_vocab(t, model, where));
    TM_TRY(tok_split_read(json_object_get(root, "pre_tokenizer"), where, &t->split));
    TM_TRY(tok_bpe_read(model, where, &t->vocab, &t->model));
    TM_TRY(read_added(t, root, where));
    TM_TRY(fill_tokens(t, where));
    tok_added_index(&t->added);
    TM_TRY(read_post_processor(t, json_object_get(root, "post_processor"), where, 0));
    return read_ends(t, where);
}

enum status tok_open(const char *path, struct tok **out) {
    char file[4096];
    json_t *root;
    struct tok *t;
    *out = NULL;
    if (file_is_dir(path))
        TM_TRY(str_path(file, sizeof file, path, "tokenizer.json"));
    else
        TM_TRY(str_copy(file, sizeof file, path));
    TM_TRY(json_read_file(file, MAX_FILE, &root));
    enum status st = mem_alloc(&t, 1, sizeof *t);
    if (st == TM_OK) {
        st = read_stages(t, root, file);
        if (st == TM_OK)
            *out = t;
        else
            tok_close(&t);
    }
    json_decref(root);
    return st;
}

void tok_close(struct tok **handle) {
    struct tok *t = *handle;
    if (!t) return;
    tok_map_free(&t->vocab);
    mem_free(&t->tokens);
    str_free(&t->bytes);
    tok_added_free(&t->added);
    str_free(&t->normal);
    tok_split_free(&t->split);
    tok_bpe_free(&t->model);
    tok_ids_free(&t->before);
    tok_ids_free(&t->after);
    mem_free(handle);
}
