/* Added tokens: names such as <|endoftext|> that are cut out of the text before anything else looks at it. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

static enum status read_one(const json_t *node, const char *where, struct tok_added *out) {
    const char *content;
    int64_t id;
    TM_TRY(json_get_str(node, "content", where, "", &content));
    TM_TRY(json_need_i64(node, "id", where, &id));
    TM_TRY(json_get_bool(node, "special", where, false, &out->special));
    TM_TRY(json_get_bool(node, "normalized", where, !out->special, &out->normalized));
    TM_TRY(json_get_bool(node, "lstrip", where, false, &out->lstrip));
    TM_TRY(json_get_bool(node, "rstrip", where, false, &out->rstrip));
    TM_TRY(json_get_bool(node, "single_word", where, false, &out->single_word));
    if (id < 0 || id > TOK_MAX_ID)
        return TM_FAIL(TM_ERR_FORMAT, "%s: added token \"%s\" has id %lld: expected 0 to %d", where, content,
                       (long long)id, TOK_MAX_ID);
    out->id = (int32_t)id;
    out->n = strlen(content);
    TM_TRY(mem_alloc(&out->content, out->n + 1, 1));
    memcpy(out->content, content, out->n + 1);
    return TM_OK;
}

enum status tok_added_read(const json_t *added, const char *where, struct tok_added_list *out) {
    if (added && !json_is_null(added) && !json_is_array(added))
        return TM_FAIL(TM_ERR_FORMAT, "%s: added_tokens is not a list", where);
    for (size_t i = 0; i < json_array_size(added); i++) {
        TM_TRY(mem_grow(&out->p, &out->cap, out->n + 1, sizeof *out->p));
        struct tok_added *a = &out->p[out->n];
        *a = (struct tok_added){0};
        TM_TRY(read_one(json_array_get(added, i), where, a));
        out->n++;
    }
    return TM_OK;
}

void tok_added_free(struct tok_added_list *l) {
    for (size_t i = 0; i < l->n; i++) mem_free(&l->p[i].content);
    mem_free(&l->p);
    tok_pattern_free(&l->word);
    *l = (struct tok_added_list){0};
}

static int compare(const void *va, const void *vb) {
    const struct tok_added *a = va, *b = vb;
    int first = (unsigned char)a->content[0] - (unsigned char)b->content[0];
    if (first) return first;
    if (a->n != b->n) return a->n > b->n ? -1 : 1;
    return strcmp(a->content, b->content);
}

enum status tok_added_index(struct tok_added_list *l) {
    bool single_word = false;
    if (l->n) qsort(l->p, l->n, sizeof *l->p, compare);
    size_t i = 0;
    for (unsigned b = 0; b < 256; b++) {
        while (i < l->n && (unsigned char)l->p[i].content[0] < b) i++;
        l->first[b] = (uint32_t)i;
    }
    l->first[256] = (uint32_t)l->n;
    for (i = 0; i < l->n; i++) {
        l->any[l->p[i].normalized] = true;
        single_word = single_word || l->p[i].single_word;
    }
    return single_word ? tok_pattern_compile("[" TOK_WORD_CLASS "]", false, "added_tokens", &l->word) : TM_OK;
}

/* Where the run of white space that ends at text[end) begins, but not before `from`. */
static size_t blanks_before(const char *text, size_t from, size_t end) {
    size_t begin = end;
    while (begin > from) {
        size_t c = begin - 1;
        while (c > from && ((unsigned char)text[c] & 0xc0) == 0x80) c--;
        size_t next = c;
        if (!tok_is_white_space(tok_utf8_next(text, &next))) break;
        begin = c;
    }
    return begin;
}

static size_t blanks_after(const char *text, size_t n, size_t begin) {
    for (size_t next = begin; begin < n; begin = next)
        if (!tok_is_white_space(tok_utf8_next(text, &next))) break;
    return begin;
}

/* Whether the character at text[at] belongs to a word. */
static enum status is_word(const struct tok_added_list *l, struct tok_work *w, const char *text, size_t at, bool *yes) {
    struct tok_scan scan = {.pattern = &l->word, .text = text + at, .n = tok_utf8_bytes(text[at])};
    TM_TRY(tok_scan_next(&scan, w));
    *yes = scan.found;
    return TM_OK;
}

/* Whether a word goes on at either end of text[begin, end). */
static enum status is_in_word(const struct tok_added_list *l, struct tok_work *w, const char *text, size_t n,
                              size_t begin, size_t end, bool *yes) {
    *yes = false;
    size_t before = begin;
    if (begin) {
        do before--;
        while (before && ((unsigned char)text[before] & 0xc0) == 0x80);
        TM_TRY(is_word(l, w, text, before, yes));
    }
    return !*yes && end < n ? is_word(l, w, text, end, yes) : TM_OK;
}

/* The longest token at text[i], if any. */
static const struct tok_added *token_at(const struct tok_added_list *l, const char *text, size_t n, size_t i,
                                        bool normalized) {
    unsigned b = (unsigned char)text[i];
    for (uint32_t k = l->first[b]; k < l->first[b + 1]; k++) {
        const struct tok_added *a = &l->p[k];
        if (a->normalized == normalized && a->n && a->n <= n - i && !memcmp(text + i, a->content, a->n)) return a;
    }
    return NULL;
}

enum status tok_added_find(const struct tok_added_list *l, struct tok_work *w, const char *text, size_t n, size_t from,
                           bool normalized, const struct tok_added **out, size_t *begin, size_t *end) {
    *out = NULL;
    for (size_t i = from; l->any[normalized] && i < n; i++) {
        bool in_word = false;
        if (l->first[(unsigned char)text[i]] == l->first[(unsigned char)text[i] + 1]) continue;
        const struct tok_added *a = token_at(l, text, n, i, normalized);
        if (!a) continue;
        if (a->single_word) TM_TRY(is_in_word(l, w, text, n, i, i + a->n, &in_word));
        if (in_word) {
            i += a->n - 1;
            continue;
        }
        *begin = a->lstrip ? blanks_before(text, from, i) : i;
        *end = a->rstrip ? blanks_after(text, n, i + a->n) : i + a->n;
        *out = a;
        break;
    }
    return TM_OK;
}
