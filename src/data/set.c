/* Datasets: from a global sample index to a packed row. */
#include "data/set.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "data/megatron.h"
#include "data/order.h"
#include "data/stream.h"

struct member {
    struct data_source *source;
    double weight;
    int64_t samples; /* of one epoch; in Megatron's order of all */
    /* The documents of one epoch end to end, kept until another is asked for. */
    struct data_stream stream;
    int64_t *begin;                /* the stream's marks; not of Megatron's order */
    int64_t epoch;                 /* -1: none yet */
    struct data_megatron megatron; /* Megatron's order */
};

struct data_set {
    struct data_opts opts;
    struct member *members;
    size_t n;
    bool weighted;
    struct data_blend blend;             /* weighted */
    struct data_megatron_blend megatron; /* Megatron's order of two or more members */
    int64_t samples;                     /* of one pass */
    int64_t *tokens;                     /* scratch, [T + 1] */
    int64_t *document;                   /* scratch, [T + 1]: where in the row each token's document begins */
};

/* --- making -------------------------------------------------------------------------------------------------------------*/

static enum status count_samples(const struct data_opts *o, struct member *m) {
    const char *name = data_source_name(m->source);
    int64_t documents = data_source_documents(m->source), tokens = data_source_tokens(m->source), t = o->seq_length,
            overlap = !o->no_overlap;
    bool rows = data_source_kind(m->source) == DATA_ROWS;
    if (rows && data_source_length(m->source, 0) != t)
        return TM_FAIL(TM_ERR_SHAPE, "%s has rows of %lld tokens: expected seq_length = %lld", name,
                       (long long)data_source_length(m->source, 0), (long long)t);
    if (rows || o->one_document) {
        m->samples = documents;
        return TM_OK;
    }
    m->samples = o->drop_partial ? (tokens - overlap) / t : size_ceil_div(tokens - overlap, t);
    if (m->samples < 1)
        return TM_FAIL(TM_ERR_DATA, "%s holds %lld tokens: expected at least %lld", name, (long long)tokens,
                       (long long)(o->drop_partial ? t + overlap : 2));
    m->stream = (struct data_stream){.source = m->source,
                                     .places = documents,
                                     .tokens = tokens,
                                     .shuffle = o->order == DATA_SHUFFLED,
                                     .seed = o->seed};
    TM_TRY(mem_alloc(&m->begin, (size_t)data_stream_marks(documents), sizeof *m->begin));
    m->stream.begin = m->begin;
    return TM_OK;
}

static enum status check_weights(struct data_set *s) {
    size_t with = 0;
    for (size_t i = 0; i < s->n; i++) with += s->members[i].weight != 0;
    s->weighted = with > 0;
    if (with > 0 && with != s->n)
        return TM_FAIL(TM_ERR_DECK, "%zu of %zu sources have a weight: expected all or none", with, s->n);
    return TM_OK;
}

static enum status set_up_blend(struct data_set *s) {
    double *weights;
    if (!s->weighted) return TM_OK;
    TM_TRY(mem_alloc(&weights, s->n, sizeof *weights));
    for (size_t i = 0; i < s->n; i++) weights[i] = s->members[i].weight;
    enum status st = data_blend_create(weights, s->n, &s->blend);
    mem_free(&weights);
    return st;
}

/* --- Megatron's order ---------------------------------------------------------------------------------------------------*/

static enum status order_member(const struct data_set *s, struct member *m, int64_t samples) {
    const struct data_opts *o = &s->opts;
    struct data_megatron_opts x = {.seq_length = o->seq_length,
                                   .samples = samples,
                                   .seed = (uint32_t)o->seed,
                                   .overlap = !o->no_overlap,
                                   .keep_partial = !o->drop_partial};
    TM_TRY(data_megatron_create(m->source, &x, o->cache, &m->megatron));
    m->stream = m->megatron.stream;
    m->samples = m->megatron.samples;
    m->epoch = 0;
    return TM_OK;
}

/* With weights the blend is of every member's share, rounded up, and each member has a little more than that. Without, each has one epoch,
 * and the members' sizes are the weights, or the blend shows each sample once. */
static enum status blend_members(struct data_set *s, double *weights, int64_t *samples) {
    int64_t size = s->opts.samples, sum = 0;
    for (size_t i = 0; i < s->n; i++) weights[i] = s->members[i].weight;
    if (s->weighted) TM_TRY(data_megatron_normalize(weights, s->n));
    for (size_t i = 0; i < s->n; i++) {
        int64_t share = s->weighted ? (int64_t)ceil((double)size * weights[i]) : 0;
        sum += share;
        TM_TRY(order_member(s, &s->members[i], data_megatron_request(share)));
        samples[i] = s->members[i].samples;
        if (!s->weighted) weights[i] = (double)samples[i];
    }
    if (!s->weighted && size == 0) return data_megatron_blend_exhaustive(samples, s->n, s->opts.cache, &s->megatron);
    if (!s->weighted) TM_TRY(data_megatron_normalize(weights, s->n));
    return data_megatron_blend_create(weights, s->n, s->weighted ? sum : size, s->opts.cache, &s->megatron);
}

/* Does every member have the samples that the blend takes of it? Its last one is behind all others. */
static enum status check_members(const struct data_set *s) {
    for (size_t i = 0; i < s->n; i++) {
        int64_t used = data_megatron_blend_count(&s->megatron, i);
        if (used > s->members[i].samples)
            return TM_FAIL(TM_ERR_DATA, "a blend of %lld samples takes %lld of %s, which has %lld: expected weights",
                           (long long)s->megatron.size, (long long)used, data_source_name(s->members[i].source),
                           (long long)s->members[i].samples);
    }
    return TM_OK;
}

static enum status set_up_megatron(struct data_set *s) {
    const struct data_opts *o = &s->opts;
    double *weights = NULL;
    int64_t *samples = NULL;
    if (o->seed > UINT32_MAX)
        return TM_FAIL(TM_ERR_DECK, "Megatron's order with seed %llu: expected one below 2^32",
                       (unsigned long long)o->seed);
    for (size_t i = 0; i < s->n; i++)
        if (o->one_document || data_source_kind(s->members[i].source) == DATA_ROWS)
            return TM_FAIL(TM_ERR_DECK, "%s in Megatron's order: expected documents that are joined and cut",
                           data_source_name(s->members[i].source));
    if (s->n == 1) {
        TM_TRY(order_member(s, &s->members[0], o->samples));
        s->samples = s->members[0].samples;
        return TM_OK;
    }
    if (s->weighted && o->samples == 0)
        return TM_FAIL(TM_ERR_DECK, "Megatron's order of %zu weighted sources: expected a number of samples", s->n);
    enum status st = mem_alloc(&weights, s->n, sizeof *weights);
    if (st == TM_OK) st = mem_alloc(&samples, s->n, sizeof *samples);
    if (st == TM_OK) st = blend_members(s, weights, samples);
    if (st == TM_OK) st = check_members(s);
    s->samples = s->megatron.size;
    mem_free(&weights);
    mem_free(&samples);
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
    TM_TRY(check_weights(s));
    if (o->order == DATA_MEGATRON) return set_up_megatron(s);
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
        data_megatron_free(&s->members[i].megatron);
    }
    mem_free(&s->members);
    data_blend_free(&s->blend);
    data_megatron_blend_free(&s->megatron);
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
