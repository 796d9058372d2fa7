/* Text files as documents: a buffered reader of lines, and what it takes for a document. */
#include "data/text.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/stop.h"
#include "base/str.h"
#include "tok/tok.h"

enum { MAX_TEXT = 1 << 30, MAX_LINE = 1 << 26, CHUNK = 1 << 16 };

struct data_text {
    char *path;
    struct data_text_opts o;
    int64_t from, to;
    int fd;
    struct str buffer;
    size_t keep, next; /* in the buffer: what must stay, and where the next line begins */
    int64_t offset;    /* where the buffer begins in the file */
    bool ended;        /* the file */
    bool done;         /* the range */
    bool in_step;      /* a document of this range may begin */
    int64_t at;        /* the present document's first byte in the file */
    struct str mended; /* it, when it was not UTF-8 */
    json_t *json;      /* its line */
    int64_t documents, damaged;
};

enum data_split data_text_split(const char *path, const char *format) {
    size_t n = strlen(path);
    bool named = n > 6 && !strcmp(path + n - 6, ".jsonl");
    return !strcmp(format, "jsonl") || (named && strcmp(format, "text")) ? DATA_SPLIT_JSONL : DATA_SPLIT_BLANK;
}

static bool is_blank(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\v\f", p[i]) || !p[i]) return false;
    return true;
}

/* --- lines --------------------------------------------------------------------------------------------------------------*/

/* More of the file; what is kept moves to the front. */
static enum status refill(struct data_text *t) {
    size_t have = t->buffer.len - t->keep, most = t->o.split == DATA_SPLIT_JSONL ? MAX_LINE : MAX_TEXT;
    if (have > most)
        return TM_FAIL(TM_ERR_DATA, "%s: the %s at byte %lld is longer than %zu bytes", t->path,
                       t->o.split == DATA_SPLIT_JSONL ? "line" : "document", (long long)(t->offset + (int64_t)t->keep),
                       most);
    if (have && t->keep) memmove(t->buffer.p, t->buffer.p + t->keep, have);
    t->offset += (int64_t)t->keep;
    t->next -= t->keep;
    t->keep = 0;
    t->buffer.len = have;
    TM_TRY(mem_grow(&t->buffer.p, &t->buffer.cap, have + CHUNK + 1, 1));
    ssize_t got = pread(t->fd, t->buffer.p + have, CHUNK, t->offset + (int64_t)have);
    if (got < 0 && errno != EINTR) return TM_FAIL(TM_ERR_IO, "cannot read %s: %s", t->path, strerror(errno));
    t->ended = got == 0;
    t->buffer.len += got > 0 ? (size_t)got : 0;
    return TM_OK;
}

/* The next line with its line end: n bytes before t->next; 0 at the end of the file. */
static enum status next_line(struct data_text *t, size_t *n) {
    for (size_t scanned = 0;;) {
        size_t have = t->buffer.len - t->next;
        const char *p = t->buffer.p + t->next, *end = have > scanned ? memchr(p + scanned, '\n', have - scanned) : NULL;
        if (end || t->ended) {
            *n = end ? (size_t)(end - p) + 1 : have;
            t->next += *n;
            return TM_OK;
        }
        scanned = have;
        TM_TRY(refill(t));
    }
}

/* The line that a range begins in is the last range's, however long it is. */
static enum status skip_line(struct data_text *t) {
    for (;;) {
        size_t have = t->buffer.len - t->next;
        const char *p = t->buffer.p + t->next, *end = have ? memchr(p, '\n', have) : NULL;
        t->next = t->keep = end ? (size_t)(end + 1 - t->buffer.p) : t->buffer.len;
        if (end || t->ended) return TM_OK;
        TM_TRY(refill(t));
    }
}

/* --- documents ----------------------------------------------------------------------------------------------------------*/

/* A document is a run of lines that are not blank: [t->keep, *end) of the buffer. The range ends at a blank line. */
static enum status find_plain(struct data_text *t, size_t *end) {
    bool whole = t->o.split == DATA_SPLIT_FILE;
    t->keep = *end = t->next;
    while (!t->done) {
        size_t n;
        TM_TRY(next_line(t, &n));
        size_t begin = t->next - n, length = begin - t->keep; /* of the document so far */
        bool blank = !whole && is_blank(t->buffer.p + begin, n);
        if (n == 0 || (blank && t->offset + (int64_t)begin >= t->to)) t->done = true;
        if (n == 0 || blank) t->in_step = true;
        if ((n == 0 || blank) && length > 0) {
            *end = begin;
            return TM_OK;
        }
        if (blank || !t->in_step) t->keep = t->next;
    }
    *end = t->keep;
    return TM_OK;
}

/* A line that is not blank, without its line end. The range ends at a line. */
static enum status find_line(struct data_text *t, size_t *end) {
    while (!t->done) {
        size_t n;
        t->keep = t->next;
        if (t->offset + (int64_t)t->next >= t->to) break;
        TM_TRY(next_line(t, &n));
        if (n == 0) break;
        *end = t->next - (t->buffer.p[t->next - 1] == '\n');
        if (!is_blank(t->buffer.p + t->keep, n)) return TM_OK;
    }
    t->done = true;
    *end = t->keep;
    return TM_OK;
}

/* Apply the policy to a document; *n becomes 0 where it is left out. */
static enum status mend(struct data_text *t, const char **text, size_t *n) {
    size_t bad = tok_utf8_check(*text, *n);
    if (bad == *n) return TM_OK;
    if (t->o.utf8 == DATA_UTF8_STRICT)
        return TM_FAIL(TM_ERR_DATA, "%s: byte %lld (0x%02x) is not valid UTF-8", t->path,
                       (long long)(t->at + (int64_t)bad), (unsigned)(unsigned char)(*text)[bad]);
    t->damaged++;
    str_clear(&t->mended);
    if (t->o.utf8 == DATA_UTF8_REPLACE) TM_TRY(tok_utf8_repair(*text, *n, &t->mended));
    *text = t->mended.p;
    *n = t->mended.len;
    return TM_OK;
}

/* Counted only when something is to be said about a line: reads the file up to there again. */
static int64_t line_number(const struct data_text *t) {
    char bytes[4096];
    int64_t lines = 1;
    for (int64_t at = 0, n; at < t->at; at += n) {
        n = pread(t->fd, bytes, (size_t)size_min((int64_t)sizeof bytes, t->at - at), at);
        if (n < 1) break;
        for (int64_t i = 0; i < n; i++) lines += bytes[i] == '\n';
    }
    return lines;
}

static enum status parse(struct data_text *t, const char **text, size_t *n) {
    json_error_t e;
    t->json = json_loadb(*text, *n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!t->json)
        return TM_FAIL(TM_ERR_DATA, "%s:%lld:%d: not valid JSON: %s", t->path, (long long)line_number(t), e.column,
                       e.text);
    const json_t *value = json_object_get(t->json, t->o.text_key);
    if (!json_is_string(value))
        return TM_FAIL(TM_ERR_DATA, "%s:%lld: expected an object with a string under \"%s\"", t->path,
                       (long long)line_number(t), t->o.text_key);
    *text = json_string_value(value);
    *n = json_string_length(value);
    return TM_OK;
}

enum status data_text_next(struct data_text *t, const char **text, size_t *n) {
    bool lines = t->o.split == DATA_SPLIT_JSONL;
    for (;;) {
        size_t end = 0;
        json_decref(t->json);
        t->json = NULL;
        *text = NULL;
        TM_TRY(lines ? find_line(t, &end) : find_plain(t, &end));
        *n = end - t->keep;
        if (*n == 0) return TM_OK;
        *text = t->buffer.p + t->keep;
        t->at = t->offset + (int64_t)t->keep;
        if (t->o.split == DATA_SPLIT_FILE && is_blank(*text, *n)) continue;
        TM_TRY(mend(t, text, n));
        if (*n == 0) continue;
        t->documents++;
        return lines ? parse(t, text, n) : TM_OK;
    }
}

enum status data_text_context(const struct data_text *t, enum status st) {
    if (t->o.split == DATA_SPLIT_JSONL) return status_context(st, "%s:%lld: ", t->path, (long long)line_number(t));
    return status_context(st, "%s: document at byte %lld: ", t->path, (long long)t->at);
}

int64_t data_text_read(const struct data_text *t) { return t->offset + (int64_t)t->next - t->from; }
int64_t data_text_damaged(const struct data_text *t) { return t->damaged; }

/* --- files --------------------------------------------------------------------------------------------------------------*/

enum status data_text_open(const char *path, const struct data_text_opts *o, int64_t from, int64_t to,
                           struct data_text **out) {
    struct data_text *t;
    size_t n = strlen(path) + 1;
    *out = NULL;
    TM_TRY(mem_alloc(&t, 1, sizeof *t));
    t->o = *o;
    t->from = from;
    t->to = to;
    t->fd = -1;
    t->in_step = from == 0 || o->split == DATA_SPLIT_JSONL;
    t->done = from >= to || (from > 0 && o->split == DATA_SPLIT_FILE);
    t->offset = from - (from > 0); /* the byte before tells whether a line begins here */
    enum status st = mem_alloc(&t->path, n, 1);
    if (st == TM_OK) {
        memcpy(t->path, path, n);
        st = file_open(path, &t->fd, NULL);
    }
    if (st == TM_OK) st = refill(t);
    if (st == TM_OK && from > 0 && !t->done) st = skip_line(t);
    if (st == TM_OK)
        *out = t;
    else
        data_text_close(&t);
    return st;
}

void data_text_close(struct data_text **handle) {
    struct data_text *t = *handle;
    if (!t) return;
    if (t->fd >= 0) close(t->fd);
    json_decref(t->json);
    str_free(&t->buffer);
    str_free(&t->mended);
    mem_free(&t->path);
    mem_free(handle);
}

enum status data_text_each(const char *path, const struct data_text_opts *o, data_document_fn *fn, void *ctx) {
    struct data_text *t;
    TM_TRY(data_text_open(path, o, 0, INT64_MAX, &t));
    enum status st = TM_OK;
    for (const char *text; st == TM_OK;) {
        size_t n;
        st = stop_check("text");
        if (st == TM_OK) st = data_text_next(t, &text, &n);
        if (st != TM_OK || !text) break;
        st = fn(ctx, text, n);
        if (st != TM_OK) data_text_context(t, st);
    }
    if (st == TM_OK && t->documents == 0)
        st = TM_FAIL(TM_ERR_DATA, "%s holds no %s (%lld bytes)", path,
                     o->split == DATA_SPLIT_JSONL ? "document" : "text", (long long)data_text_read(t));
    data_text_close(&t);
    return st;
}
