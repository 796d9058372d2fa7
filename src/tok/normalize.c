/* Normalizers: a list of steps that change a text before it is cut into words. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

enum { MAX_NORMS = 32 };

enum status tok_norm_add(struct tok_tables *t, const char *where, struct tok_norm **out) {
    if (t->nnorms == MAX_NORMS)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: normalizer has more than %d steps", where, MAX_NORMS);
    TM_TRY(mem_grow(&t->norms, &t->cap_norms, t->nnorms + 1, sizeof *t->norms));
    *out = &t->norms[t->nnorms++];
    return TM_OK;
}

void tok_norm_free(struct tok_norm *n) {
    mem_free(&n->text);
    tok_pattern_free(&n->pattern);
    tok_charsmap_free(&n->map);
}

enum status tok_normalize(const struct tok_tables *t, struct tok_work *w, struct tok_view in, bool align,
                          struct tok_view *out) {
    const size_t most = tok_most_bytes(in.n);
    *out = in;
    for (size_t i = 0; i < t->nnorms; i++) {
        struct tok_edit e = tok_edit_begin(*out, &w->normal[i % 2], align);
        e.most = most;
        TM_TRY(t->norms[i].run(&t->norms[i], w, &e));
        *out = tok_edit_view(&e);
    }
    return TM_OK;
}

static enum status add(struct tok_tables *t, const char *where,
                       enum status (*run)(const struct tok_norm *, struct tok_work *, struct tok_edit *)) {
    struct tok_norm *step;
    TM_TRY(tok_norm_add(t, where, &step));
    step->run = run;
    return TM_OK;
}

/* --- character by character -------------------------------------------------------------------------------------------------*/

static uint32_t next_char(const struct tok_edit *e) {
    size_t i = e->i;
    return tok_utf8_next(e->in.p, &i);
}

/* Leave out the characters that `drop` names. */
static enum status filter(struct tok_edit *e, bool (*drop)(uint32_t c)) {
    while (e->i < e->in.n) {
        size_t bytes = tok_utf8_bytes(e->in.p[e->i]);
        if (drop(next_char(e)))
            tok_edit_skip(e, bytes);
        else
            TM_TRY(tok_edit_copy(e, bytes));
    }
    return TM_OK;
}

static bool is_mark(uint32_t c) {
    enum tok_category k = c < 0x300 ? UNI_NONE : tok_category_of(c);
    return k == UNI_MN || k == UNI_MC_ME;
}
static bool is_nonspacing(uint32_t c) { return c >= 0x300 && tok_category_of(c) == UNI_MN; }

static enum status run_strip_marks(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)step, (void)w;
    return filter(e, is_mark);
}
static enum status run_strip_nonspacing(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)step, (void)w;
    return filter(e, is_nonspacing);
}

static enum status run_lowercase(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)step, (void)w;
    while (e->i < e->in.n) {
        uint32_t c = next_char(e);
        TM_TRY(tok_edit_put(e, c == 0x130 ? 'i' : tok_lower(c), 0));
        if (c == 0x130) TM_TRY(tok_edit_put(e, 0x307, 1)); /* the one letter whose lower case has two characters */
    }
    return TM_OK;
}

/* SentencePiece's nmt rules: controls vanish, other invisible characters become blanks. */
static bool is_nmt_control(uint32_t c) {
    return (c >= 0x1 && c <= 0x8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
}
static bool is_nmt_blank(uint32_t c) {
    return c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 || (c >= 0x200b && c <= 0x200f) || c == 0x2028 ||
           c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd;
}
static enum status run_nmt(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)step, (void)w;
    while (e->i < e->in.n) {
        uint32_t c = next_char(e);
        if (is_nmt_control(c))
            tok_edit_skip(e, 1 + (c >= 0x80));
        else
            TM_TRY(tok_edit_put(e, is_nmt_blank(c) ? ' ' : c, 0));
    }
    return TM_OK;
}

static enum status run_form(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)w;
    return tok_normal_form(e, step->a, step->b);
}

/* --- BERT -------------------------------------------------------------------------------------------------------------------*/

static enum status run_clean(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)step, (void)w;
    while (e->i < e->in.n) {
        uint32_t c = next_char(e);
        bool blank = c == '\t' || c == '\n' || c == '\r' || tok_is_white_space(c);
        bool drop = c == 0 || c == 0xfffd || (c != '\t' && c != '\n' && c != '\r' && tok_category_of(c) == UNI_OTHER);
        if (drop)
            tok_edit_skip(e, tok_utf8_bytes(e->in.p[e->i]));
        else
            TM_TRY(tok_edit_put(e, blank ? ' ' : c, 0));
    }
    return TM_OK;
}

/* The blocks of google-research/bert's tokenization.py, with U+2B920 as Hugging Face has it. */
static bool is_chinese(uint32_t c) {
    return (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xf900 && c <= 0xfaff) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0x2f800 && c <= 0x2fa1f);
}

static enum status run_chinese(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)step, (void)w;
    while (e->i < e->in.n) {
        uint32_t c = next_char(e);
        bool apart = is_chinese(c);
        TM_TRY(tok_edit_put(e, apart ? ' ' : c, 0));
        if (!apart) continue;
        TM_TRY(tok_edit_put(e, c, 1));
        TM_TRY(tok_edit_put(e, ' ', 1));
    }
    return TM_OK;
}

enum status tok_read_bert(const json_t *node, const char *where, struct tok_tables *t) {
    bool clean, chinese, lower, accents;
    struct tok_norm *step;
    TM_TRY(json_get_bool(node, "clean_text", where, true, &clean));
    TM_TRY(json_get_bool(node, "handle_chinese_chars", where, true, &chinese));
    TM_TRY(json_get_bool(node, "lowercase", where, true, &lower));
    TM_TRY(json_get_bool(node, "strip_accents", where, lower, &accents));
    if (clean) TM_TRY(add(t, where, run_clean));
    if (chinese) TM_TRY(add(t, where, run_chinese));
    if (accents) {
        TM_TRY(tok_norm_add(t, where, &step));
        step->run = run_form;
        TM_TRY(add(t, where, run_strip_nonspacing));
    }
    return lower ? add(t, where, run_lowercase) : TM_OK;
}

/* --- Prepend, Replace, Strip ---------------------------------------------------------------------------------------------------*/

static enum status run_copy(struct tok_edit *e) { return tok_edit_copy(e, e->in.n - e->i); }

static enum status run_prepend(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)w;
    TM_TRY(tok_edit_prepend(e, step->text, step->n));
    return run_copy(e);
}

static enum status run_replace(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    struct tok_scan scan = {.pattern = &step->pattern, .text = e->in.p, .n = e->in.n};
    for (;;) {
        TM_TRY(tok_scan_next(&scan, w));
        if (!scan.found) break;
        TM_TRY(tok_edit_copy(e, scan.begin - e->i));
        tok_edit_skip(e, scan.end - scan.begin);
        TM_TRY(tok_edit_insert(e, step->text, step->n));
    }
    return run_copy(e);
}

static enum status run_strip(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    (void)w;
    size_t begin = 0, end = 0;
    for (size_t i = 0; i < e->in.n;) {
        bool blank = tok_is_white_space(tok_utf8_next(e->in.p, &i));
        if (blank && !end) begin = i;
        if (!blank) end = i;
    }
    tok_edit_skip(e, step->a ? begin : 0);
    return e->i < e->in.n ? tok_edit_copy(e, (step->b ? end : e->in.n) - e->i) : TM_OK;
}

static enum status keep_text(const char *text, struct tok_norm *step) {
    step->n = strlen(text);
    TM_TRY(mem_alloc(&step->text, step->n + 1, 1));
    memcpy(step->text, text, step->n);
    return TM_OK;
}

enum status tok_read_prepend(const json_t *node, const char *where, struct tok_tables *t) {
    const char *text;
    struct tok_norm *step;
    TM_TRY(json_get_str(node, "prepend", where, "", &text));
    TM_TRY(tok_norm_add(t, where, &step));
    step->run = run_prepend;
    return keep_text(text, step);
}

enum status tok_read_replace(const json_t *node, const char *where, struct tok_tables *t) {
    const char *text;
    struct tok_norm *step;
    TM_TRY(json_get_str(node, "content", where, "", &text));
    TM_TRY(tok_norm_add(t, where, &step));
    step->run = run_replace;
    TM_TRY(tok_pattern_read(node, where, &step->pattern));
    return keep_text(text, step);
}

enum status tok_read_strip(const json_t *node, const char *where, struct tok_tables *t) {
    struct tok_norm *step;
    TM_TRY(tok_norm_add(t, where, &step));
    step->run = run_strip;
    TM_TRY(json_get_bool(node, "strip_left", where, true, &step->a));
    return json_get_bool(node, "strip_right", where, true, &step->b);
}

/* --- reading of the others -------------------------------------------------------------------------------------------------------*/

enum status tok_read_form(const json_t *node, const char *where, struct tok_tables *t) {
    const char *type;
    struct tok_norm *step;
    TM_TRY(json_get_str(node, "type", where, "", &type));
    TM_TRY(tok_norm_add(t, where, &step));
    step->run = run_form;
    step->a = strchr(type, 'K');
    step->b = strchr(type, 'C');
    return TM_OK;
}

enum status tok_read_nmt(const json_t *node, const char *where, struct tok_tables *t) {
    (void)node;
    return add(t, where, run_nmt);
}
enum status tok_read_lowercase(const json_t *node, const char *where, struct tok_tables *t) {
    (void)node;
    return add(t, where, run_lowercase);
}
enum status tok_read_strip_accents(const json_t *node, const char *where, struct tok_tables *t) {
    (void)node;
    return add(t, where, run_strip_marks);
}

/* --- SentencePiece's own normalizer ------------------------------------------------------------------------------------------*/

/* One step of the rules: the text of *bytes old bytes. */
static const char *rule(const struct tok_norm *step, const struct tok_edit *e, size_t *bytes, size_t *n) {
    const char *p = e->in.p + e->i, *text;
    int32_t id;
    *n = *bytes = tok_trie_longest(step->keep, p, e->in.n - e->i, &id);
    if (*bytes) return p;
    text = tok_charsmap_find(&step->map, p, e->in.n - e->i, true, bytes);
    *n = text ? strlen(text) : (*bytes = tok_utf8_bytes(*p));
    return text ? text : p;
}

/* a: a blank in front of the text; b: no blanks at the ends, no two in a row; c: blanks become U+2581 (normalizer.cc, Normalize). */
enum status tok_norm_sentencepiece(const struct tok_norm *step, struct tok_work *w, struct tok_edit *e) {
    const char *blank = step->c ? TOK_BLANK : " ", *text;
    const size_t nblank = step->c ? TOK_BLANK_BYTES : 1;
    size_t bytes, n;
    while (step->b && e->i < e->in.n && (text = rule(step, e, &bytes, &n)) && n == 1 && *text == ' ')
        tok_edit_skip(e, bytes);
    if (e->i == e->in.n) return TM_OK;
    if (step->a) TM_TRY(tok_edit_replace(e, 0, blank, nblank));
    for (bool after_blank = step->b; e->i < e->in.n;) {
        text = rule(step, e, &bytes, &n);
        for (; after_blank && n && *text == ' '; text++) n--;
        str_clear(&w->spelled);
        for (size_t i = 0; i < n; i++)
            TM_TRY(text[i] == ' ' ? str_append(&w->spelled, blank, nblank) : str_append(&w->spelled, text + i, 1));
        if (n) after_blank = step->b && text[n - 1] == ' ';
        TM_TRY(tok_edit_replace(e, bytes, w->spelled.p, w->spelled.len));
    }
    struct str *s = &e->out->s;
    while (step->b && s->len >= nblank && !memcmp(s->p + s->len - nblank, blank, nblank)) s->p[s->len -= nblank] = '\0';
    return TM_OK;
}
