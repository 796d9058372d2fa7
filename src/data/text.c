/* Text files as documents: plain text and JSONL; and their conversion into token shards. */
#include "data/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "data/index.h"

enum { MAX_TEXT = 1 << 30, MAX_LINE = 1 << 26, CHUNK = 1 << 20 };

static enum status check_utf8(const char *path, const char *text, size_t n, int64_t offset) {
    size_t bad = tok_utf8_check(text, n);
    if (bad == n) return TM_OK;
    return TM_FAIL(TM_ERR_DATA, "%s: byte %lld (0x%02x) is not valid UTF-8", path, (long long)(offset + (int64_t)bad),
                   (unsigned)(unsigned char)text[bad]);
}

static bool is_blank(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\v\f", p[i]) || !p[i]) return false;
    return true;
}

/* --- plain text ---------------------------------------------------------------------------------------------------------*/

static enum status give(const char *path, const char *text, size_t begin, size_t end, data_document_fn *fn, void *ctx) {
    enum status st = fn(ctx, text + begin, end - begin);
    return st == TM_OK ? st : status_context(st, "%s: document at byte %zu: ", path, begin);
}

/* A document is a run of lines that are not blank. */
static enum status each_piece(const char *path, const char *text, size_t n, data_document_fn *fn, void *ctx) {
    size_t begin = 0, end = 0; /* the open document, empty when begin == end */
    for (size_t at = 0, next; at < n; at = next) {
        const char *line_end = memchr(text + at, '\n', n - at);
        next = line_end ? (size_t)(line_end - text) + 1 : n;
        bool blank = is_blank(text + at, next - at);
        if (blank && end > begin) TM_TRY(give(path, text, begin, end, fn, ctx));
        if (blank || begin == end) begin = blank ? next : at;
        end = next;
    }
    return end > begin ? give(path, text, begin, end, fn, ctx) : TM_OK;
}

static enum status each_plain(const char *path, enum data_split split, data_document_fn *fn, void *ctx) {
    char *text;
    size_t n;
    TM_TRY(file_read(path, MAX_TEXT, &text, &n));
    enum status st = check_utf8(path, text, n, 0);
    if (st == TM_OK && is_blank(text, n)) st = TM_FAIL(TM_ERR_DATA, "%s holds no text (%zu bytes)", path, n);
    if (st == TM_OK)
        st = split == DATA_SPLIT_FILE ? give(path, text, 0, n, fn, ctx) : each_piece(path, text, n, fn, ctx);
    mem_free(&text);
    return st;
}

/* --- JSONL --------------------------------------------------------------------------------------------------------------*/

struct lines {
    const char *path;
    int fd;
    struct str buffer;
    size_t begin;   /* where the next line begins in the buffer */
    int64_t offset; /* where the buffer begins in the file */
    bool ended;
};

/* The next line without its line end, borrowed from the buffer; *line NULL at the end of the file. */
static enum status next_line(struct lines *l, const char **line, size_t *n) {
    for (size_t scanned = 0;;) {
        size_t have = l->buffer.len - l->begin;
        const char *p = have ? l->buffer.p + l->begin : "", *end = memchr(p + scanned, '\n', have - scanned);
        if (end || (l->ended && have)) {
            *line = p;
            *n = end ? (size_t)(end - p) : have;
            l->begin += *n + (end != NULL);
            return TM_OK;
        }
        *line = NULL;
        if (l->ended) return TM_OK;
        if (have > MAX_LINE)
            return TM_FAIL(TM_ERR_DATA, "%s: the line at byte %lld is longer than %d bytes", l->path,
                           (long long)(l->offset + (int64_t)l->begin), MAX_LINE);
        scanned = have;
        if (have) memmove(l->buffer.p, p, have); /* what is open moves to the front */
        l->offset += (int64_t)l->begin;
        l->begin = 0;
        l->buffer.len = have;
        TM_TRY(mem_grow(&l->buffer.p, &l->buffer.cap, have + CHUNK + 1, 1));
        ssize_t got = read(l->fd, l->buffer.p + have, CHUNK);
        if (got < 0 && errno != EINTR) return TM_FAIL(TM_ERR_IO, "cannot read %s: %s", l->path, strerror(errno));
        l->ended = got == 0;
        l->buffer.len += got > 0 ? (size_t)got : 0;
    }
}

static enum status one_line(const char *path, const char *key, int64_t number, const char *line, size_t n,
                            data_document_fn *fn, void *ctx) {
    json_error_t e;
    json_t *root = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!root) return TM_FAIL(TM_ERR_DATA, "%s:%lld:%d: not valid JSON: %s", path, (long long)number, e.column, e.text);
    const json_t *text = json_object_get(root, key);
    enum status st;
    if (json_is_string(text)) {
        st = fn(ctx, json_string_value(text), json_string_length(text));
        if (st != TM_OK) status_context(st, "%s:%lld: ", path, (long long)number);
    } else {
        st = TM_FAIL(TM_ERR_DATA, "%s:%lld: expected an object with a string under \"%s\"", path, (long long)number,
                     key);
    }
    json_decref(root);
    return st;
}

static enum status each_json_line(const char *path, const char *key, data_document_fn *fn, void *ctx) {
    struct lines l = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (l.fd < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    enum status st = TM_OK;
    int64_t number = 0, documents = 0;
    for (const char *line; st == TM_OK;) {
        size_t n;
        st = next_line(&l, &line, &n);
        if (st != TM_OK || !line) break;
        number++;
        if (is_blank(line, n)) continue;
        documents++;
        st = check_utf8(path, line, n, l.offset + (line - l.buffer.p));
        if (st == TM_OK) st = one_line(path, key, number, line, n, fn, ctx);
    }
    if (st == TM_OK && documents == 0) st = TM_FAIL(TM_ERR_DATA, "%s holds no document", path);
    str_free(&l.buffer);
    close(l.fd);
    return st;
}

enum status data_text_each(const char *path, enum data_split split, const char *text_key, data_document_fn *fn,
                           void *ctx) {
    size_t n = strlen(path);
    bool jsonl = n > 6 && !strcmp(path + n - 6, ".jsonl");
    return jsonl ? each_json_line(path, text_key, fn, ctx) : each_plain(path, split, fn, ctx);
}

/* --- conversion ---------------------------------------------------------------------------------------------------------*/

struct conversion {
    struct tok *t;
    int32_t eod;
    struct data_writer *w;
    struct tok_ids ids;
    int64_t documents, tokens;
};

static enum status convert_document(void *ctx, const char *text, size_t n) {
    struct conversion *c = ctx;
    c->ids.n = 0;
    TM_TRY(tok_encode(c->t, text, n, 0, &c->ids));
    if (c->ids.n == 0) return TM_OK;
    if (c->eod >= 0) {
        TM_TRY(mem_grow(&c->ids.p, &c->ids.cap, c->ids.n + 1, sizeof *c->ids.p));
        c->ids.p[c->ids.n++] = c->eod;
    }
    c->documents++;
    c->tokens += (int64_t)c->ids.n;
    TM_TRY(data_writer_add(c->w, c->ids.p, c->ids.n));
    return data_writer_end_document(c->w);
}

enum status data_convert_text(const char *const *paths, size_t npaths, enum data_split split, const char *text_key,
                              struct tok *t, int32_t eod, const char *prefix, int64_t *documents, int64_t *tokens) {
    struct conversion c = {.t = t, .eod = eod};
    if (eod >= tok_vocab_size(t))
        return TM_FAIL(TM_ERR_DECK, "end-of-document id %d: the vocabulary has %d ids", (int)eod,
                       (int)tok_vocab_size(t));
    TM_TRY(data_writer_open(prefix, tok_vocab_size(t) < 65500 ? DATA_U16 : DATA_I32, &c.w));
    enum status st = TM_OK;
    for (size_t i = 0; i < npaths && st == TM_OK; i++)
        st = data_text_each(paths[i], split, text_key, convert_document, &c);
    if (st == TM_OK && c.tokens == 0) st = TM_FAIL(TM_ERR_DATA, "no text in %zu files for %s", npaths, prefix);
    if (st == TM_OK)
        st = data_writer_finish(&c.w);
    else
        data_writer_cancel(&c.w);
    tok_ids_free(&c.ids);
    if (documents) *documents = c.documents;
    if (tokens) *tokens = c.tokens;
    return st;
}
