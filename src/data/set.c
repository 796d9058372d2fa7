/* Datasets: from a global sample index to a packed row. */
#include "data/set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "data/order.h"

struct member {
    struct data_source *source;
    double weight;
    int64_t samples; /* of one epoch */
    /* The stream of one epoch, kept until another is asked for: begin[k] = place of the k-th document of the epoch's order. */
    int64_t *begin; /* [documents + 1] */
    int64_t epoch;  /* -1: none yet */
};

struct data_set {
    struct data_opts opts;
    struct member *members;
    size_t n;
    bool weighted;
    struct data_blend blend; /* weighted */
    int64_t samples;         /* of one pass */
    int64_t *tokens;         /* scratch, [T + 1] */
    int64_t *document;       /* scratch, [T + 1]: where in the row each token's document begins */
};

/* --- making -------------------------------------------------------------------------------------------------------------*/

static enum status count_samples(const struct data_opts *o, struct member *m) {
    const char *name = data_source_name(m->source);
    int64_t documents = data_source_documents(m->source), tokens = data_source_tokens(m->source), t = o->seq_length;
    if (data_source_kind(m->source) == DATA_ROWS) {
        int64_t length = data_source_length(m->source, 0);
        if (length != t)
            return TM_FAIL(TM_ERR_SHAPE, "%s has rows of %lld tokens: expected seq_length = %lld", name,
                           (long long)length, (long long)t);
        m->samples = documents;
        return TM_OK;
    }
    m->samples = o->drop_partial ? (tokens - 1) / t : size_ceil_div(tokens - 1, t);
    if (m->samples < 1)
        return TM_FAIL(TM_ERR_DATA, "%s holds %lld tokens: expected at least %lld", name, (long long)tokens,
                       (long long)(o->drop_partial ? t + 1 : 2));
    return mem_alloc(&m->begin, (size_t)documents + 1, sizeof *m->begin);
}

static enum status set_up_blend(struct data_set *s) {
    size_t with = 0;
    double *weights;
    for (size_t i = 0; i < s->n; i++) with += s->members[i].weight != 0;
    s->weighted = with > 0;
    if (!s->weighted) return TM_OK;
    if (with != s->n) return TM_FAIL(TM_ERR_DECK, "%zu of %zu sources have a weight: expected all or none", with, s->n);
    TM_TRY(mem_alloc(&weights, s->n, sizeof *weights));
    for (size_t i = 0; i < s->n; i++) weights[i] = s->members[i].weight;
    enum status st = data_blend_create(weights, s->n, &s->blend);
    mem_free(&weights);
    return st;
}

static enum status set_up(struct data_set *s) {
    struct data_opts *o = &s->opts;
    for (size_t i = 0; i < s->n && o->seq_length == 0; i++)
        if (data_source_kind(s->members[i].source) == DATA_ROWS)
            o->seq_length = data_source_length(s->members[i].source, 0);
    if (s->n < 1) return TM_FAIL(TM_ERR_DECK, "a dataset without sources");
    if (o->seq_length < 1 || o->seq_length > INT32_MAX - 1 || o->vocab < 1 || o->vocab > INT32_MAX)
        return TM_FAIL(TM_ERR_DECK, "seq_length = %lld with a vocabulary of %lld: expected both from 1 to 2^31 - 2",
                       (long long)o->seq_length, (long long)o->vocab);
    if (o->pad >= o->vocab)
        return TM_FAIL(TM_ERR_DECK, "padding id %d: expected one below %lld", (int)o->pad, (long long)o->vocab);
    TM_TRY(mem_alloc(&s->tokens, (size_t)o->seq_length + 1, sizeof *s->tokens));
    TM_TRY(mem_alloc(&s->document, (size_t)o->seq_length + 1, sizeof *s->document));
    for (size_t i = 0; i < s->n; i++) {
        TM_TRY(count_samples(o, &s->members[i]));
        s->samples += s->members[i].samples;
    }
    return set_up_blend(s);
}

enum status data_set_create(const struct data_opts *opts, const struct data_member *members, size_t n,
                            struct data_set **out) {
    struct data_set *s = NULL;
    struct member *m = NULL;
    *out = NULL;
    enum status st = mem_alloc(&s, 1, sizeof *s);
    if (st == TM_OK) st = mem_alloc(&m, n, sizeof *m);
    for (size_t i = 0; i < n; i++) {
        struct data_source *source = members[i].source;
        if (st == TM_OK)
            m[i] = (struct member){.source = source, .weight = members[i].weight, .epoch = -1};
        else
            data_source_free(&source);
    }
    if (st == TM_OK) {
        s->opts = *opts;
        s->members = m;
        s->n = n;
        st = set_up(s);
    }
    if (st == TM_OK)
        *out = s;
    else
        data_set_free(&s);
    return st;
}

void data_set_free(struct data_set **handle) {
    struct data_set *s = *handle;
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) {
        data_source_free(&s->members[i].source);
        mem_free(&s->members[i].begin);
    }
    mem_free(&s->members);
    data_blend_free(&s->blend);
    mem_free(&s->tokens);
    mem_free(&s->document);
    mem_free(handle);
}

int64_t data_set_seq_length(const struct data_set *s) { return s->opts.seq_length; }
int64_t data_set_samples(const struct data_set *s) { return s->samples; }

/* --- which sample -------------------------------------------------------------------------------------------------------*/

static uint64_t stream_of(const char *what, size_t member, int64_t epoch) {
    char name[96];
    snprintf(name, sizeof name, "data/%s/%zu/%lld", what, member, (long long)epoch);
    return rng_stream(name);
}

/* A sample of one source: the `place`-th of an epoch, before any packing. */
struct place {
    size_t member;
    int64_t epoch, sample;
};

/* The one place where a global index becomes (source, epoch, sample): another index scheme, such as Megatron's own shuffle
 * indices, goes in here and in document_at. */
static struct place locate(const struct data_set *s, int64_t index) {
    struct place p = {0};
    uint64_t seed = s->opts.seed;
    if (s->weighted) {
        int64_t sample;
        data_blend_locate(&s->blend, index, &p.member, &sample);
        int64_t n = s->members[p.member].samples;
        p.epoch = sample / n;
        p.sample = sample % n;
        if (s->opts.shuffle) p.sample = data_permute(seed, stream_of("samples", p.member, p.epoch), n, p.sample);
        return p;
    }
    p.epoch = index / s->samples;
    p.sample = index % s->samples;
    if (s->opts.shuffle) p.sample = data_permute(seed, stream_of("samples", s->n, p.epoch), s->samples, p.sample);
    while (p.sample >= s->members[p.member].samples) p.sample -= s->members[p.member++].samples;
    return p;
}

/* The document at place k of an epoch's order. */
static int64_t document_at(const struct data_set *s, const struct place *p, uint64_t stream, int64_t k) {
    int64_t n = data_source_documents(s->members[p->member].source);
    return s->opts.shuffle ? data_permute(s->opts.seed, stream, n, k) : k;
}

static void lay_out_epoch(const struct data_set *s, const struct place *p, uint64_t stream) {
    struct member *m = &s->members[p->member];
    if (m->epoch == p->epoch || (m->epoch >= 0 && !s->opts.shuffle)) return;
    int64_t n = data_source_documents(m->source);
    for (int64_t k = 0; k < n; k++)
        m->begin[k + 1] = m->begin[k] + data_source_length(m->source, document_at(s, p, stream, k));
    m->epoch = p->epoch;
}

/* The pieces of documents that make up tokens [from, from + n) of the epoch's stream, in order. */
typedef enum status piece_fn(void *ctx, const struct data_set *s, size_t member, int64_t document, int64_t first,
                             int64_t n);

static enum status each_piece(const struct data_set *s, const struct place *p, int64_t from, int64_t n, piece_fn *fn,
                              void *ctx) {
    uint64_t stream = stream_of("documents", p->member, p->epoch);
    struct member *m = &s->members[p->member];
    lay_out_epoch(s, p, stream);
    int64_t lo = 0, hi = data_source_documents(m->source); /* begin[lo] <= from < begin[hi] */
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        if (m->begin[mid] <= from)
            lo = mid;
        else
            hi = mid;
    }
    for (int64_t k = lo, left = n; left > 0; k++) {
        int64_t piece = size_min(m->begin[k + 1] - from, left);
        if (piece == 0) continue;
        TM_TRY(fn(ctx, s, p->member, document_at(s, p, stream, k), from - m->begin[k], piece));
        from += piece;
        left -= piece;
    }
    return TM_OK;
}

/* How many tokens, the last label included, a sample takes from its stream, and where. */
static int64_t span_of(const struct data_set *s, const struct place *p, int64_t *from) {
    int64_t t = s->opts.seq_length;
    *from = p->sample * t;
    return size_min(t + 1, data_source_tokens(s->members[p->member].source) - *from);
}

/* --- the row ------------------------------------------------------------------------------------------------------------*/

static enum status check_ids(const struct data_set *s, const struct data_source *source, int64_t document,
                             int64_t first, int64_t n, const int64_t *ids) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->opts.vocab)
            return TM_FAIL(TM_ERR_DATA, "%s: token %lld of %s %lld has id %lld: the vocabulary has %lld",
                           data_source_name(source), (long long)(first + i),
                           data_source_kind(source) == DATA_ROWS ? "row" : "document", (long long)document,
                           (long long)ids[i], (long long)s->opts.vocab);
    return TM_OK;
}

static enum status take_piece(void *ctx, const struct data_set *s, size_t member, int64_t document, int64_t first,
                              int64_t n) {
    int64_t *at = ctx;
    const struct data_source *source = s->members[member].source;
    TM_TRY(data_source_read(source, document, first, n, s->tokens + *at));
    TM_TRY(check_ids(s, source, document, first, n, s->tokens + *at));
    for (int64_t i = 0; i < n; i++) s->document[*at + i] = *at;
    *at += n;
    return TM_OK;
}

/* Positions [begin, t) see nothing, hold the padding id and are not scored. */
static void pad(const struct data_set *s, int64_t begin, int64_t end, struct data_row *out) {
    for (int64_t i = begin; i < end; i++) {
        out->tokens[i] = s->opts.pad < 0 ? 0 : s->opts.pad;
        out->labels[i] = -1;
        out->positions[i] = 0;
        out->first[i] = (int32_t)(i + 1);
    }
}

/* A row of a stream: n tokens in s->tokens, the last of them only a label. */
static void fill_from_stream(const struct data_set *s, int64_t n, struct data_row *out) {
    int64_t used = size_min(n, s->opts.seq_length);
    for (int64_t i = 0; i < used; i++) {
        int64_t begin = s->opts.reset_documents ? s->document[i] : 0;
        bool crosses = i + 1 < n && s->document[i + 1] != s->document[i];
        bool scored = i + 1 < n && !(crosses && s->opts.mask_documents);
        out->tokens[i] = (int32_t)s->tokens[i];
        out->labels[i] = scored ? (int32_t)s->tokens[i + 1] : -1;
        out->positions[i] = (int32_t)(i - begin);
        out->first[i] = (int32_t)begin;
    }
    pad(s, used, s->opts.seq_length, out);
}

/* A row of a token file, as it is; padding keeps its ids, so they must be valid too. */
static enum status fill_from_rows(const struct data_set *s, const struct place *p, struct data_row *out) {
    const struct data_source *source = s->members[p->member].source;
    int64_t t = s->opts.seq_length, begin, end;
    const int64_t *labels = data_source_row(source, p->sample, &begin, &end), *ids = s->tokens;
    TM_TRY(data_source_read(source, p->sample, 0, t, s->tokens));
    TM_TRY(check_ids(s, source, p->sample, 0, t, s->tokens));
    pad(s, 0, t, out);
    for (int64_t i = 0; i < t; i++) out->tokens[i] = (int32_t)ids[i];
    for (int64_t i = begin; i < end; i++) {
        int64_t wanted = i + 1 < end ? (labels ? labels[i + 1] : ids[i + 1]) : -1;
        if (wanted >= s->opts.vocab)
            return TM_FAIL(TM_ERR_DATA, "%s: label %lld of row %lld is %lld: the vocabulary has %lld",
                           data_source_name(source), (long long)(i + 1), (long long)p->sample, (long long)wanted,
                           (long long)s->opts.vocab);
        out->labels[i] = wanted < 0 ? -1 : (int32_t)wanted;
        out->positions[i] = (int32_t)(i - begin);
        out->first[i] = (int32_t)begin;
    }
    return TM_OK;
}

enum status data_sample(struct data_set *s, int64_t index, struct data_row *out) {
    if (index < 0) return TM_FAIL(TM_ERR_DECK, "sample %lld: expected an index >= 0", (long long)index);
    struct place p = locate(s, index);
    if (data_source_kind(s->members[p.member].source) == DATA_ROWS) {
        TM_TRY(fill_from_rows(s, &p, out));
    } else {
        int64_t from, n = span_of(s, &p, &from), got = 0;
        TM_TRY(each_piece(s, &p, from, n, take_piece, &got));
        fill_from_stream(s, n, out);
    }
    out->valid = 0;
    for (int64_t i = 0; i < s->opts.seq_length; i++) out->valid += out->labels[i] >= 0;
    return TM_OK;
}

/* --- batches ------------------------------------------------------------------------------------------------------------*/

enum status data_batch_create(int64_t b, int64_t t, struct data_batch *out) {
    int64_t n;
    *out = (struct data_batch){.b = b, .t = t};
    if (!size_mul_i64(b, t, &n) || n < 1)
        return TM_FAIL(TM_ERR_SHAPE, "a batch of %lld rows of %lld tokens", (long long)b, (long long)t);
    int32_t **arrays[] = {&out->tokens, &out->labels, &out->positions, &out->first};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        enum status st = mem_alloc(arrays[i], (size_t)n, sizeof(int32_t));
        if (st == TM_OK) continue;
        data_batch_free(out);
        return st;
    }
    return TM_OK;
}

void data_batch_free(struct data_batch *batch) {
    mem_free(&batch->tokens);
    mem_free(&batch->labels);
    mem_free(&batch->positions);
    mem_free(&batch->first);
}

enum status data_batch_fill(struct data_set *s, int64_t first, int64_t count, struct data_batch *out) {
    int64_t t = s->opts.seq_length;
    if (out->t != t || count < 0 || count > out->b)
        return TM_FAIL(TM_ERR_SHAPE, "%lld samples of %lld tokens into a batch of %lld x %lld", (long long)count,
                       (long long)t, (long long)out->b, (long long)out->t);
    out->valid = 0;
    for (int64_t r = 0; r < out->b; r++) {
        struct data_row row = {.tokens = out->tokens + r * t,
                               .labels = out->labels + r * t,
                               .positions = out->positions + r * t,
                               .first = out->first + r * t};
        if (r < count)
            TM_TRY(data_sample(s, first + r, &row));
        else
            pad(s, 0, t, &row);
        out->valid += row.valid;
    }
    return TM_OK;
}

/* --- what was used ------------------------------------------------------------------------------------------------------*/

static enum status list_piece(void *ctx, const struct data_set *s, size_t member, int64_t document, int64_t first,
                              int64_t n) {
    (void)s;
    json_t *item = json_pack("[I,I,I,I]", (json_int_t)member, (json_int_t)document, (json_int_t)first, (json_int_t)n);
    return json_array_append_new(ctx, item) == 0 ? TM_OK
                                                 : TM_FAIL(TM_ERR_MEMORY, "no memory for the record of documents");
}

static enum status describe_rows(struct data_set *s, int64_t first, int64_t count, json_t *rows) {
    for (int64_t i = first; i < first + count; i++) {
        struct place p = locate(s, i);
        json_t *pieces = json_array();
        bool row = data_source_kind(s->members[p.member].source) == DATA_ROWS;
        int64_t from, n = row ? s->opts.seq_length : span_of(s, &p, &from);
        json_array_append_new(rows, json_pack("{s:I,s:o}", "sample", (json_int_t)i, "pieces", pieces));
        TM_TRY(row ? list_piece(pieces, s, p.member, p.sample, 0, n) : each_piece(s, &p, from, n, list_piece, pieces));
    }
    return TM_OK;
}

static json_t *describe_source(const struct member *m) {
    static const char *const kinds[] = {
        [DATA_MOCK] = "mock", [DATA_INDEX] = "indexed", [DATA_ROWS] = "rows", [DATA_TEXT] = "text"};
    const struct data_source *source = m->source;
    return json_pack("{s:s,s:s,s:f,s:I,s:I,s:I}", "name", data_source_name(source), "kind",
                     kinds[data_source_kind(source)], "weight", m->weight, "documents",
                     (json_int_t)data_source_documents(source), "tokens", (json_int_t)data_source_tokens(source),
                     "samples", (json_int_t)m->samples);
}

enum status data_describe(struct data_set *s, int64_t first, int64_t count, struct str *out) {
    const struct data_opts *o = &s->opts;
    if (first < 0 || count < 0 || first > INT64_MAX - count)
        return TM_FAIL(TM_ERR_DECK, "samples %lld + %lld: expected numbers >= 0", (long long)first, (long long)count);
    json_t *sources = json_array(), *rows = json_array();
    enum status st = describe_rows(s, first, count, rows);
    for (size_t i = 0; i < s->n; i++)
        if (json_array_append_new(sources, describe_source(&s->members[i])) != 0 && st == TM_OK)
            st = TM_FAIL(TM_ERR_DATA, "source %zu: its name is not UTF-8 or memory is short", i);
    json_t *root = json_pack("{s:I,s:I,s:b,s:b,s:b,s:b,s:I,s:o,s:o}", "seq_length", (json_int_t)o->seq_length, "seed",
                             (json_int_t)o->seed, "shuffle", o->shuffle, "drop_partial", o->drop_partial,
                             "reset_documents", o->reset_documents, "mask_documents", o->mask_documents, "vocab",
                             (json_int_t)o->vocab, "sources", sources, "rows", rows);
    char *text = st == TM_OK ? json_dumps(root, JSON_COMPACT) : NULL;
    if (st == TM_OK && !text) st = TM_FAIL(TM_ERR_MEMORY, "no memory for the description of a dataset");
    if (st == TM_OK) st = str_append(out, text, strlen(text));
    free(text);
    json_decref(root);
    return st;
}
