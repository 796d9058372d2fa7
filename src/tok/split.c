/* Pre-tokenizers: a list of steps; each cuts a text by a pattern or changes its front, and hands the pieces to the next. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

/* openai/gpt-2, encoder.py, as the ByteLevel pre-tokenizer holds it. */
const char tok_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* White_Space without U+180E, which PCRE2's \s has and Rust's char::is_whitespace has not. */
#define WHITE \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

enum status tok_step_add(struct tok_tables *t, const char *where, struct tok_step **out) {
    if (t->nsteps == TOK_MAX_STEPS)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: pre_tokenizer has more than %d steps", where, TOK_MAX_STEPS);
    TM_TRY(mem_grow(&t->steps, &t->cap_steps, t->nsteps + 1, sizeof *t->steps));
    *out = &t->steps[t->nsteps++];
    return TM_OK;
}

enum status tok_split_add(struct tok_tables *t, const char *pattern, bool literal, enum tok_behavior behavior,
                          bool invert, const char *where) {
    struct tok_step *step;
    TM_TRY(tok_step_add(t, where, &step));
    step->behavior = behavior;
    step->invert = invert;
    return tok_pattern_compile(pattern, literal, where, &step->pattern);
}

/* --- running ------------------------------------------------------------------------------------------------------------*/

/* A text on its way through the steps. */
struct run {
    const struct tok_tables *t;
    struct tok_work *w;
    tok_word_fn *word;
    void *ctx;
};

static enum status run_from(const struct run *r, size_t k, struct tok_view v);

/* Pieces of one cut: the last is held back while the next may still join it. */
struct cut {
    const struct run *r;
    size_t k;
    struct tok_view v;
    enum tok_behavior behavior;
    size_t begin, end; /* held back; empty: nothing is */
    bool was_match;
};

static enum status release(struct cut *c) {
    size_t begin = c->begin;
    c->begin = c->end;
    return begin < c->end ? run_from(c->r, c->k + 1, tok_view_part(c->v, begin, c->end)) : TM_OK;
}

static enum status piece(struct cut *c, size_t end, bool match) {
    bool joins = (c->behavior == TOK_CONTIGUOUS && match == c->was_match) ||
                 (c->behavior == TOK_MERGED_WITH_PREVIOUS && match && !c->was_match) ||
                 (c->behavior == TOK_MERGED_WITH_NEXT && !match && c->was_match);
    if (!joins) TM_TRY(release(c));
    c->was_match = match;
    c->end = end;
    if (match && c->behavior == TOK_REMOVED) c->begin = end;
    return TM_OK;
}

static enum status run_cut(const struct run *r, size_t k, struct tok_view v) {
    const struct tok_step *step = &r->t->steps[k];
    struct cut c = {.r = r, .k = k, .v = v, .behavior = step->behavior};
    struct tok_scan scan = {.pattern = &step->pattern, .text = v.p, .n = v.n};
    for (size_t at = 0; at < v.n; at = scan.found ? scan.end : v.n) {
        TM_TRY(tok_scan_next(&scan, r->w));
        if (scan.begin > at) TM_TRY(piece(&c, scan.begin, step->invert));
        if (scan.found) TM_TRY(piece(&c, scan.end, !step->invert)); /* an empty match cuts too */
    }
    return release(&c);
}

/* Metaspace: blanks become U+2581; ByteLevel: a blank in front. */
static enum status run_front(const struct run *r, size_t k, struct tok_view v) {
    const struct tok_step *step = &r->t->steps[k];
    size_t n = strlen(step->front);
    bool align = v.at || r->w->align, there = v.n >= n && !memcmp(v.p, step->front, n);
    there =
        there || (step->exchange && v.p[0] == ' ') || (step->first && tok_view_span(v, 0, 1).begin != 0) || step->never;
    if (there && !(step->exchange && memchr(v.p, ' ', v.n))) return run_from(r, k + 1, v);
    struct tok_edit e = tok_edit_begin(v, &r->w->front[k], align);
    if (!there) TM_TRY(tok_edit_prepend(&e, step->front, n));
    while (e.i < v.n) {
        const char *blank = step->exchange ? memchr(v.p + e.i, ' ', v.n - e.i) : NULL;
        TM_TRY(tok_edit_copy(&e, blank ? (size_t)(blank - v.p) - e.i : v.n - e.i));
        if (blank) TM_TRY(tok_edit_replace(&e, 1, step->front, n));
    }
    return run_from(r, k + 1, tok_edit_view(&e));
}

static enum status run_from(const struct run *r, size_t k, struct tok_view v) {
    if (v.n == 0) return TM_OK;
    if (k == r->t->nsteps) return r->word(r->ctx, v);
    return r->t->steps[k].pattern.code ? run_cut(r, k, v) : run_front(r, k, v);
}

enum status tok_split_run(const struct tok_tables *t, struct tok_work *w, struct tok_view text, tok_word_fn *word,
                          void *ctx) {
    return run_from(&(struct run){t, w, word, ctx}, 0, text);
}

/* --- reading ------------------------------------------------------------------------------------------------------------*/

static enum status read_behavior(const json_t *node, const char *absent, const char *where, enum tok_behavior *out) {
    static const char *const names[] = {[TOK_ISOLATED] = "Isolated",
                                        [TOK_REMOVED] = "Removed",
                                        [TOK_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [TOK_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [TOK_CONTIGUOUS] = "Contiguous"};
    const char *name;
    TM_TRY(json_get_str(node, "behavior", where, absent, &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *out = (enum tok_behavior)i;
        if (!strcmp(name, names[i])) return TM_OK;
    }
    return TM_FAIL(TM_ERR_UNSUPPORTED,
                   "%s: behavior \"%s\": expected Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous",
                   where, name);
}

enum status tok_read_split(const json_t *node, const char *where, struct tok_tables *t) {
    struct tok_step *step;
    TM_TRY(tok_step_add(t, where, &step));
    TM_TRY(json_get_bool(node, "invert", where, false, &step->invert));
    TM_TRY(read_behavior(node, "", where, &step->behavior));
    return tok_pattern_read(node, where, &step->pattern);
}

enum status tok_read_byte_level(const json_t *node, const char *where, struct tok_tables *t) {
    bool prefix, regex;
    struct tok_step *step;
    TM_TRY(json_get_bool(node, "add_prefix_space", where, true, &prefix));
    TM_TRY(json_get_bool(node, "use_regex", where, true, &regex));
    t->byte_level = true;
    if (prefix) {
        TM_TRY(tok_step_add(t, where, &step));
        step->front[0] = ' ';
    }
    return regex ? tok_split_add(t, tok_gpt2_pattern, false, TOK_ISOLATED, false, where) : TM_OK;
}

enum status tok_read_metaspace(const json_t *node, const char *where, struct tok_tables *t) {
    const char *replacement, *scheme;
    bool split, prefix;
    struct tok_step *step;
    TM_TRY(json_get_str(node, "replacement", where, TOK_BLANK, &replacement));
    TM_TRY(json_get_bool(node, "add_prefix_space", where, true, &prefix)); /* of older files */
    TM_TRY(json_get_str(node, "prepend_scheme", where, prefix ? "always" : "never", &scheme));
    TM_TRY(json_get_bool(node, "split", where, true, &split));
    TM_TRY(tok_step_add(t, where, &step));
    step->exchange = true;
    step->first = !strcmp(scheme, "first");
    step->never = !strcmp(scheme, "never");
    if (!*replacement || tok_utf8_bytes(*replacement) != strlen(replacement))
        return TM_FAIL(TM_ERR_FORMAT, "%s: Metaspace: replacement \"%s\" is not one character", where, replacement);
    if (!step->first && !step->never && strcmp(scheme, "always") != 0)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: Metaspace: prepend_scheme \"%s\": expected always, first or never",
                       where, scheme);
    TM_TRY(str_copy(step->front, sizeof step->front, replacement));
    return split ? tok_split_add(t, replacement, true, TOK_MERGED_WITH_NEXT, false, where) : TM_OK;
}

enum status tok_read_digits(const json_t *node, const char *where, struct tok_tables *t) {
    bool individual;
    TM_TRY(json_get_bool(node, "individual_digits", where, false, &individual));
    return tok_split_add(t, individual ? "\\p{N}" : "\\p{N}+", false, TOK_ISOLATED, false, where);
}

enum status tok_read_whitespace(const json_t *node, const char *where, struct tok_tables *t) {
    (void)node;
    return tok_split_add(t, "[" TOK_WORD_CLASS "]+|[^" TOK_WORD_CLASS WHITE "]+", false, TOK_REMOVED, true, where);
}

enum status tok_read_whitespace_split(const json_t *node, const char *where, struct tok_tables *t) {
    (void)node;
    return tok_split_add(t, "[" WHITE "]", false, TOK_REMOVED, false, where);
}

static const char punctuation[] = "[\\p{P}\\x21-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7e]";

enum status tok_read_punctuation(const json_t *node, const char *where, struct tok_tables *t) {
    enum tok_behavior behavior;
    TM_TRY(read_behavior(node, "Isolated", where, &behavior));
    return tok_split_add(t, punctuation, false, behavior, false, where);
}

enum status tok_read_bert_split(const json_t *node, const char *where, struct tok_tables *t) {
    TM_TRY(tok_read_whitespace_split(node, where, t));
    return tok_split_add(t, punctuation, false, TOK_ISOLATED, false, where);
}
