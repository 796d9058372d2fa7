/* Making a data set: counting its samples, ordering its members, blending them. */
#include <math.h>

#include "base/mem.h"
#include "base/size.h"
#include "data/set_impl.h"

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
