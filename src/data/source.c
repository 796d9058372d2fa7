/* Sources of tokens: one struct, one table of functions per kind. */
#include "data/source.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/str.h"
#include "data/index.h"

struct data_source {
    enum data_kind kind;
    char *name;
    int64_t first, documents, tokens; /* the documents that are kept, and their tokens */
    struct data_index *index;         /* DATA_INDEX */
    struct tok_ids ids;               /* DATA_TEXT: all tokens */
    int64_t *begin;                   /* DATA_TEXT: [documents + 1], where each document begins in ids */
    size_t cap_begin;                 /* DATA_TEXT */
    int64_t t, *rows, *labels;        /* DATA_ROWS: [documents, t] */
    int64_t *row_begin, *row_end;     /* DATA_ROWS: [documents], the real tokens */
    uint64_t seed;                    /* DATA_MOCK, to the end */
    int64_t max_length, vocab;
    int32_t eod;
};

static enum status create(enum data_kind kind, const char *name, struct data_source **out) {
    *out = NULL;
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    (*out)->kind = kind;
    enum status st = mem_alloc(&(*out)->name, strlen(name) + 1, 1);
    if (st == TM_OK)
        memcpy((*out)->name, name, strlen(name) + 1);
    else
        data_source_free(out);
    return st;
}

/* Give the finished source to the caller, or free it; an empty one is an error. */
static enum status deliver(enum status st, struct data_source **s) {
    if (st == TM_OK && (*s)->tokens < 1)
        st = TM_FAIL(TM_ERR_DATA, "%s holds no tokens (%lld documents)", (*s)->name, (long long)(*s)->documents);
    if (st != TM_OK) data_source_free(s);
    return st;
}

void data_source_free(struct data_source **handle) {
    struct data_source *s = *handle;
    if (!s) return;
    data_index_close(&s->index);
    tok_ids_free(&s->ids);
    mem_free(&s->begin);
    mem_free(&s->rows);
    mem_free(&s->labels);
    mem_free(&s->row_begin);
    mem_free(&s->row_end);
    mem_free(&s->name);
    mem_free(handle);
}

static bool ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), m = strlen(ending);
    return n > m && !strcmp(text + n - m, ending);
}

static enum status kind_by_name(const char *path, enum data_kind *out) {
    struct str idx = {0};
    if (!strcmp(path, "mock") || ends_with(path, ".safetensors")) {
        *out = strcmp(path, "mock") ? DATA_ROWS : DATA_MOCK;
        return TM_OK;
    }
    bool part = ends_with(path, ".idx") || ends_with(path, ".bin");
    TM_TRY(str_printf(&idx, "%.*s.idx", (int)(strlen(path) - (part ? 4 : 0)), path));
    bool indexed = file_exists(idx.p), text = !part && file_exists(path) && !file_is_dir(path);
    *out = indexed ? DATA_INDEX : DATA_TEXT;
    enum status st =
        indexed || text ? TM_OK : TM_FAIL(TM_ERR_DATA, "%s: neither a file nor a prefix of .idx and .bin", path);
    str_free(&idx);
    return st;
}

enum status data_kind_of(const char *path, const char *format, enum data_kind *out) {
    static const struct {
        const char *format;
        enum data_kind kind;
    } rows[] = {
        {"mock", DATA_MOCK}, {"bin", DATA_INDEX}, {"tokens", DATA_ROWS}, {"text", DATA_TEXT}, {"jsonl", DATA_TEXT}};
    bool found = false;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !found; i++)
        if ((found = !strcmp(format, rows[i].format))) *out = rows[i].kind;
    if (!found) TM_TRY(kind_by_name(path, out));
    bool is_file = *out == DATA_ROWS || *out == DATA_TEXT;
    return !is_file || file_exists(path) ? TM_OK : TM_FAIL(TM_ERR_DATA, "%s: no such file", path);
}

/* --- kinds --------------------------------------------------------------------------------------------------------------*/

enum status data_source_index(const char *prefix, struct data_source **out) {
    TM_TRY(create(DATA_INDEX, prefix, out));
    enum status st = data_index_open(prefix, &(*out)->index);
    if (st == TM_OK) {
        (*out)->documents = (*out)->index->sequences;
        (*out)->tokens = (*out)->index->tokens;
    }
    return deliver(st, out);
}

/* The real tokens of a row are one run of ones. */
static enum status read_mask(const struct data_source *s, const int64_t *mask, int64_t row) {
    const int64_t *m = mask + row * s->t;
    int64_t begin = 0, end;
    while (begin < s->t && !m[begin]) begin++;
    for (end = begin; end < s->t && m[end];) end++;
    for (int64_t i = end; i < s->t; i++)
        if (m[i])
            return TM_FAIL(TM_ERR_DATA,
                           "%s: attention_mask of row %lld has a hole before position %lld: expected padding at the "
                           "ends only",
                           s->name, (long long)row, (long long)i);
    s->row_begin[row] = begin;
    s->row_end[row] = end;
    return TM_OK;
}

static enum status fill_rows(struct data_source *s, const int64_t *ids, const int64_t *mask, const int64_t *labels) {
    int64_t n;
    if (!size_mul_i64(s->documents, s->t, &n) || n == 0)
        return TM_FAIL(TM_ERR_DATA, "%s: %lld rows of %lld tokens", s->name, (long long)s->documents, (long long)s->t);
    s->tokens = n;
    TM_TRY(mem_alloc(&s->rows, (size_t)n, sizeof *s->rows));
    TM_TRY(mem_alloc(&s->row_begin, (size_t)s->documents, sizeof *s->row_begin));
    TM_TRY(mem_alloc(&s->row_end, (size_t)s->documents, sizeof *s->row_end));
    memcpy(s->rows, ids, (size_t)n * sizeof *ids);
    if (labels) {
        TM_TRY(mem_alloc(&s->labels, (size_t)n, sizeof *s->labels));
        memcpy(s->labels, labels, (size_t)n * sizeof *labels);
    }
    for (int64_t r = 0; r < s->documents; r++) {
        s->row_end[r] = s->t;
        if (mask) TM_TRY(read_mask(s, mask, r));
    }
    return TM_OK;
}

enum status data_source_rows(const char *name, const int64_t *ids, const int64_t *mask, const int64_t *labels,
                             int64_t b, int64_t t, struct data_source **out) {
    TM_TRY(create(DATA_ROWS, name, out));
    (*out)->documents = b;
    (*out)->t = t;
    return deliver(fill_rows(*out, ids, mask, labels), out);
}

struct text_reader {
    struct data_source *s;
    struct tok *t;
    int32_t eod;
};

static enum status add_document(void *ctx, const char *text, size_t n) {
    struct text_reader *r = ctx;
    struct data_source *s = r->s;
    size_t start = s->ids.n;
    TM_TRY(tok_encode(r->t, text, n, 0, &s->ids));
    if (s->ids.n == start) return TM_OK;
    if (r->eod >= 0) {
        TM_TRY(mem_grow(&s->ids.p, &s->ids.cap, s->ids.n + 1, sizeof *s->ids.p));
        s->ids.p[s->ids.n++] = r->eod;
    }
    TM_TRY(mem_grow(&s->begin, &s->cap_begin, (size_t)s->documents + 2, sizeof *s->begin));
    s->documents++;
    s->tokens = s->begin[s->documents] = (int64_t)s->ids.n;
    return TM_OK;
}

enum status data_source_text(const char *path, const struct data_text_opts *o, struct tok *t, int32_t eod,
                             struct data_source **out) {
    TM_TRY(create(DATA_TEXT, path, out));
    return deliver(data_text_each(path, o, add_document, &(struct text_reader){.s = *out, .t = t, .eod = eod}), out);
}

static int64_t mock_length(const struct data_source *s, int64_t document) {
    static const char name[] = "data/mock/length";
    return 1 + (int64_t)rng_below(s->seed, rng_stream(name), (uint64_t)document, (uint64_t)s->max_length);
}

enum status data_source_mock(uint64_t seed, int64_t documents, int64_t max_length, int64_t vocab, int32_t eod,
                             struct data_source **out) {
    if (documents < 1 || max_length < 1 || vocab < 1)
        return TM_FAIL(TM_ERR_DECK,
                       "mock data of %lld documents of at most %lld tokens out of %lld: each must be at least 1",
                       (long long)documents, (long long)max_length, (long long)vocab);
    TM_TRY(create(DATA_MOCK, "mock", out));
    struct data_source *s = *out;
    s->documents = documents;
    s->seed = seed;
    s->max_length = max_length;
    s->vocab = vocab;
    s->eod = eod;
    for (int64_t d = 0; d < documents; d++) s->tokens += mock_length(s, d);
    return TM_OK;
}

/* --- reading ------------------------------------------------------------------------------------------------------------*/

enum data_kind data_source_kind(const struct data_source *s) { return s->kind; }
const char *data_source_name(const struct data_source *s) { return s->name; }
int64_t data_source_documents(const struct data_source *s) { return s->documents; }
int64_t data_source_tokens(const struct data_source *s) { return s->tokens; }

int64_t data_source_first(const struct data_source *s) { return s->first; }

int64_t data_source_length(const struct data_source *s, int64_t document) {
    document += s->first;
    switch (s->kind) {
    case DATA_INDEX: return data_index_length(s->index, document);
    case DATA_TEXT: return s->begin[document + 1] - s->begin[document];
    case DATA_ROWS: return s->t;
    case DATA_MOCK: break;
    }
    return mock_length(s, document);
}

enum status data_source_keep(struct data_source *s, double from, double to) {
    int64_t n = s->documents, first = (int64_t)rint(from * (double)n), end = (int64_t)rint(to * (double)n);
    s->first += first;
    s->documents = end - first;
    s->tokens = 0;
    for (int64_t d = 0; d < s->documents; d++) s->tokens += data_source_length(s, d);
    if (s->tokens > 0) return TM_OK;
    return TM_FAIL(TM_ERR_DATA, "%s: the split from %g to %g of %lld documents, [%lld, %lld), holds %s", s->name, from,
                   to, (long long)n, (long long)first, (long long)end, first < end ? "no token" : "none of them");
}

static void mock_read(const struct data_source *s, int64_t document, int64_t first, int64_t n, int64_t *out) {
    uint64_t stream =
        rng_stream("data/mock/token") + (uint64_t)document; /* documents are streams, positions counters */
    int64_t last = mock_length(s, document) - 1;
    for (int64_t i = 0; i < n; i++) {
        out[i] = (int64_t)rng_below(s->seed, stream, (uint64_t)(first + i), (uint64_t)s->vocab);
        if (s->eod >= 0 && first + i == last) out[i] = s->eod;
    }
}

enum status data_source_read(const struct data_source *s, int64_t document, int64_t first, int64_t n, int64_t *out) {
    if (document < 0 || document >= s->documents || first < 0 || n < 0 || n > data_source_length(s, document) - first)
        return TM_FAIL(TM_ERR_INTERNAL, "%s: read of %lld tokens at %lld of document %lld", s->name, (long long)n,
                       (long long)first, (long long)document);
    document += s->first;
    switch (s->kind) {
    case DATA_INDEX: return data_index_read(s->index, document, first, n, out);
    case DATA_TEXT:
        for (int64_t i = 0; i < n; i++) out[i] = s->ids.p[s->begin[document] + first + i];
        break;
    case DATA_ROWS: memcpy(out, s->rows + document * s->t + first, (size_t)n * sizeof *out); break;
    case DATA_MOCK: mock_read(s, document, first, n, out); break;
    }
    return TM_OK;
}

const int64_t *data_source_row(const struct data_source *s, int64_t row, int64_t *begin, int64_t *end) {
    row += s->first;
    *begin = s->row_begin[row];
    *end = s->row_end[row];
    return s->labels ? s->labels + row * s->t : NULL;
}
