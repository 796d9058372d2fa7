/* Content hashes: a sum of hashes of elements, equal for every partition. */
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/size.h"
#include "ckpt/open.h"
#include "ckpt/plan.h"
#include "ckpt/runs.h"
#include "ckpt/shard.h"

/* n elements of `width` bytes from element `first` of the tensor on. */
static uint64_t hash_run(uint64_t name, int64_t first, const char *bytes, int64_t n, size_t width) {
    uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = 0; /* little-endian: the low bytes */
        memcpy(&bits, bytes + (size_t)i * width, width);
        sum += hash_element(name, (uint64_t)(first + i), bits);
    }
    return sum;
}

/* Elements [from, from + n) (counted in `box`, row-major) of a box, whose bytes stand at `bytes`. */
static uint64_t hash_range(const struct tensor_desc *d, const struct tensor_box *box, int64_t from, int64_t n,
                           const char *bytes) {
    struct tensor_box whole = tensor_box_whole(d->rank, d->shape);
    uint64_t name = rng_stream(d->name), sum = 0;
    size_t width = dtype_bytes(d->dtype);
    struct runs r;
    int64_t at, index;
    ckpt_runs_start(&r, box, box, &whole);
    while (ckpt_runs_next(&r, &at, &index)) {
        int64_t lo = size_max(at, from), hi = size_min(at + r.len, from + n);
        if (lo < hi) sum += hash_run(name, index + lo - at, bytes + (size_t)(lo - from) * width, hi - lo, width);
        if (at + r.len >= from + n) break;
    }
    return sum;
}

uint64_t ckpt_hash_box(const struct tensor_desc *desc, const struct tensor_box *box, const void *bytes) {
    return hash_range(desc, box, 0, tensor_box_elems(box), bytes);
}

uint64_t ckpt_hash_head(const struct tensor_desc *desc) {
    uint64_t h = rng_stream(dtype_name(desc->dtype));
    h = hash_bytes(desc->shape, sizeof desc->shape[0] * (size_t)desc->rank, h);
    return hash_element(rng_stream(desc->name), UINT64_MAX, h);
}

enum status ckpt_hash(struct ckpt *c, uint64_t *out) {
    uint64_t sum = 0;
    *out = 0;
    for (int i = 0; i < c->t.n; i++) sum += ckpt_hash_head(&c->t.tensors[i].desc);
    for (int64_t i = 0; i < c->t.n_pieces; i++) {
        const struct ckpt_piece *p = &c->t.pieces[i];
        const struct tensor_desc *d = &c->t.tensors[p->tensor].desc;
        int64_t width = (int64_t)dtype_bytes(d->dtype);
        for (int64_t b = 0; b < ckpt_table_blocks(p->bytes);
             b++) { /* a block holds whole elements: 16 MiB is a multiple of 8 */
            TM_TRY(ckpt_use_block(c, i, b));
            int64_t n = size_min(p->bytes - b * CKPT_BLOCK, CKPT_BLOCK);
            sum += hash_range(d, &p->box, b * CKPT_BLOCK / width, n / width, c->block);
        }
    }
    *out = sum;
    return TM_OK;
}

/* --- tensors in memory ----------------------------------------------------------------------------------------------------------- */

static enum status hash_piece(struct dev *dev, const struct ckpt_tensor *t, const struct tensor_desc *stored,
                              const struct tensor_box *box, char *buf, uint64_t *out) {
    struct shard_source s;
    int64_t width = (int64_t)dtype_bytes(stored->dtype), bytes = tensor_box_elems(box) * width;
    enum status st = ckpt_shard_source_open(&s, dev, t, box);
    *out = 0;
    for (int64_t at = 0; st == TM_OK && at < bytes; at += CKPT_BLOCK) {
        int64_t n = size_min(bytes - at, CKPT_BLOCK);
        st = ckpt_shard_source_read(&s, at, (size_t)n, buf);
        if (st == TM_OK) *out += hash_range(stored, box, at / width, n / width, buf);
    }
    ckpt_shard_source_close(&s);
    return st;
}

/* x[2i] = hash of piece i where this rank holds it, x[2i+1] = its complement; both INT64_MIN where it does not: maxima over the ranks are then
 * complements of each other exactly when all holders agree. */
static enum status hash_held(struct dev *dev, const struct ckpt_tensor *tensors, const struct ckpt_table *t,
                             int64_t *x) {
    char *buf;
    enum status st = mem_alloc(&buf, 1, CKPT_BLOCK);
    for (int64_t i = 0; i < 2 * t->n_pieces; i++) x[i] = INT64_MIN;
    for (int64_t i = 0; st == TM_OK && i < t->n_pieces; i++) {
        const struct ckpt_piece *p = &t->pieces[i];
        const struct ckpt_tensor *src = &tensors[p->tensor];
        struct tensor_box both;
        uint64_t h;
        if (!ckpt_plan_holds(src) || !tensor_box_intersect(&p->box, &src->desc.box, &both) ||
            !tensor_box_equal(&both, &p->box))
            continue;
        st = hash_piece(dev, src, &t->tensors[p->tensor].desc, &p->box, buf, &h);
        x[2 * i] = (int64_t)h;
        x[2 * i + 1] = (int64_t)~h;
    }
    mem_free(&buf);
    return st;
}

static enum status sum_pieces(const struct ckpt_table *t, const int64_t *x, uint64_t *out) {
    uint64_t sum = 0;
    for (int i = 0; i < t->n; i++) sum += ckpt_hash_head(&t->tensors[i].desc);
    for (int64_t i = 0; i < t->n_pieces; i++) {
        if (x[2 * i] != ~x[2 * i + 1])
            return TM_FAIL(TM_ERR_NUMERIC, "%s: ranks that hold the same elements have different values",
                           t->tensors[t->pieces[i].tensor].desc.name);
        sum += (uint64_t)x[2 * i];
    }
    *out = sum;
    return TM_OK;
}

enum status ckpt_hash_all(struct dev *dev, struct par_group *world, const struct ckpt_tensor *tensors, int n,
                          uint64_t *out) {
    struct ckpt_table t;
    int64_t *x = NULL;
    *out = 0;
    TM_TRY(ckpt_plan_gather_all(tensors, n, dev != NULL, world, &t));
    enum status st = mem_alloc(&x, 2 * (size_t)t.n_pieces, sizeof *x);
    if (st == TM_OK) st = hash_held(dev, tensors, &t, x);
    st = par_agree_all(st);
    if (st == TM_OK) st = par_reduce_i64(world, x, 2 * t.n_pieces, PAR_MAX);
    if (st == TM_OK) st = sum_pieces(&t, x, out);
    mem_free(&x);
    ckpt_table_free(&t);
    return st;
}
