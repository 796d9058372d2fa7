/* The cache of keys and values of one pipeline stage: what attention needs of the tokens that were read before. */
#pragma once

#include "model/model.h"

struct gen_cache {
    struct dev *dev;
    struct tape_cache *layer; /* [layers of the model], set for those of this stage: give it to model_shape.cache */
    dptr memory;
    int64_t at; /* tokens that are in it: where the next run goes on */
};

/* Bytes for `sequences` of up to `capacity` tokens on this rank: fp32, its KV heads, its layers. Local. */
int64_t gen_cache_bytes(const struct model *m, int64_t sequences, int64_t capacity);
/* Allocate. `out` must stay in place while tapes that were recorded with it run; the caller frees. Local. Errors: MEMORY. */
enum status gen_cache_create(const struct model *m, int64_t sequences, int64_t capacity, struct gen_cache *out);
void gen_cache_free(struct gen_cache *c);
