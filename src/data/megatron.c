/* Megatron's orders, in closed form where there is one. */
#include "data/megatron.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/size.h"
#include "data/numpy.h"

enum { COUNTED = 4096, MOST_SOURCES = 32767 };

/* --- documents and samples ----------------------------------------------------------------------------------------------*/

/* What the order of one source is made of. */
struct order {
    const struct data_source *source;
    struct data_megatron_opts o;
    int64_t documents, per_epoch; /* documents and tokens of one epoch */
    int64_t epochs, places, samples;
    bool apart;    /* the last epoch is shuffled by itself */
    int64_t early; /* samples of the epochs before it */
};

static enum status measure(struct order *x) {
    const char *name = data_source_name(x->source);
    int64_t t = x->o.seq_length, a = x->o.overlap, wanted, tokens;
    x->documents = data_source_documents(x->source);
    x->per_epoch = data_source_tokens(x->source);
    /* an epoch without tokens would be repeated for ever */
    if (x->per_epoch < 1)
        return TM_FAIL(TM_ERR_DATA, "%s: %lld documents without a token", name, (long long)x->documents);
    if (t < 1 || x->o.samples < 0 || !size_mul_i64(x->o.samples, t, &wanted) || wanted > INT64_MAX / 4 ||
        x->per_epoch > INT64_MAX / 4)
        return TM_FAIL(TM_ERR_DECK, "%s: %lld samples of %lld tokens: too many", name, (long long)x->o.samples,
                       (long long)t);
    x->epochs = size_max(1, size_ceil_div(wanted + a, x->per_epoch));
    if (x->o.samples == 0) x->epochs = 1;
    if (!size_mul_i64(x->epochs, x->documents, &x->places) || x->places > UINT32_MAX)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: %lld epochs of %lld documents: expected less than 2^32 together", name,
                       (long long)x->epochs, (long long)x->documents);
    tokens = x->epochs * x->per_epoch - a;
    x->samples = x->o.keep_partial ? size_ceil_div(tokens, t) : tokens / t;
    if (x->samples < 1 || x->samples >= UINT32_MAX - 1)
        return TM_FAIL(x->samples < 1 ? TM_ERR_DATA : TM_ERR_UNSUPPORTED,
                       "%s: %lld tokens make %lld samples of %lld: expected 1 to 2^32 - 3", name,
                       (long long)x->per_epoch, (long long)x->samples, (long long)t);
    x->early = x->epochs > 1 ? ((x->epochs - 1) * x->per_epoch - a) / t : 0;
    x->apart = x->epochs > 1 && x->o.samples - x->early < (int64_t)(0.80 * (double)((x->per_epoch - a) / t));
    return TM_OK;
}

static size_t bytes_of(const struct order *x) {
    return 8 * (size_t)data_stream_marks(x->places) + 4 * (size_t)(x->places + x->samples);
}

/* The arrays one after the other, widest first. */
static void lay_out(const struct order *x, void *bytes, int64_t **begin, uint32_t **order, uint32_t **shuffle) {
    *begin = bytes;
    *order = (uint32_t *)(*begin + data_stream_marks(x->places));
    *shuffle = *order + x->places;
}

/* One generator, consumed in this order: documents of the early epochs, of the last one if it is apart, samples likewise. */
static enum status fill(void *ctx, void *bytes) {
    const struct order *x = ctx;
    struct data_numpy g;
    int64_t *begin;
    uint32_t *order, *shuffle;
    lay_out(x, bytes, &begin, &order, &shuffle);
    int64_t places = x->apart ? x->places - x->documents : x->places, samples = x->apart ? x->early : x->samples;
    data_numpy_seed(&g, x->o.seed);
    for (int64_t k = 0; k < x->places; k++) order[k] = (uint32_t)(k % x->documents);
    data_numpy_shuffle(&g, order, places);
    data_numpy_shuffle(&g, order + places, x->places - places);
    for (int64_t i = 0; i < x->samples; i++) shuffle[i] = (uint32_t)i;
    data_numpy_shuffle(&g, shuffle, samples);
    data_numpy_shuffle(&g, shuffle + samples, x->samples - samples);
    data_stream_mark(&(struct data_stream){.source = x->source, .places = x->places, .order = order}, begin);
    return TM_OK;
}

/* Everything the arrays depend on; of the source only the lengths. */
static uint64_t key_of(const struct order *x) {
    const int64_t numbers[] = {x->documents, x->o.seq_length, x->o.samples, x->o.seed, x->o.overlap, x->o.keep_partial};
    uint64_t h = hash_bytes(numbers, sizeof numbers, 0);
    int32_t some[1024];
    for (int64_t d = 0; d < x->documents;) {
        size_t n = 0;
        for (; n < 1024 && d < x->documents; d++) some[n++] = (int32_t)data_source_length(x->source, d);
        h = hash_bytes(some, n * sizeof *some, h);
    }
    return h;
}

enum status data_megatron_create(const struct data_source *source, const struct data_megatron_opts *opts,
                                 const char *cache, struct data_megatron *out) {
    struct order x = {.source = source, .o = *opts};
    int64_t *begin;
    uint32_t *order, *shuffle;
    *out = (struct data_megatron){0};
    TM_TRY(measure(&x));
    TM_TRY(data_map_open(cache, key_of(&x), bytes_of(&x), fill, &x, &out->map));
    lay_out(&x, out->map.bytes, &begin, &order, &shuffle);
    out->stream = (struct data_stream){
        .source = source, .places = x.places, .tokens = x.epochs * x.per_epoch, .order = order, .begin = begin};
    out->shuffle = shuffle;
    out->epochs = x.epochs;
    out->samples = x.samples;
    return TM_OK;
}

void data_megatron_free(struct data_megatron *m) {
    data_map_close(&m->map);
    *m = (struct data_megatron){0};
}

/* --- blends -------------------------------------------------------------------------------------------------------------*/

struct mixture {
    const double *weights;
    const int64_t *most; /* NULL, or how many samples each source has: it is out when they are used */
    size_t n;
    int64_t size;
};

/* The first of the largest weight x max(i, 1) - used: a product, then a difference (fused, it would pick otherwise). */
static enum status fill_blend(void *ctx, void *bytes) {
    const struct mixture *x = ctx;
    int64_t *count = bytes, *used;
    uint16_t *source = (uint16_t *)(count + (size_t)(x->size / COUNTED + 1) * x->n);
    TM_TRY(mem_alloc(&used, x->n, sizeof *used));
    for (int64_t i = 0; i < x->size; i++) {
        size_t best = 0;
        double most = -DBL_MAX, at = i > 1 ? (double)i : 1;
        if (i % COUNTED == 0) memcpy(count + (size_t)(i / COUNTED) * x->n, used, x->n * sizeof *used);
        for (size_t k = 0; k < x->n; k++) {
            double share = x->weights[k] * at, lag = share - (double)used[k];
            if (lag <= most || (x->most && used[k] == x->most[k])) continue;
            most = lag;
            best = k;
        }
        source[i] = (uint16_t)best;
        used[best]++;
    }
    mem_free(&used);
    return TM_OK;
}

static enum status mix(struct mixture *x, const char *cache, struct data_megatron_blend *out) {
    const int64_t rows = x->size / COUNTED + 1;
    uint64_t key = hash_bytes(x->weights, x->n * sizeof *x->weights, (uint64_t)x->size);
    if (x->most) key = hash_bytes(x->most, x->n * sizeof *x->most, key);
    *out = (struct data_megatron_blend){.n = x->n, .size = x->size};
    TM_TRY(data_map_open(cache, key, (size_t)rows * x->n * 8 + 2 * (size_t)x->size, fill_blend, x, &out->map));
    out->count = out->map.bytes;
    out->source = (const uint16_t *)(out->count + (size_t)rows * x->n);
    return TM_OK;
}

static enum status check_sources(size_t n, int64_t size) {
    if (n < 1 || n > MOST_SOURCES || size < 1 || size > INT64_MAX / 16)
        return TM_FAIL(TM_ERR_DECK, "a blend of %lld samples from %zu sources: expected at least 1, from 1 to %d",
                       (long long)size, n, MOST_SOURCES);
    return TM_OK;
}

enum status data_megatron_blend_create(const double *weights, size_t n, int64_t size, const char *cache,
                                       struct data_megatron_blend *out) {
    *out = (struct data_megatron_blend){0};
    TM_TRY(check_sources(n, size));
    for (size_t k = 0; k < n; k++)
        if (!(weights[k] >= 0 && weights[k] <= 1))
            return TM_FAIL(TM_ERR_DECK, "source %zu has a share of %g: expected 0 to 1", k, weights[k]);
    return mix(&(struct mixture){.weights = weights, .n = n, .size = size}, cache, out);
}

enum status data_megatron_blend_exhaustive(const int64_t *samples, size_t n, const char *cache,
                                           struct data_megatron_blend *out) {
    double *weights;
    int64_t size = 0;
    *out = (struct data_megatron_blend){0};
    for (size_t k = 0; k < n; k++) {
        if (samples[k] < 1) return TM_FAIL(TM_ERR_DATA, "source %zu of a blend has no samples", k);
        size += size_min(samples[k], INT64_MAX / 16 - size + 1);
    }
    TM_TRY(check_sources(n, size));
    TM_TRY(mem_alloc(&weights, n, sizeof *weights));
    for (size_t k = 0; k < n; k++) weights[k] = (double)samples[k] / (double)size;
    enum status st = mix(&(struct mixture){.weights = weights, .most = samples, .n = n, .size = size}, cache, out);
    mem_free(&weights);
    return st;
}

void data_megatron_blend_free(struct data_megatron_blend *b) {
    data_map_close(&b->map);
    *b = (struct data_megatron_blend){0};
}

static int64_t used_before(const struct data_megatron_blend *b, int64_t i, size_t source) {
    int64_t used = b->count[(size_t)(i / COUNTED) * b->n + source];
    for (int64_t j = i - i % COUNTED; j < i; j++) used += b->source[j] == source;
    return used;
}

void data_megatron_blend_locate(const struct data_megatron_blend *b, int64_t i, size_t *source, int64_t *sample) {
    *source = b->source[i];
    *sample = used_before(b, i, *source);
}

int64_t data_megatron_blend_count(const struct data_megatron_blend *b, size_t source) {
    int64_t last = b->size - 1;
    return used_before(b, last, source) + (b->source[last] == source);
}

int64_t data_megatron_request(int64_t share) { return (int64_t)ceil((double)share * (1 + 0.005)); }

/* --- shares -------------------------------------------------------------------------------------------------------------*/

/* numpy.sum of doubles: pairwise over halves, eight running sums up to 128 elements, one below eight. */
static double numpy_sum(const double *x, size_t n) {
    double sum = 0, r[8];
    if (n > 128) {
        size_t half = n / 2 - n / 2 % 8;
        return numpy_sum(x, half) + numpy_sum(x + half, n - half);
    }
    size_t i = 0;
    if (n >= 8) {
        memcpy(r, x, sizeof r);
        for (i = 8; i + 8 <= n; i += 8)
            for (size_t k = 0; k < 8; k++) r[k] += x[i + k];
        sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    }
    for (; i < n; i++) sum += x[i];
    return sum;
}

enum status data_megatron_normalize(double *x, size_t n) {
    double sum = numpy_sum(x, n);
    for (size_t k = 0; k < n; k++)
        if (!(x[k] >= 0)) return TM_FAIL(TM_ERR_DECK, "share %zu is %g: expected a number >= 0", k, x[k]);
    if (!(sum > 0) || !isfinite(sum)) return TM_FAIL(TM_ERR_DECK, "the shares add up to %g", sum);
    for (size_t k = 0; k < n; k++) x[k] /= sum;
    return TM_OK;
}

enum status data_megatron_parts(const char *text, double bound[4]) {
    static const char digits[] = ".0123456789";
    double share[3] = {0};
    int n = 0;
    for (const char *p = text + strcspn(text, digits); *p; p += strcspn(p, digits)) {
        size_t length = strspn(p, digits);
        char number[64], *end;
        if (n == 3) return TM_FAIL(TM_ERR_DECK, "\"%s\": more than three shares: expected train, valid, test", text);
        if (length >= sizeof number) return TM_FAIL(TM_ERR_DECK, "\"%s\": a number of %zu digits", text, length);
        memcpy(number, p, length);
        number[length] = 0;
        share[n++] = strtod(number, &end);
        if (*end || end == number) return TM_FAIL(TM_ERR_DECK, "\"%s\": \"%s\" is no number", text, number);
        p += length;
    }
    if (n == 0) return TM_FAIL(TM_ERR_DECK, "\"%s\": expected shares such as \"99,1,0\"", text);
    enum status st = data_megatron_normalize(share, 3);
    if (st != TM_OK) return status_context(st, "\"%s\": ", text);
    bound[0] = 0;
    for (int k = 0; k < 3; k++) bound[k + 1] = bound[k] + share[k];
    return TM_OK;
}
