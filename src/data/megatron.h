/* Megatron's orders: document and shuffle indices of its GPTDataset, its blends and its splits, equal for equal seeds. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data/map.h"
#include "data/stream.h"

/* All functions are Local. Source: megatron-core 0.20, datasets/gpt_dataset.py, blended_dataset.py, blended_megatron_dataset_config.py,
 * helpers.cpp. Its sample index is not stored: sample k begins at token k T of the stream, so its row is a search (stream.h). */
struct data_megatron_opts {
    int64_t seq_length; /* T */
    int64_t samples;    /* asked for; whole epochs are added until there are that many; 0 = one epoch */
    uint32_t seed;
    bool overlap; /* a sample reads T + 1 tokens, the last of them again in the next one; off: T */
    bool
        keep_partial; /* the last sample may be short. Counted exactly; the peer rounds through fp32 above 2^24 tokens */
};

struct data_megatron {
    struct data_map map; /* holds the three arrays */
    struct data_stream
        stream; /* epochs x documents places, shuffled; the last epoch apart where the peer keeps it apart */
    const uint32_t *shuffle; /* [samples]: which sample of the stream comes i-th */
    int64_t epochs, samples;
};

/* Memory: 4 bytes a place, 4 a sample, an eighth a place; a file under `cache` shared by the processes of a machine (map.h) when large.
 * Errors: DATA (no tokens, or too few for one sample), UNSUPPORTED (2^32 or more places or samples), those of data_map_open. */
enum status data_megatron_create(const struct data_source *source, const struct data_megatron_opts *opts,
                                 const char *cache, struct data_megatron *out);
void data_megatron_free(struct data_megatron *m);

/* A blend of `size` samples: the source that lags its share most is next. Memory: 2 bytes a sample, shared as above. */
struct data_megatron_blend {
    struct data_map map;
    const int64_t *count;   /* [size / 4096 + 1, n]: samples of each source before sample 4096 k */
    const uint16_t *source; /* [size] */
    size_t n;
    int64_t size;
};
/* weights: shares that add up to 1 (data_megatron_normalize), zeros allowed. Errors: DECK (n, size, a weight below 0), MEMORY, IO. */
enum status data_megatron_blend_create(const double *weights, size_t n, int64_t size, const char *cache,
                                       struct data_megatron_blend *out);
/* Every sample of every source once. Errors: DATA (a source without samples: the peer writes out of bounds there). */
enum status data_megatron_blend_exhaustive(const int64_t *samples, size_t n, const char *cache,
                                           struct data_megatron_blend *out);
void data_megatron_blend_free(struct data_megatron_blend *b);
/* The source of sample i and its how-manieth. */
void data_megatron_blend_locate(const struct data_megatron_blend *b, int64_t i, size_t *source, int64_t *sample);

/* How many samples it takes of a source. */
int64_t data_megatron_blend_count(const struct data_megatron_blend *b, size_t source);

/* What a source is asked for whose share of a blend is so many samples: half a percent more. */
int64_t data_megatron_request(int64_t share);
/* Divide by the sum, added in NumPy's order (eight running sums from eight elements on). Errors: DECK (below 0, sum not positive). */
enum status data_megatron_normalize(double *x, size_t n);
/* "99,1,0" and the like: up to three numbers, whatever stands between them; part p (train, valid, test) is [bound[p], bound[p + 1])
 * of the documents. Errors: DECK (no number, more than three, one that is none, sum 0). */
enum status data_megatron_parts(const char *text, double bound[4]);
