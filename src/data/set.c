/* Datasets: from a global sample index to a packed row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "data/set_impl.h"

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

/* The one place where a global index becomes (source, epoch, sample). */
static struct place locate(const struct data_set *s, int64_t index) {
    struct place p = {0};
    uint64_t seed = s->opts.seed;
    bool shuffled = s->opts.order == DATA_SHUFFLED;
    if (s->opts.order == DATA_MEGATRON) {
        p.sample = index;
        if (s->n > 1) data_megatron_blend_locate(&s->megatron, index, &p.member, &p.sample);
        p.sample = s->members[p.member].megatron.shuffle[p.sample];
        return p;
    }
    if (s->weighted) {
        int64_t sample;
        data_blend_locate(&s->blend, index, &p.member, &sample);
        int64_t n = s->members[p.member].samples;
        p.epoch = sample / n;
        p.sample = sample % n;
        if (shuffled) p.sample = data_permute(seed, stream_of("samples", p.member, p.epoch), n, p.sample);
        return p;
    }
    p.epoch = index / s->samples;
    p.sample = index % s->samples;
    if (shuffled) p.sample = data_permute(seed, stream_of("samples", s->n, p.epoch), s->samples, p.sample);
    while (p.sample >= s->members[p.member].samples) p.sample -= s->members[p.member++].samples;
    return p;
}

/* The member's stream in the order of the epoch. */
static const struct data_stream *lay_out_epoch(const struct data_set *s, const struct place *p) {
    struct member *m = &s->members[p->member];
    if (m->epoch == p->epoch || (m->epoch >= 0 && !m->stream.shuffle)) return &m->stream;
    m->stream.stream = stream_of("documents", p->member, p->epoch);
    data_stream_mark(&m->stream, m->begin);
    m->epoch = p->epoch;
    return &m->stream;
}

/* The pieces of documents that a sample is made of, in order, its last label included; *n tokens in all. */
static enum status each_piece(const struct data_set *s, const struct place *p, data_piece_fn *fn, void *ctx,
                              int64_t *n) {
    const struct data_source *source = s->members[p->member].source;
    int64_t t = s->opts.seq_length, most = t + !s->opts.no_overlap;
    if (data_source_kind(source) == DATA_ROWS || s->opts.one_document) {
        *n = size_min(data_source_length(source, p->sample), most);
        return *n > 0 ? fn(ctx, p->sample, 0, *n) : TM_OK;
    }
    const struct data_stream *stream = lay_out_epoch(s, p);
    *n = size_min(most, stream->tokens - p->sample * t);
    return data_stream_each(stream, p->sample * t, *n, fn, ctx);
}

/* --- the row ------------------------------------------------------------------------------------------------------------*/

static enum status check_ids(const struct data_set *s, const struct data_source *source, int64_t document,
                             int64_t first, int64_t n, const int64_t *ids) {
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->opts.vocab)
            return TM_FAIL(TM_ERR_DATA, "%s: token %lld of %s %lld has id %lld: the vocabulary has %lld",
                           data_source_name(source), (long long)(first + i),
                           data_source_kind(source) == DATA_ROWS ? "row" : "document",
                           (long long)(data_source_first(source) + document), (long long)ids[i],
                           (long long)s->opts.vocab);
    return TM_OK;
}

/* Where the next piece of a sample goes. */
struct take {
    const struct data_set *s;
    const struct data_source *source;
    int64_t at;
};

static enum status take_piece(void *ctx, int64_t document, int64_t first, int64_t n) {
    struct take *x = ctx;
    const struct data_set *s = x->s;
    TM_TRY(data_source_read(x->source, document, first, n, s->tokens + x->at));
    TM_TRY(check_ids(s, x->source, document, first, n, s->tokens + x->at));
    for (int64_t i = 0; i < n; i++) s->document[x->at + i] = x->at;
    x->at += n;
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

/* A row of a stream: n tokens in s->tokens, a last one behind the row only a label. */
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

static enum status check_index(const struct data_set *s, int64_t index) {
    if (index < 0) return TM_FAIL(TM_ERR_DECK, "sample %lld: expected an index >= 0", (long long)index);
    if (s->opts.order == DATA_MEGATRON && index >= s->samples)
        return TM_FAIL(TM_ERR_DECK, "sample %lld in Megatron's order of %lld: ask for more samples", (long long)index,
                       (long long)s->samples);
    return TM_OK;
}

enum status data_sample(struct data_set *s, int64_t index, struct data_row *out) {
    TM_TRY(check_index(s, index));
    struct place p = locate(s, index);
    if (data_source_kind(s->members[p.member].source) == DATA_ROWS) {
        TM_TRY(fill_from_rows(s, &p, out));
    } else {
        int64_t n;
        TM_TRY(each_piece(s, &p, take_piece, &(struct take){s, s->members[p.member].source, 0}, &n));
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

enum status data_batches_create(int64_t n, int64_t micro, int64_t t, struct data_batch **out) {
    TM_TRY(mem_alloc(out, (size_t)n, sizeof **out));
    for (int64_t i = 0; i < n; i++) TM_TRY(data_batch_create(micro, t, &(*out)[i]));
    return TM_OK;
}

void data_batches_free(int64_t n, struct data_batch **b) {
    for (int64_t i = 0; *b && i < n; i++) data_batch_free(&(*b)[i]);
    mem_free(b);
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

struct list {
    json_t *pieces;
    size_t member;
    int64_t first; /* the source's */
};

static enum status list_piece(void *ctx, int64_t document, int64_t first, int64_t n) {
    const struct list *x = ctx;
    json_t *item = json_pack("[I,I,I,I]", (json_int_t)x->member, (json_int_t)(x->first + document), (json_int_t)first,
                             (json_int_t)n);
    return json_array_append_new(x->pieces, item) == 0
               ? TM_OK
               : TM_FAIL(TM_ERR_MEMORY, "no memory for the record of documents");
}

static enum status describe_rows(struct data_set *s, int64_t first, int64_t count, json_t *rows) {
    for (int64_t i = first; i < first + count; i++) {
        TM_TRY(check_index(s, i));
        struct place p = locate(s, i);
        struct list x = {json_array(), p.member, data_source_first(s->members[p.member].source)};
        int64_t n;
        json_array_append_new(rows, json_pack("{s:I,s:o}", "sample", (json_int_t)i, "pieces", x.pieces));
        TM_TRY(each_piece(s, &p, list_piece, &x, &n));
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
    json_t *root =
        json_pack("{s:I,s:I,s:b,s:b,s:b,s:b,s:b,s:I,s:o,s:o}", "seq_length", (json_int_t)o->seq_length, "seed",
                  (json_int_t)o->seed, "shuffle", o->order != DATA_IN_PLACE, "megatron", o->order == DATA_MEGATRON,
                  "drop_partial", o->drop_partial, "reset_documents", o->reset_documents, "mask_documents",
                  o->mask_documents, "vocab", (json_int_t)o->vocab, "sources", sources, "rows", rows);
    char *text = st == TM_OK ? json_dumps(root, JSON_COMPACT) : NULL;
    if (st == TM_OK && !text) st = TM_FAIL(TM_ERR_MEMORY, "no memory for the description of a dataset");
    if (st == TM_OK) st = str_append(out, text, strlen(text));
    free(text);
    json_decref(root);
    return st;
}
