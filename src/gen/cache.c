/* One block of device memory for all keys and values, a layer's keys and then its values, each [sequences, capacity, kv_heads * d]. */
#include "gen/cache.h"

#include "base/mem.h"
#include "base/size.h"

static int64_t kv_columns(const struct model *m, int layer) { return model_find(m, MODEL_K, layer)->w.rows; }

int64_t gen_cache_bytes(const struct model *m, int64_t sequences, int64_t capacity) {
    int64_t columns = 0, bytes;
    for (int l = m->layer0; l < m->layer1; l++) columns += 2 * kv_columns(m, l);
    if (!size_mul_i64(columns * 4, sequences, &bytes) || !size_mul_i64(bytes, capacity, &bytes)) return INT64_MAX;
    return bytes;
}

enum status gen_cache_create(const struct model *m, int64_t sequences, int64_t capacity, struct gen_cache *out) {
    int64_t bytes = gen_cache_bytes(m, sequences, capacity), at = 0;
    *out = (struct gen_cache){.dev = m->o.dev};
    TM_TRY(mem_alloc(&out->layer, (size_t)m->config.layers, sizeof *out->layer));
    if (bytes > 0) {
        enum status st = dev_alloc(m->o.dev, "key-value cache", (size_t)bytes, &out->memory);
        if (st != TM_OK) {
            gen_cache_free(out);
            return st;
        }
    }
    for (int l = m->layer0; l < m->layer1; l++) {
        int64_t n = sequences * capacity * kv_columns(m, l);
        out->layer[l] =
            (struct tape_cache){dptr_f32(out->memory, at), dptr_f32(out->memory, at + n), capacity, &out->at};
        at += 2 * n;
    }
    return TM_OK;
}

void gen_cache_free(struct gen_cache *c) {
    if (c->memory.a) dev_free(c->dev, &c->memory);
    mem_free(&c->layer);
}
