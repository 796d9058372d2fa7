/* Pre-tokenizers: a list of steps, each a pattern that cuts text into words, or a blank put in front.
 * Patterns are matched as Unicode text. Known difference to Oniguruma, which Hugging Face uses: \s matches U+180E here. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

enum { MAX_STEPS = 16, MAX_NESTING = 8 };

/* openai/gpt-2, encoder.py, as the ByteLevel pre-tokenizer holds it. */
const char tok_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static enum status add_step(struct tok_split *s, const char *where, struct tok_step **out) {
    if (s->n == MAX_STEPS)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: pre_tokenizer has more than %d steps", where, MAX_STEPS);
    TM_TRY(mem_grow(&s->steps, &s->cap, s->n + 1, sizeof *s->steps));
    *out = &s->steps[s->n++];
    return TM_OK;
}

enum status tok_split_add(struct tok_split *s, const char *pattern, bool literal, enum tok_keep keep,
                          const char *where) {
    struct tok_step *step;
    int error;
    PCRE2_SIZE at;
    TM_TRY(add_step(s, where, &step));
    step->keep = keep;
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
    step->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &at, NULL);
    if (!step->code) {
        char text[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
        return TM_FAIL(TM_ERR_FORMAT, "%s: pre_tokenizer pattern \"%s\": %s at byte %zu", where, pattern, text, at);
    }
    pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE); /* without a JIT the interpreter serves */
    step->match = pcre2_match_data_create_from_pattern(step->code, NULL);
    return step->match ? TM_OK : TM_FAIL(TM_ERR_MEMORY, "%s: no memory for a pattern's match block", where);
}

void tok_split_free(struct tok_split *s) {
    for (size_t i = 0; i < s->n; i++) {
        pcre2_match_data_free(s->steps[i].match);
        pcre2_code_free(s->steps[i].code);
        str_free(&s->steps[i].front);
    }
    mem_free(&s->steps);
    *s = (struct tok_split){0};
}

/* --- running ------------------------------------------------------------------------------------------------------------*/

/* The next match that is not empty, at or behind `from`; *found false when there is none. */
static enum status next_match(const struct tok_step *step, const char *text, size_t n, size_t from, bool *found,
                              size_t *begin, size_t *end) {
    for (*found = false; from < n;) {
        int rc = pcre2_match(step->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, step->match, NULL);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its state on the heap */
            rc = pcre2_match(step->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, step->match,
                             NULL);
        if (rc == PCRE2_ERROR_NOMATCH) return TM_OK;
        if (rc < 0) {
            char why[128];
            pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
            return TM_FAIL(TM_ERR_DATA, "the pre-tokenizer's pattern gave up at byte %zu of a piece of %zu bytes: %s",
                           from, n, why);
        }
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(step->match);
        if (o[0] < from || o[1] < o[0])
            return TM_FAIL(TM_ERR_FORMAT, "the pre-tokenizer's pattern matches backwards at byte %zu", from);
        if (o[1] > o[0]) {
            *found = true;
            *begin = o[0];
            *end = o[1];
            return TM_OK;
        }
        tok_utf8_next(text, &from); /* an empty match cuts nothing */
    }
    return TM_OK;
}

static enum status run_from(struct tok_split *s, size_t k, const char *text, size_t n, tok_word_fn *word, void *ctx) {
    if (n == 0) return TM_OK;
    if (k == s->n) return word(ctx, text, n);
    struct tok_step *step = &s->steps[k];
    if (!step->code) {
        if (text[0] == ' ') return run_from(s, k + 1, text, n, word, ctx);
        str_clear(&step->front);
        TM_TRY(str_append(&step->front, " ", 1));
        TM_TRY(str_append(&step->front, text, n));
        return run_from(s, k + 1, step->front.p, n + 1, word, ctx);
    }
    bool found = true;
    for (size_t at = 0, begin, end; at < n; at = end) {
        TM_TRY(next_match(step, text, n, at, &found, &begin, &end));
        if (!found) begin = end = n;
        if (step->keep != TOK_KEEP_MATCHES) TM_TRY(run_from(s, k + 1, text + at, begin - at, word, ctx));
        if (step->keep != TOK_KEEP_GAPS) TM_TRY(run_from(s, k + 1, text + begin, end - begin, word, ctx));
    }
    return TM_OK;
}

enum status tok_split_run(struct tok_split *s, const char *text, size_t n, tok_word_fn *word, void *ctx) {
    return run_from(s, 0, text, n, word, ctx);
}

/* --- reading ------------------------------------------------------------------------------------------------------------*/

static enum status read_split(const json_t *node, const char *where, struct tok_split *out) {
    const char *regex, *text, *behavior;
    bool invert;
    const json_t *pattern = json_object_get(node, "pattern");
    TM_TRY(json_get_str(pattern, "Regex", where, NULL, &regex));
    TM_TRY(json_get_str(pattern, "String", where, NULL, &text));
    TM_TRY(json_get_str(node, "behavior", where, "", &behavior));
    TM_TRY(json_get_bool(node, "invert", where, false, &invert));
    if (!regex == !text)
        return TM_FAIL(TM_ERR_FORMAT, "%s: pre_tokenizer Split needs a pattern, either Regex or String", where);
    enum tok_keep keep = TOK_KEEP_ALL;
    if (!strcmp(behavior, "Removed"))
        keep = invert ? TOK_KEEP_MATCHES : TOK_KEEP_GAPS;
    else if (strcmp(behavior, "Isolated") != 0)
        return TM_FAIL(TM_ERR_UNSUPPORTED,
                       "%s: pre_tokenizer Split with behavior \"%s\": Isolated and Removed are supported", where,
                       behavior);
    return tok_split_add(out, regex ? regex : text, !regex, keep, where);
}

static enum status read_byte_level(const json_t *node, const char *where, struct tok_split *out) {
    bool prefix, regex;
    struct tok_step *step;
    TM_TRY(json_get_bool(node, "add_prefix_space", where, true, &prefix));
    TM_TRY(json_get_bool(node, "use_regex", where, true, &regex));
    if (prefix) TM_TRY(add_step(out, where, &step));
    return regex ? tok_split_add(out, tok_gpt2_pattern, false, TOK_KEEP_ALL, where) : TM_OK;
}

static enum status read_node(const json_t *node, const char *where, int nesting, struct tok_split *out,
                             bool *byte_level) {
    const char *type;
    TM_TRY(json_get_str(node, "type", where, "null", &type));
    if (*byte_level)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: pre_tokenizer %s behind ByteLevel: ByteLevel must come last", where,
                       type);
    if (!strcmp(type, "Split")) return read_split(node, where, out);
    if (!strcmp(type, "Digits")) {
        bool individual;
        TM_TRY(json_get_bool(node, "individual_digits", where, false, &individual));
        return tok_split_add(out, individual ? "\\p{N}" : "\\p{N}+", false, TOK_KEEP_ALL, where);
    }
    if (!strcmp(type, "ByteLevel")) {
        *byte_level = true;
        return read_byte_level(node, where, out);
    }
    const json_t *list = json_object_get(node, "pretokenizers");
    if (strcmp(type, "Sequence") != 0 || !json_is_array(list) || nesting == MAX_NESTING)
        return TM_FAIL(TM_ERR_UNSUPPORTED,
                       "%s: pre_tokenizer %s: ByteLevel, Split, Digits and sequences of them are supported", where,
                       type);
    for (size_t i = 0; i < json_array_size(list); i++)
        TM_TRY(read_node(json_array_get(list, i), where, nesting + 1, out, byte_level));
    return TM_OK;
}

enum status tok_split_read(const json_t *pre_tokenizer, const char *where, struct tok_split *out) {
    bool byte_level = false;
    TM_TRY(read_node(pre_tokenizer, where, 0, out, &byte_level));
    if (!byte_level)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: pre_tokenizer without ByteLevel: only byte-level BPE is supported",
                       where);
    return TM_OK;
}
