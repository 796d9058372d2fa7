/* Decoders: steps that turn a list of token texts into the list whose concatenation is the text. */
#include <string.h>

#include "base/mem.h"
#include "tok/tok_impl.h"

enum { MAX_DECODERS = 32 };

static const char replacement_character[] = "\xef\xbf\xbd";

static enum status end_piece(struct tok_chain *c) {
    TM_TRY(mem_grow(&c->ends, &c->cap, c->n + 1, sizeof *c->ends));
    c->ends[c->n++] = c->text.len;
    return TM_OK;
}

static enum status push(struct tok_chain *c, const char *text, size_t n) {
    TM_TRY(str_append(&c->text, text, n));
    return end_piece(c);
}

static const char *piece(const struct tok_chain *c, size_t i, size_t *n) {
    size_t begin = i ? c->ends[i - 1] : 0;
    *n = c->ends[i] - begin;
    return c->text.p ? c->text.p + begin : "";
}

static void clear(struct tok_chain *c) {
    str_clear(&c->text);
    c->n = 0;
}

static enum status decoder_add(struct tok_tables *t, const char *where, struct tok_decoder **out) {
    if (t->ndecoders == MAX_DECODERS)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: decoder has more than %d steps", where, MAX_DECODERS);
    TM_TRY(mem_grow(&t->decoders, &t->cap_decoders, t->ndecoders + 1, sizeof *t->decoders));
    *out = &t->decoders[t->ndecoders++];
    return TM_OK;
}

void tok_decoder_free(struct tok_decoder *d) {
    mem_free(&d->text);
    tok_pattern_free(&d->pattern);
}

/* --- steps ------------------------------------------------------------------------------------------------------------------*/

static enum status run_fuse(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out) {
    (void)step;
    return push(out, in->text.p ? in->text.p : "", in->text.len);
}

static enum status run_byte_level(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out) {
    (void)step;
    struct str raw = {0};
    enum status st = TM_OK;
    for (size_t i = 0, n; i < in->n && st == TM_OK; i++) {
        bool all_bytes;
        const char *p = piece(in, i, &n);
        st = tok_unspell(p, n, &raw, &all_bytes);
    }
    if (st == TM_OK) st = tok_utf8_repair(raw.p, raw.len, &out->text);
    str_free(&raw);
    return st == TM_OK ? end_piece(out) : st;
}

/* A run of byte tokens is its text, or one U+FFFD a byte when the run is not UTF-8. */
static enum status push_bytes(struct tok_chain *out, struct str *run) {
    bool good = tok_utf8_check(run->p, run->len) == run->len;
    for (size_t i = 0; i < run->len && !good; i++) TM_TRY(push(out, replacement_character, 3));
    if (good && run->len) TM_TRY(push(out, run->p, run->len));
    str_clear(run);
    return TM_OK;
}

static enum status run_byte_fallback(const struct tok_decoder *step, const struct tok_chain *in,
                                     struct tok_chain *out) {
    (void)step;
    struct str run = {0};
    enum status st = TM_OK;
    for (size_t i = 0, n; i < in->n && st == TM_OK; i++) {
        const char *p = piece(in, i, &n);
        int byte = tok_hex_byte(p, n);
        if (byte >= 0) {
            st = str_append(&run, &(char){(char)byte}, 1);
            continue;
        }
        st = push_bytes(out, &run);
        if (st == TM_OK) st = push(out, p, n);
    }
    if (st == TM_OK) st = push_bytes(out, &run);
    str_free(&run);
    return st;
}

static enum status run_metaspace(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out) {
    const size_t blank = strlen(step->text);
    for (size_t i = 0, n; i < in->n; i++) {
        const char *p = piece(in, i, &n);
        for (size_t k = 0, bytes; k < n; k += bytes) {
            bytes = tok_utf8_bytes(p[k]);
            bool is_blank = bytes == blank && !memcmp(p + k, step->text, blank);
            if (is_blank && i == 0 && step->flag) continue;
            TM_TRY(is_blank ? str_append(&out->text, " ", 1) : str_append(&out->text, p + k, bytes));
        }
        TM_TRY(end_piece(out));
    }
    return TM_OK;
}

/* Up to `start` and `stop` times the character at the ends of each piece. */
static enum status run_strip(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out) {
    const size_t width = strlen(step->text);
    for (size_t i = 0, n; i < in->n; i++) {
        const char *p = piece(in, i, &n);
        for (int64_t k = 0; k < step->start && n >= width && !memcmp(p, step->text, width); k++, n -= width) p += width;
        for (int64_t k = 0; k < step->stop && n >= width && !memcmp(p + n - width, step->text, width); k++) n -= width;
        TM_TRY(push(out, p, n));
    }
    return TM_OK;
}

/* Append text with each `find` replaced by `with`. */
static enum status replace(struct str *out, const char *text, size_t n, const char *find, const char *with) {
    const size_t width = strlen(find);
    for (size_t i = 0; i < n;) {
        const char *hit = width ? memmem(text + i, n - i, find, width) : NULL;
        size_t plain = hit ? (size_t)(hit - text) - i : n - i;
        TM_TRY(str_append(out, text + i, plain));
        if (hit) TM_TRY(str_append(out, with, strlen(with)));
        i += plain + (hit ? width : 0);
    }
    return TM_OK;
}

static enum status replace_pattern(const struct tok_decoder *step, struct tok_work *w, const char *p, size_t n,
                                   struct tok_chain *out) {
    struct tok_scan scan = {.pattern = &step->pattern, .text = p, .n = n};
    const size_t length = strlen(step->text);
    size_t at = 0;
    for (;; at = scan.end) {
        TM_TRY(tok_scan_next(&scan, w));
        if (!scan.found) break;
        TM_TRY(str_append(&out->text, p + at, scan.begin - at));
        if (out->text.len > out->most || length > out->most - out->text.len)
            return TM_FAIL(TM_ERR_DATA, "the tokenizer's decoder makes a text of more than %zu bytes", out->most);
        TM_TRY(str_append(&out->text, step->text, length));
    }
    return push(out, p + at, n - at);
}

static enum status run_replace(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out) {
    struct tok_work w = {0};
    enum status st = tok_work_init(&w);
    for (size_t i = 0, n; i < in->n && st == TM_OK; i++) {
        const char *p = piece(in, i, &n);
        st = replace_pattern(step, &w, p, n, out);
    }
    tok_work_free(&w);
    return st;
}

/* English contractions and punctuation, as BERT's tokenizer joins them. */
static enum status clean_up(struct str *s) {
    static const char *const pairs[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct str next = {0};
        enum status st = replace(&next, s->p, s->len, pairs[i][0], pairs[i][1]);
        str_free(s);
        *s = next;
        TM_TRY(st);
    }
    return TM_OK;
}

static enum status run_wordpiece(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out) {
    const size_t width = strlen(step->text);
    struct str word = {0};
    enum status st = TM_OK;
    for (size_t i = 0, n; i < in->n && st == TM_OK; i++) {
        const char *p = piece(in, i, &n);
        bool later = i && n >= width && !memcmp(p, step->text, width);
        str_clear(&word);
        if (i && !later) st = str_append(&word, " ", 1);
        if (st == TM_OK) st = str_append(&word, p + (later ? width : 0), n - (later ? width : 0));
        if (st == TM_OK && step->flag) st = clean_up(&word);
        if (st == TM_OK) st = push(out, word.p ? word.p : "", word.len);
    }
    str_free(&word);
    return st;
}

static enum status run_suffix(const struct tok_decoder *step, const struct tok_chain *in, struct tok_chain *out) {
    for (size_t i = 0, n; i < in->n; i++) {
        const char *p = piece(in, i, &n);
        TM_TRY(replace(&out->text, p, n, step->text, i + 1 < in->n ? " " : ""));
        TM_TRY(end_piece(out));
    }
    return TM_OK;
}

/* --- running ------------------------------------------------------------------------------------------------------------------*/

static bool is_left_out(const struct tok_tables *t, int32_t id, unsigned flags) {
    return (flags & TOK_SKIP_SPECIAL) && t->tokens[id].special;
}

static enum status run_all(const struct tok_tables *t, struct tok_chain *a, struct tok_chain *b, struct str *out) {
    for (size_t k = 0; k < t->ndecoders; k++) {
        clear(b);
        TM_TRY(t->decoders[k].run(&t->decoders[k], a, b));
        struct tok_chain swap = *a;
        *a = *b;
        *b = swap;
    }
    for (size_t i = 0, n; i < a->n && !t->ndecoders; i++) { /* without a decoder: the tokens with blanks between them */
        const char *p = piece(a, i, &n);
        if (i) TM_TRY(str_append(out, " ", 1));
        TM_TRY(str_append(out, p, n));
    }
    return t->ndecoders ? str_append(out, a->text.p ? a->text.p : "", a->text.len) : TM_OK;
}

enum status tok_decode_chain(const struct tok_tables *t, const int32_t *ids, size_t n, unsigned flags,
                             struct str *out) {
    struct tok_chain a = {0}, b = {0};
    enum status st = TM_OK;
    for (size_t i = 0; i < n && st == TM_OK; i++)
        if (!is_left_out(t, ids[i], flags))
            st = push(&a, t->spelling.p + t->tokens[ids[i]].offset, t->tokens[ids[i]].n);
    a.most = b.most = tok_most_bytes(a.text.len);
    if (st == TM_OK) st = run_all(t, &a, &b, out);
    str_free(&a.text);
    str_free(&b.text);
    mem_free(&a.ends);
    mem_free(&b.ends);
    return st;
}

/* --- reading ------------------------------------------------------------------------------------------------------------------*/

typedef enum status run_fn(const struct tok_decoder *, const struct tok_chain *, struct tok_chain *);

/* A step whose text is node[key]. */
static enum status add(struct tok_tables *t, run_fn *run, const json_t *node, const char *key, const char *absent,
                       const char *where, struct tok_decoder **out) {
    const char *text = "";
    struct tok_decoder *step = NULL;
    if (key) TM_TRY(json_get_str(node, key, where, absent, &text));
    TM_TRY(decoder_add(t, where, &step));
    step->run = run;
    if (out) *out = step;
    TM_TRY(mem_alloc(&step->text, strlen(text) + 1, 1));
    memcpy(step->text, text, strlen(text));
    return TM_OK;
}

enum status tok_read_join_bytes(const json_t *node, const char *where, struct tok_tables *t) {
    return add(t, run_byte_level, node, NULL, NULL, where, NULL);
}
enum status tok_read_join_fallback(const json_t *node, const char *where, struct tok_tables *t) {
    return add(t, run_byte_fallback, node, NULL, NULL, where, NULL);
}
enum status tok_read_join_fuse(const json_t *node, const char *where, struct tok_tables *t) {
    return add(t, run_fuse, node, NULL, NULL, where, NULL);
}
enum status tok_read_join_suffix(const json_t *node, const char *where, struct tok_tables *t) {
    return add(t, run_suffix, node, "suffix", "</w>", where, NULL);
}

enum status tok_read_join_metaspace(const json_t *node, const char *where, struct tok_tables *t) {
    struct tok_decoder *step;
    const char *scheme;
    bool prefix;
    TM_TRY(json_get_bool(node, "add_prefix_space", where, true, &prefix)); /* of older files */
    TM_TRY(json_get_str(node, "prepend_scheme", where, prefix ? "always" : "never", &scheme));
    TM_TRY(add(t, run_metaspace, node, "replacement", TOK_BLANK, where, &step));
    step->flag = strcmp(scheme, "never") != 0;
    return TM_OK;
}

enum status tok_read_join_strip(const json_t *node, const char *where, struct tok_tables *t) {
    struct tok_decoder *step;
    TM_TRY(add(t, run_strip, node, "content", " ", where, &step));
    if (!*step->text) return TM_FAIL(TM_ERR_FORMAT, "%s: decoder Strip: content is not one character", where);
    TM_TRY(json_get_i64(node, "start", where, 0, &step->start));
    return json_get_i64(node, "stop", where, 0, &step->stop);
}

enum status tok_read_join_replace(const json_t *node, const char *where, struct tok_tables *t) {
    struct tok_decoder *step;
    TM_TRY(add(t, run_replace, node, "content", "", where, &step));
    return tok_pattern_read(node, where, &step->pattern);
}

enum status tok_read_join_wordpiece(const json_t *node, const char *where, struct tok_tables *t) {
    struct tok_decoder *step;
    TM_TRY(add(t, run_wordpiece, node, "prefix", "##", where, &step));
    return json_get_bool(node, "cleanup", where, true, &step->flag);
}
