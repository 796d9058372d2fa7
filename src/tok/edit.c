/* Texts that remember where they came from: a new one is made from an old one, character by character. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

static bool is_inside(char c) { return ((unsigned char)c & 0xc0) == 0x80; }

struct tok_span tok_view_span(struct tok_view v, size_t begin, size_t end) {
    if (v.at) return end > begin ? (struct tok_span){v.at[begin].begin, v.at[end - 1].end} : (struct tok_span){0, 0};
    while (begin > 0 && begin < v.n && is_inside(v.p[begin])) begin--;
    while (end < v.n && is_inside(v.p[end])) end++;
    return (struct tok_span){v.base + begin, v.base + end};
}

void tok_buf_free(struct tok_buf *b) {
    str_free(&b->s);
    mem_free(&b->at);
    b->cap_at = 0;
}

struct tok_edit tok_edit_begin(struct tok_view in, struct tok_buf *out, bool align) {
    str_clear(&out->s);
    return (struct tok_edit){.in = in, .out = out, .align = align, .most = tok_most_bytes(in.n)};
}

struct tok_view tok_edit_view(const struct tok_edit *e) {
    return (struct tok_view){.p = e->out->s.p ? e->out->s.p : "",
                             .n = e->out->s.len,
                             .at = e->align ? e->out->at : NULL,
                             .base = e->in.base};
}

/* The place of the character that holds byte i. */
static struct tok_span place(const struct tok_edit *e, size_t i) {
    if (e->in.at && i < e->in.n) return e->in.at[i];
    return tok_view_span(e->in, i, i < e->in.n ? i + 1 : i);
}

/* What has been appended behind out->s[from) stands for `span`. */
static enum status align(struct tok_edit *e, size_t from, struct tok_span span) {
    if (!e->align) return TM_OK;
    TM_TRY(mem_grow(&e->out->at, &e->out->cap_at, e->out->s.len, sizeof *e->out->at));
    for (size_t i = from; i < e->out->s.len; i++) e->out->at[i] = span;
    return TM_OK;
}

/* The place of what comes before the next old character; at the very beginning nothing. */
static struct tok_span place_before(const struct tok_edit *e) {
    size_t begin = e->in.at ? (e->in.n ? e->in.at[0].begin : 0) : e->in.base;
    return e->i ? place(e, e->i - 1) : (struct tok_span){begin, begin};
}

static void skip_char(struct tok_edit *e) {
    if (e->i < e->in.n) e->i += tok_utf8_bytes(e->in.p[e->i]);
}

static enum status check_room(const struct tok_edit *e, size_t n) {
    if (n <= e->most && e->out->s.len <= e->most - n) return TM_OK;
    return TM_FAIL(TM_ERR_DATA, "the tokenizer's normalizer makes more than %zu bytes of a text", e->most);
}

enum status tok_edit_put(struct tok_edit *e, uint32_t c, int change) {
    size_t from = e->out->s.len;
    struct tok_span span = {0, 0};
    if (e->align) span = change > 0 ? place_before(e) : place(e, e->i);
    for (int i = 0; i >= change; i--) skip_char(e);
    TM_TRY(check_room(e, 4));
    TM_TRY(tok_utf8_append(&e->out->s, c));
    return align(e, from, span);
}

enum status tok_edit_insert(struct tok_edit *e, const char *text, size_t n) {
    size_t from = e->out->s.len;
    TM_TRY(check_room(e, n));
    TM_TRY(str_append(&e->out->s, text, n));
    return e->align ? align(e, from, place_before(e)) : TM_OK;
}

enum status tok_edit_replace(struct tok_edit *e, size_t bytes, const char *text, size_t n) {
    size_t from = e->out->s.len;
    struct tok_span span = {0, 0};
    if (e->align) {
        span = place(e, e->i);
        span.end = bytes ? place(e, e->i + bytes - 1).end : span.begin;
    }
    e->i += bytes;
    TM_TRY(check_room(e, n));
    TM_TRY(str_append(&e->out->s, text, n));
    return align(e, from, span);
}

enum status tok_edit_copy(struct tok_edit *e, size_t n) {
    size_t from = e->out->s.len;
    TM_TRY(str_append(&e->out->s, e->in.p + e->i, n));
    if (e->align) {
        TM_TRY(mem_grow(&e->out->at, &e->out->cap_at, e->out->s.len, sizeof *e->out->at));
        for (size_t k = 0; k < n; k++) e->out->at[from + k] = place(e, e->i + k);
    }
    e->i += n;
    return TM_OK;
}

void tok_edit_skip(struct tok_edit *e, size_t n) { e->i += n; }

enum status tok_edit_prepend(struct tok_edit *e, const char *text, size_t n) {
    size_t from = e->out->s.len;
    if (e->i == e->in.n) return TM_OK;
    TM_TRY(str_append(&e->out->s, text, n));
    TM_TRY(align(e, from, place(e, e->i)));
    return tok_edit_copy(e, tok_utf8_bytes(e->in.p[e->i]));
}
