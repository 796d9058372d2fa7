/* Regular expressions of tokenizers, by PCRE2 with its JIT. Known differences to Oniguruma, which Hugging Face uses: \s matches U+180E
 * here, and {n,m}+ is possessive. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

enum status tok_pattern_compile(const char *pattern, bool literal, const char *where, struct tok_pattern *out) {
    int error;
    PCRE2_SIZE at;
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
    out->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
    if (!out->code) {
        char text[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
        return TM_FAIL(TM_ERR_FORMAT, "%s: pattern \"%s\": %s at byte %zu", where, pattern, text, at);
    }
    out->jit = pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE) == 0; /* without a JIT the interpreter serves */
    return TM_OK;
}

enum status tok_pattern_read(const json_t *node, const char *where, struct tok_pattern *out) {
    const char *regex, *text;
    const json_t *pattern = json_object_get(node, "pattern");
    TM_TRY(json_get_str(pattern, "Regex", where, NULL, &regex));
    TM_TRY(json_get_str(pattern, "String", where, NULL, &text));
    if (!regex == !text) return TM_FAIL(TM_ERR_FORMAT, "%s: a pattern is either Regex or String", where);
    return tok_pattern_compile(regex ? regex : text, !regex, where, out);
}

void tok_pattern_free(struct tok_pattern *p) {
    pcre2_code_free(p->code);
    p->code = NULL;
}

static enum status match(const struct tok_scan *s, struct tok_work *w, bool *found) {
    const struct tok_pattern *p = s->pattern;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    *found = false;
    if (p->jit) rc = pcre2_jit_match(p->code, (PCRE2_SPTR)s->text, s->n, s->from, 0, w->match, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its state on the heap */
        rc =
            pcre2_match(p->code, (PCRE2_SPTR)s->text, s->n, s->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, NULL);
    if (rc == PCRE2_ERROR_NOMATCH) return TM_OK;
    if (rc < 0) {
        char why[128];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return TM_FAIL(TM_ERR_DATA, "a pattern of the tokenizer gave up at byte %zu of a piece of %zu bytes: %s",
                       s->from, s->n, why);
    }
    *found = true;
    return TM_OK;
}

enum status tok_scan_next(struct tok_scan *s, struct tok_work *w) {
    for (s->found = false; s->from <= s->n;) {
        bool found;
        TM_TRY(match(s, w, &found));
        if (!found) break;
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(w->match);
        if (o[0] < s->from || o[1] < o[0])
            return TM_FAIL(TM_ERR_FORMAT, "a pattern of the tokenizer matches backwards at byte %zu", s->from);
        if (o[0] == o[1] && s->any && o[1] == s->end) { /* as Oniguruma's iterator: one step on, and again */
            s->from += s->from < s->n ? tok_utf8_bytes(s->text[s->from]) : 1;
            continue;
        }
        s->begin = o[0];
        s->from = s->end = o[1];
        s->found = s->any = true;
        return TM_OK;
    }
    s->begin = s->from = s->n;
    return TM_OK;
}

enum status tok_work_init(struct tok_work *w) {
    w->match = pcre2_match_data_create(1, NULL);
    return w->match ? TM_OK : TM_FAIL(TM_ERR_MEMORY, "no memory for a pattern's match block");
}

void tok_work_free(struct tok_work *w) {
    pcre2_match_data_free(w->match);
    for (int i = 0; i < 2; i++) tok_buf_free(&w->normal[i]);
    for (int i = 0; i < TOK_MAX_STEPS; i++) tok_buf_free(&w->front[i]);
    mem_free(&w->symbols);
    mem_free(&w->heap);
    mem_free(&w->cache);
    str_free(&w->spelled);
    mem_free(&w->nodes);
}
