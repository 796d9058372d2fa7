/* Orders without state: a random permutation by index, and which source of a blend serves a sample. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Place i of a random permutation of 0..n-1 (n >= 1, 0 <= i < n): a 6-round Feistel network over Philox on the next even power of
 * two, walked until it lands below n (fewer than four steps on average). A function of its arguments alone, no memory. */
int64_t data_permute(uint64_t seed, uint64_t stream, int64_t n, int64_t i);

enum { DATA_BLEND_SLOTS = 65536 };

/* A blend: which source serves global sample i and as its how-manieth. The pattern of 65536 samples repeats, so that any sample is
 * found at once; inside it the source that lags its share most is next (the rule of Megatron's blended dataset). */
struct data_blend {
    uint16_t *source;  /* [DATA_BLEND_SLOTS] */
    uint32_t *ordinal; /* [DATA_BLEND_SLOTS]: how many samples of that source come before in the pattern */
    int64_t *count;    /* [n]: samples of each source in the pattern */
};

/* weights: n positive finite numbers, any scale. Errors: DECK (a weight that is not positive, or below 1/65536 of the sum). */
enum status data_blend_create(const double *weights, size_t n, struct data_blend *out);
void data_blend_free(struct data_blend *b);
void data_blend_locate(const struct data_blend *b, int64_t i, size_t *source, int64_t *sample);
