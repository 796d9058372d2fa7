/* Reading a tokenizer.json into tables: the vocabulary, the added tokens, and each stage by the readers of kinds.def. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "tok/tok_impl.h"

enum { MAX_FILE = 1 << 28, MAX_NESTING = 8 };

static const struct kind {
    enum tok_stage stage;
    const char *type;
    tok_read_fn *read;
} kinds[] = {
#define KIND(stage, type, read) {TOK_##stage, #type, read},
#include "tok/kinds.def"
#undef KIND
};

/* Where a stage lies in the file, and where a Sequence of it keeps its members. */
static const struct {
    const char *key, *members;
} stages[] = {[TOK_NORMALIZER] = {"normalizer", "normalizers"},
              [TOK_PRE_TOKENIZER] = {"pre_tokenizer", "pretokenizers"},
              [TOK_MODEL] = {"model", NULL},
              [TOK_POST_PROCESSOR] = {"post_processor", "processors"},
              [TOK_DECODER] = {"decoder", "decoders"}};

/* --- vocabulary -----------------------------------------------------------------------------------------------------------*/

enum status tok_vocab_add(struct tok_tables *t, const char *where, const char *spelling, size_t n, int32_t id) {
    int32_t known = tok_map_get(&t->vocab, spelling, n);
    if (known >= 0)
        return TM_FAIL(TM_ERR_FORMAT, "%s: tokens %d and %d are both \"%.*s\"", where, (int)known, (int)id, (int)n,
                       spelling);
    return tok_map_add(&t->vocab, spelling, n, id);
}

enum status tok_read_vocab_object(const json_t *model, const char *where, struct tok_tables *t) {
    const json_t *vocab = json_object_get(model, "vocab");
    const char *content;
    json_t *node;
    if (!json_is_object(vocab)) return TM_FAIL(TM_ERR_FORMAT, "%s: model.vocab is not an object", where);
    json_object_foreach((json_t *)vocab, content, node) {
        int64_t id = json_is_integer(node) ? json_integer_value(node) : -1;
        if (id < 0 || id > TOK_MAX_ID)
            return TM_FAIL(TM_ERR_FORMAT, "%s: model.vocab[\"%s\"] is not an id from 0 to %d", where, content,
                           TOK_MAX_ID);
        TM_TRY(tok_vocab_add(t, where, content, strlen(content), (int32_t)id));
    }
    return TM_OK;
}

static enum status add_token(struct tok_tables *t, const char *spelling, size_t n, int32_t id) {
    struct tok_token *token = &t->tokens[id];
    bool all_bytes;
    token->used = true;
    token->offset = t->spelling.len;
    token->n = (uint32_t)n;
    TM_TRY(str_append(&t->spelling, spelling, n));
    token->bytes_offset = t->bytes.len;
    TM_TRY(t->byte_level ? tok_unspell(spelling, n, &t->bytes, &all_bytes) : str_append(&t->bytes, spelling, n));
    token->nbytes = (uint32_t)(t->bytes.len - token->bytes_offset);
    return TM_OK;
}

enum status tok_tables_fill(struct tok_tables *t, const char *where) {
    t->size = t->pieces.n;
    for (size_t i = 0; i < t->vocab.nkeys; i++)
        if (t->vocab.keys[i].value >= t->size) t->size = t->vocab.keys[i].value + 1;
    for (size_t i = 0; i < t->added.n; i++)
        if (t->added.p[i].id >= t->size) t->size = t->added.p[i].id + 1;
    if (t->size == 0) return TM_FAIL(TM_ERR_FORMAT, "%s: the vocabulary is empty", where);
    TM_TRY(mem_alloc(&t->tokens, (size_t)t->size, sizeof *t->tokens));
    for (size_t i = 0; i < t->vocab.nkeys; i++) {
        const struct tok_key *k = &t->vocab.keys[i];
        const char *spelling = t->vocab.pool.p + k->offset;
        if (t->tokens[k->value].used)
            return TM_FAIL(TM_ERR_FORMAT, "%s: two tokens have id %d, one of them \"%.*s\"", where, (int)k->value,
                           (int)k->n, spelling);
        TM_TRY(add_token(t, spelling, k->n, k->value));
    }
    for (size_t i = 0; i < t->added.n; i++) {
        const struct tok_added *a = &t->added.p[i];
        struct tok_token *token = &t->tokens[a->id];
        int32_t known = tok_map_get(&t->vocab, a->content, a->n);
        if (known >= 0 ? known != a->id : token->used)
            return TM_FAIL(TM_ERR_FORMAT, "%s: added token \"%s\" has id %d: expected %s", where, a->content,
                           (int)a->id, known >= 0 ? "the vocabulary's own" : "one that is free");
        if (!token->used) TM_TRY(add_token(t, a->content, a->n, a->id));
        token->special = a->special;
    }
    return TM_OK;
}

int32_t tok_tables_id_of(const struct tok_tables *t, const char *content, size_t n) {
    int32_t id = tok_map_get(&t->vocab, content, n);
    for (size_t i = 0; i < t->added.n && id < 0; i++) {
        const struct tok_token *token = &t->tokens[t->added.p[i].id];
        if (token->n == n && !memcmp(t->spelling.p + token->offset, content, n)) id = t->added.p[i].id;
    }
    return id;
}

/* Tokens that are matched in normalized text are normalized themselves. */
static enum status normalize_added(struct tok_tables *t) {
    struct tok_work w = {0};
    enum status st = tok_work_init(&w);
    for (size_t i = 0; i < t->added.n && t->nnorms && st == TM_OK; i++) {
        struct tok_added *a = &t->added.p[i];
        struct tok_view v = {.p = a->content, .n = a->n};
        if (!a->normalized || !a->n) continue;
        st = tok_normalize(t, &w, v, false, &v);
        char *content = NULL;
        if (st == TM_OK) st = mem_alloc(&content, v.n + 1, 1);
        if (st != TM_OK) break;
        memcpy(content, v.p, v.n);
        mem_free(&a->content);
        a->content = content;
        a->n = v.n;
    }
    tok_work_free(&w);
    return st;
}

/* --- stages ---------------------------------------------------------------------------------------------------------------*/

static enum status unknown_kind(enum tok_stage stage, const char *type, const char *where) {
    char list[512] = "";
    size_t n = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].stage == stage && n < sizeof list)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", kinds[i].type);
    return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: %s %s: expected one of %s%s", where, stages[stage].key, type, list,
                   stages[stage].members ? " or a Sequence of them" : "");
}

static enum status read_stage(struct tok_tables *t, enum tok_stage stage, const json_t *node, const char *where,
                              int nesting) {
    const char *type, *members = stages[stage].members;
    if (!node || json_is_null(node)) return TM_OK;
    TM_TRY(json_get_str(node, "type", where, "without a type", &type));
    if (stage == TOK_PRE_TOKENIZER && t->byte_level)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: pre_tokenizer %s behind ByteLevel: ByteLevel must come last", where,
                       type);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].stage == stage && !strcmp(kinds[i].type, type)) return kinds[i].read(node, where, t);
    if (!members || strcmp(type, "Sequence") != 0) return unknown_kind(stage, type, where);
    const json_t *list = json_object_get(node, members);
    if (!json_is_array(list) || nesting == MAX_NESTING)
        return TM_FAIL(TM_ERR_FORMAT,
                       "%s: %s: a Sequence without a list of %s, or more than %d of them inside each other", where,
                       stages[stage].key, members, MAX_NESTING);
    for (size_t i = 0; i < json_array_size(list); i++)
        TM_TRY(read_stage(t, stage, json_array_get(list, i), where, nesting + 1));
    return TM_OK;
}

/* Files of before 2020 do not name the model's type. */
static enum status read_model(struct tok_tables *t, const json_t *model, const char *where) {
    const json_t *vocab = json_object_get(model, "vocab");
    if (json_object_get(model, "type")) return read_stage(t, TOK_MODEL, model, where, 0);
    if (json_object_get(model, "merges")) return tok_read_bpe(model, where, t);
    if (json_is_array(vocab)) return tok_read_unigram(model, where, t);
    if (json_object_get(model, "continuing_subword_prefix")) return tok_read_wordpiece(model, where, t);
    return unknown_kind(TOK_MODEL, "without a type", where);
}

static enum status read_json(struct tok_tables *t, const json_t *root, const char *where) {
    if (!json_is_object(root)) return TM_FAIL(TM_ERR_FORMAT, "%s: not an object", where);
    TM_TRY(read_stage(t, TOK_NORMALIZER, json_object_get(root, "normalizer"), where, 0));
    TM_TRY(read_stage(t, TOK_PRE_TOKENIZER, json_object_get(root, "pre_tokenizer"), where, 0));
    TM_TRY(read_model(t, json_object_get(root, "model"), where));
    TM_TRY(tok_added_read(json_object_get(root, "added_tokens"), where, &t->added));
    TM_TRY(tok_tables_fill(t, where));
    TM_TRY(normalize_added(t));
    TM_TRY(tok_added_index(&t->added));
    TM_TRY(read_stage(t, TOK_POST_PROCESSOR, json_object_get(root, "post_processor"), where, 0));
    return read_stage(t, TOK_DECODER, json_object_get(root, "decoder"), where, 0);
}

/* --- the ends of a text -----------------------------------------------------------------------------------------------------*/

/* The id of root[key], a token's name or an object with "content"; `absent` when there is none. */
static int32_t named_token(const struct tok_tables *t, const json_t *root, const char *key, int32_t absent) {
    const json_t *node = json_object_get(root, key);
    if (json_is_object(node)) node = json_object_get(node, "content");
    const char *name = json_string_value(node);
    int32_t id = name ? tok_tables_id_of(t, name, strlen(name)) : -1;
    return id >= 0 ? id : absent;
}

/* Without a tokenizer_config.json: the template's first token, and the usual names. */
static void guess_ends(struct tok_tables *t) {
    static const char *const usual[] = {"<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>"};
    t->bos = t->single.n && t->single.p[0].id >= 0 ? t->single.p[0].id : -1;
    t->eos = -1;
    for (size_t i = 0; i < sizeof usual / sizeof *usual && t->eos < 0; i++) {
        int32_t id = tok_tables_id_of(t, usual[i], strlen(usual[i]));
        for (size_t k = 0; k < t->added.n; k++)
            if (t->added.p[k].id == id) t->eos = id;
    }
}

static enum status add_end(struct tok_template *s, int32_t id) {
    TM_TRY(mem_grow(&s->p, &s->cap, s->n + 1, sizeof *s->p));
    s->p[s->n++] = (struct tok_part){.id = id};
    return TM_OK;
}

/* A SentencePiece model does not say whether its users add bos and eos; tokenizer_config.json does, else Llama's and T5's ways hold. */
static enum status add_ends(struct tok_tables *t, const json_t *config, const char *where) {
    const char *class;
    bool bos, eos;
    TM_TRY(json_get_str(config, "tokenizer_class", where, "", &class));
    TM_TRY(json_get_bool(config, "add_bos_token", where, !strncmp(class, "Llama", 5), &bos));
    TM_TRY(json_get_bool(config, "add_eos_token", where, strstr(class, "T5") != NULL, &eos));
    if (bos && t->bos >= 0) TM_TRY(add_end(&t->single, t->bos));
    TM_TRY(add_end(&t->single, -1));
    return eos && t->eos >= 0 ? add_end(&t->single, t->eos) : TM_OK;
}

static enum status read_ends(struct tok_tables *t, const char *where) {
    char config[4096];
    json_t *root = NULL;
    const char *slash = strrchr(where, '/');
    if (!t->pieces.n) guess_ends(t);
    int n = snprintf(config, sizeof config, "%.*stokenizer_config.json", slash ? (int)(slash - where + 1) : 0, where);
    if (n >= (int)sizeof config || !file_exists(config)) return TM_OK;
    TM_TRY(json_read_file(config, MAX_FILE, &root));
    t->bos = named_token(t, root, "bos_token", t->bos);
    t->eos = named_token(t, root, "eos_token", t->eos);
    enum status st = t->pieces.n ? add_ends(t, root, config) : TM_OK;
    json_decref(root);
    return st;
}

/* --- files --------------------------------------------------------------------------------------------------------------------*/

static bool is_sentencepiece(const char *file) {
    size_t n = strlen(file);
    return n > 6 && !strcmp(file + n - 6, ".model");
}

static enum status read_file(struct tok_tables *t, const char *file) {
    json_t *root;
    if (is_sentencepiece(file)) {
        TM_TRY(tok_spm_read(t, file));
    } else {
        TM_TRY(json_read_file(file, MAX_FILE, &root));
        enum status st = read_json(t, root, file);
        json_decref(root);
        TM_TRY(st);
    }
    return read_ends(t, file);
}

enum status tok_tables_read(const char *path, struct tok_tables **out) {
    char file[4096], model[4096];
    *out = NULL;
    if (file_is_dir(path)) {
        TM_TRY(str_path(file, sizeof file, path, "tokenizer.json"));
        TM_TRY(str_path(model, sizeof model, path, "tokenizer.model"));
        if (!file_exists(file) && file_exists(model)) TM_TRY(str_copy(file, sizeof file, model));
    } else {
        TM_TRY(str_copy(file, sizeof file, path));
    }
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    enum status st = read_file(*out, file);
    if (st != TM_OK) tok_tables_free(out);
    return st;
}

void tok_tables_free(struct tok_tables **handle) {
    struct tok_tables *t = *handle;
    tok_map_free(&t->vocab);
    mem_free(&t->tokens);
    str_free(&t->spelling);
    str_free(&t->bytes);
    tok_added_free(&t->added);
    for (size_t i = 0; i < t->nnorms; i++) tok_norm_free(&t->norms[i]);
    for (size_t i = 0; i < t->nsteps; i++) tok_pattern_free(&t->steps[i].pattern);
    for (size_t i = 0; i < t->ndecoders; i++) tok_decoder_free(&t->decoders[i]);
    mem_free(&t->norms);
    mem_free(&t->steps);
    mem_free(&t->decoders);
    tok_bpe_free(&t->bpe);
    tok_unigram_free(&t->unigram);
    tok_wordpiece_free(&t->wordpiece);
    mem_free(&t->pieces.score);
    mem_free(&t->pieces.type);
    mem_free(&t->pieces.unk_surface);
    tok_trie_free(&t->pieces.user);
    mem_free(&t->single.p);
    mem_free(&t->pair.p);
    mem_free(handle);
}
