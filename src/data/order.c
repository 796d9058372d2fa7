/* Orders without state: a Feistel permutation and the pattern of a blend. */
#include "data/order.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"

enum { ROUNDS = 6 };

int64_t data_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t i) {
    unsigned half = 1; /* bits of each side; 4^half >= n */
    while (half < 31 && (int64_t)1 << 2 * half < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            uint64_t next = left ^ (rng_u64(seed, stream, round << 32 | right) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

/* The source with the largest weight x max(i, 1) - used comes next, the first of equals. */
static void fill_pattern(struct data_blend *b, const double *weights, size_t n, double sum) {
    for (uint32_t i = 0; i < DATA_BLEND_SLOTS; i++) {
        size_t best = 0;
        double most = -INFINITY;
        for (size_t k = 0; k < n; k++) {
            double lag = weights[k] / sum * (i ? i : 1) - (double)b->count[k];
            if (lag > most) {
                most = lag;
                best = k;
            }
        }
        b->source[i] = (uint16_t)best;
        b->ordinal[i] = (uint32_t)b->count[best]++;
    }
}

enum status data_blend_create(const double *weights, size_t n, struct data_blend *out) {
    double sum = 0;
    *out = (struct data_blend){0};
    if (n < 1 || n > UINT16_MAX)
        return TM_FAIL(TM_ERR_DECK, "%zu sources in one blend: expected 1 to %d", n, UINT16_MAX);
    for (size_t k = 0; k < n; k++) {
        if (!(weights[k] > 0) || !isfinite(weights[k]))
            return TM_FAIL(TM_ERR_DECK, "source %zu has weight %g: expected a positive number", k, weights[k]);
        sum += weights[k];
    }
    for (size_t k = 0; k < n; k++)
        if (weights[k] / sum * DATA_BLEND_SLOTS < 1)
            return TM_FAIL(TM_ERR_DECK, "source %zu has weight %g of a sum of %g: expected at least 1/%d of it", k,
                           weights[k], sum, DATA_BLEND_SLOTS);
    enum status st;
    TM_GOTO(st, fail, mem_alloc(&out->source, DATA_BLEND_SLOTS, sizeof *out->source));
    TM_GOTO(st, fail, mem_alloc(&out->ordinal, DATA_BLEND_SLOTS, sizeof *out->ordinal));
    TM_GOTO(st, fail, mem_alloc(&out->count, n, sizeof *out->count));
    fill_pattern(out, weights, n, sum);
    return TM_OK;
fail:
    data_blend_free(out);
    return st;
}

void data_blend_free(struct data_blend *b) {
    mem_free(&b->source);
    mem_free(&b->ordinal);
    mem_free(&b->count);
}

void data_blend_locate(const struct data_blend *b, int64_t i, size_t *source, int64_t *sample) {
    size_t slot = (size_t)(i % DATA_BLEND_SLOTS);
    *source = b->source[slot];
    *sample = i / DATA_BLEND_SLOTS * b->count[*source] + b->ordinal[slot];
}
