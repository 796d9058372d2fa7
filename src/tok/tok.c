/* The tokenizer handle: runs a tokenizer's stages over a text, and turns ids back into text. */
#include "tok/tok.h"

#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

struct tok {
    struct tok_tables *t;
    struct tok_work w;
};

/* --- encoding -----------------------------------------------------------------------------------------------------------*/

struct sink {
    const struct tok_tables *t;
    struct tok_work *w;
    struct tok_ids *ids;
    struct tok_spans *spans; /* NULL: not wanted */
};

static enum status word(void *ctx, struct tok_view v) {
    struct sink *s = ctx;
    size_t from = s->spans ? s->spans->n : 0;
    TM_TRY(s->t->model(s->t, s->w, v.p, v.n, s->ids, s->spans));
    for (size_t i = from; s->spans && i < s->spans->n; i++) /* from bytes of the word to bytes of the text */
        s->spans->p[i] = tok_view_span(v, s->spans->p[i].begin, s->spans->p[i].end);
    return TM_OK;
}

/* Cut the added tokens of one class out of the text, and pass on what lies between them. */
static enum status cut(struct sink *s, struct tok_view v, bool normalized);

static enum status between(struct sink *s, struct tok_view v, bool normalized) {
    if (v.n == 0) return TM_OK;
    if (normalized) return tok_split_run(s->t, s->w, v, word, s);
    TM_TRY(tok_normalize(s->t, s->w, v, s->w->align, &v));
    return cut(s, v, true);
}

static enum status cut(struct sink *s, struct tok_view v, bool normalized) {
    const struct tok_added *a;
    for (size_t at = 0, begin, end;; at = end) {
        TM_TRY(tok_added_find(&s->t->added, s->w, v.p, v.n, at, normalized, &a, &begin, &end));
        TM_TRY(between(s, tok_view_part(v, at, a ? begin : v.n), normalized));
        if (!a) return TM_OK;
        TM_TRY(tok_ids_push(s->ids, a->id));
        if (!s->spans) continue;
        struct tok_span span = tok_view_span(v, begin, end);
        TM_TRY(tok_spans_push(s->spans, span.begin, span.end));
    }
}

/* Take the blanks at a token's ends out of its span; one that the tokenizer put in front of the text is not there. */
static void trim_span(const struct tok_tables *t, const char *text, int32_t id, bool first, struct tok_span *span) {
    static const char blank[] = "\xc4\xa0"; /* U+0120, a blank's stand-in */
    const char *p = t->spelling.p + t->tokens[id].offset;
    size_t n = t->tokens[id].n, leading = 0, trailing = 0;
    while (n - 2 * leading >= 2 && !memcmp(p + 2 * leading, blank, 2)) leading++;
    while (n - 2 * trailing >= 2 && !memcmp(p + n - 2 * trailing - 2, blank, 2)) trailing++;
    if (leading && t->trim_front && (first || span->begin == 0)) leading--;
    for (; leading && span->begin < span->end; leading--) span->begin += tok_utf8_bytes(text[span->begin]);
    for (; trailing && span->end > span->begin; trailing--) {
        do span->end--;
        while (span->end > span->begin && ((unsigned char)text[span->end] & 0xc0) == 0x80);
    }
}

static enum status encode(struct tok *t, const char *text, size_t n, struct tok_ids *ids, struct tok_spans *spans) {
    const size_t from = ids->n;
    size_t bad = tok_utf8_check(text, n), first = spans ? spans->n : 0;
    if (bad < n)
        return TM_FAIL(TM_ERR_DATA, "byte %zu (0x%02x) is not valid UTF-8", bad, (unsigned)(unsigned char)text[bad]);
    t->w.align = spans;
    for (size_t i = 0; i < t->t->nsteps && t->t->nnorms; i++) /* where the text begins has to be known */
        t->w.align = t->w.align || t->t->steps[i].first;
    struct sink s = {.t = t->t, .w = &t->w, .ids = ids, .spans = spans};
    TM_TRY(cut(&s, (struct tok_view){.p = text, .n = n}, false));
    for (size_t i = first; spans && t->t->trim && i < spans->n; i++)
        trim_span(t->t, text, ids->p[from + i - first], i == first, &spans->p[i]);
    return TM_OK;
}

/* The template's parts: its tokens, and the texts where they belong. Without special tokens, or without a template, the texts alone. */
static enum status encode_parts(struct tok *t, const struct tok_text *texts, int32_t ntexts, unsigned flags,
                                struct tok_ids *ids, struct tok_spans *spans, struct tok_ids *types) {
    static const struct tok_part plain_parts[] = {{-1, 0}, {-2, 1}};
    const struct tok_template *template = ntexts == 1 ? &t->t->single : &t->t->pair;
    const struct tok_part *parts = template->n ? template->p : plain_parts;
    size_t n = template->n ? template->n : (size_t)ntexts;
    for (size_t i = 0; i < n; i++) {
        if (parts[i].id < 0) {
            const struct tok_text *x = &texts[-1 - parts[i].id];
            TM_TRY(encode(t, x->p, x->n, ids, spans));
        } else if (flags & TOK_ADD_SPECIAL) {
            TM_TRY(tok_ids_push(ids, parts[i].id));
            if (spans) TM_TRY(tok_spans_push(spans, 0, 0));
        }
        while (types && types->n < ids->n) TM_TRY(tok_ids_push(types, parts[i].type));
    }
    return TM_OK;
}

enum status tok_encode(struct tok *t, const char *text, size_t n, unsigned flags, struct tok_ids *out) {
    return encode_parts(t, &(struct tok_text){text, n}, 1, flags, out, NULL, NULL);
}

enum status tok_encode_spans(struct tok *t, const char *text, size_t n, unsigned flags, struct tok_ids *out,
                             struct tok_spans *spans) {
    return encode_parts(t, &(struct tok_text){text, n}, 1, flags, out, spans, NULL);
}

enum status tok_encode_pair(struct tok *t, struct tok_text a, struct tok_text b, unsigned flags, struct tok_ids *out,
                            struct tok_ids *types) {
    out->n = types->n = 0;
    return encode_parts(t, (const struct tok_text[]){a, b}, 2, flags, out, NULL, types);
}

/* --- decoding and look-up -----------------------------------------------------------------------------------------------*/

enum status tok_decode(const struct tok *t, const int32_t *ids, size_t n, unsigned flags, struct str *out) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= t->t->size || !t->t->tokens[ids[i]].used)
            return TM_FAIL(TM_ERR_DATA, "token %zu has id %d: the vocabulary has no such token (size %d)", i,
                           (int)ids[i], (int)t->t->size);
    TM_TRY(str_append(out, "", 0));
    return t->t->pieces.n ? tok_decode_pieces(t->t, ids, n, flags, out) : tok_decode_chain(t->t, ids, n, flags, out);
}

bool tok_bytes(const struct tok *t, int32_t id, const char **bytes, size_t *n) {
    bool used = id >= 0 && id < t->t->size && t->t->tokens[id].used;
    *bytes = used ? t->t->bytes.p + t->t->tokens[id].bytes_offset : "";
    *n = used ? t->t->tokens[id].nbytes : 0;
    return used;
}

int32_t tok_vocab_size(const struct tok *t) { return t->t->size; }
int32_t tok_id_of(const struct tok *t, const char *content) { return tok_tables_id_of(t->t, content, strlen(content)); }
bool tok_is_special(const struct tok *t, int32_t id) { return id >= 0 && id < t->t->size && t->t->tokens[id].special; }
int32_t tok_eos(const struct tok *t) { return t->t->eos; }
int32_t tok_bos(const struct tok *t) { return t->t->bos; }

/* --- handles --------------------------------------------------------------------------------------------------------------*/

static enum status create(struct tok_tables *tables, struct tok **out) {
    struct tok *t;
    *out = NULL;
    TM_TRY(mem_alloc(&t, 1, sizeof *t));
    enum status st = tok_work_init(&t->w);
    if (st != TM_OK) {
        mem_free(&t);
        return st;
    }
    t->t = tables;
    tables->users++;
    *out = t;
    return TM_OK;
}

enum status tok_open(const char *path, struct tok **out) {
    struct tok_tables *tables;
    *out = NULL;
    TM_TRY(tok_tables_read(path, &tables));
    enum status st = create(tables, out);
    if (st != TM_OK) tok_tables_free(&tables);
    return st;
}

enum status tok_share(struct tok *t, struct tok **out) { return create(t->t, out); }

void tok_close(struct tok **handle) {
    struct tok *t = *handle;
    if (!t) return;
    if (--t->t->users == 0) tok_tables_free(&t->t);
    tok_work_free(&t->w);
    mem_free(handle);
}
