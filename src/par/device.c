/* Collectives over device memory that are exact in any order: maxima, sums with one term, copies. The device's own communicator carries them
 * where the group has one, MPI through mapped memory elsewhere. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "par/room.h"

/* Nobody to talk to, or nothing to say. */
static bool nothing_to_do(const struct par_group *g, const struct dev *d, enum par_traffic_kind kind, int64_t bytes) {
    return bytes == 0 || group_told(g, kind, bytes, -1, -1) || group_alone(g) || dev_backend(d) == DEV_PLAN;
}

static enum status unmap(struct dev *d, dptr x, size_t bytes, void *host, enum status st) {
    enum status end = dev_unmap(d, x, bytes, host);
    return st == TM_OK ? end : st;
}

/* The order of floats as one of integers, NaN on top (it comes back as NaN). Its own inverse. */
static int32_t ordered(int32_t bits) { return bits >= 0 ? bits : bits ^ INT32_MAX; }
static int32_t key_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return isnan(x) ? INT32_MAX : ordered(bits);
}
static float float_of(int32_t key) {
    float x;
    key = ordered(key);
    memcpy(&x, &key, sizeof x);
    return x;
}

static enum status sum_in_place(struct par_group *g, float *x, int64_t n) {
    for (int64_t at = 0; at < n; at += CHUNK_F32)
        TRY_MPI(g, MPI_Allreduce(MPI_IN_PLACE, x + at, (int)size_min(CHUNK_F32, n - at), MPI_FLOAT, MPI_SUM, g->comm));
    return TM_OK;
}

enum status par_sum_one_nonzero(struct par_group *g, struct dev *d, dptr x, int64_t n) {
    void *host;
    if (nothing_to_do(g, d, PAR_TRAFFIC_SUM, n * 4)) return TM_OK;
    struct call c = call_begin(KIND_one_nonzero, g, -1, n * 4);
    if (g->comms.all) return call_end(&c, dev_comm_sum_one_nonzero(g->comms.all, x, n));
    enum status st = dev_map(d, x, (size_t)n * 4, &host);
    if (st == TM_OK) st = unmap(d, x, (size_t)n * 4, host, sum_in_place(g, host, n));
    return call_end(&c, st);
}

static enum status max_in_place(struct par_group *g, float *x, int64_t n) {
    int32_t *key = g->scratch;
    for (int64_t at = 0; at < n; at += CHUNK_F32) {
        int len = (int)size_min(CHUNK_F32, n - at);
        for (int i = 0; i < len; i++) key[i] = key_of(x[at + i]);
        TRY_MPI(g, MPI_Allreduce(MPI_IN_PLACE, key, len, MPI_INT32_T, MPI_MAX, g->comm));
        for (int i = 0; i < len; i++) x[at + i] = float_of(key[i]);
    }
    return TM_OK;
}

enum status par_max_f32(struct par_group *g, struct dev *d, dptr x, int64_t n) {
    void *host;
    if (nothing_to_do(g, d, PAR_TRAFFIC_SUM, n * 4)) return TM_OK;
    struct call c = call_begin(KIND_max, g, -1, n * 4);
    if (g->comms.all) return call_end(&c, dev_comm_max(g->comms.all, x, n));
    enum status st = dev_map(d, x, (size_t)n * 4, &host);
    if (st == TM_OK) st = unmap(d, x, (size_t)n * 4, host, max_in_place(g, host, n));
    return call_end(&c, st);
}

/* One 64-bit maximum per row: the value's order above, the complement of the index below. */
static enum status argmax(struct par_group *g, float *value, int32_t *index, int64_t n) {
    int64_t *key = g->scratch, step = CHUNK_BYTES / 8;
    for (int64_t at = 0; at < n; at += step) {
        int len = (int)size_min(step, n - at);
        for (int i = 0; i < len; i++) {
            float v = value[at + i] + 0.0f; /* -0 becomes +0 */
            key[i] = (int64_t)key_of(v) * (INT64_C(1) << 32) + (UINT32_MAX - (uint32_t)index[at + i]);
        }
        TRY_MPI(g, MPI_Allreduce(MPI_IN_PLACE, key, len, MPI_INT64_T, MPI_MAX, g->comm));
        for (int i = 0; i < len; i++) {
            uint64_t bits = (uint64_t)key[i];
            value[at + i] = float_of((int32_t)(bits >> 32));
            index[at + i] = (int32_t)(UINT32_MAX - (uint32_t)bits);
        }
    }
    return TM_OK;
}

enum status par_argmax(struct par_group *g, struct dev *d, dptr value, dptr index, int64_t n) {
    void *v, *i;
    size_t bytes = (size_t)n * 4;
    if (nothing_to_do(g, d, PAR_TRAFFIC_SUM, n * 8)) return TM_OK;
    struct call c = call_begin(KIND_argmax, g, -1, n * 8);
    if (g->comms.all) return call_end(&c, dev_comm_argmax(g->comms.all, value, index, n));
    enum status st = dev_map(d, value, bytes, &v);
    if (st != TM_OK) return call_end(&c, st);
    st = dev_map(d, index, bytes, &i);
    if (st == TM_OK) st = unmap(d, index, bytes, i, argmax(g, v, i, n));
    return call_end(&c, unmap(d, value, bytes, v, st));
}

enum status par_bcast_dev(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int root) {
    void *host;
    if (nothing_to_do(g, d, PAR_TRAFFIC_BCAST, bytes)) return TM_OK;
    TM_TRY(coll_check_root(g, root));
    struct call c = call_begin(KIND_bcast, g, root, bytes);
    if (g->comms.all) return call_end(&c, dev_comm_bcast(g->comms.all, x, (size_t)bytes, root));
    enum status st = dev_map(d, x, (size_t)bytes, &host);
    if (st == TM_OK) st = unmap(d, x, (size_t)bytes, host, coll_bcast(g, host, bytes, root));
    return call_end(&c, st);
}

/* `mine` NULL: this rank's floats are in place in `out`. Beyond what int displacements reach: one broadcast per rank. */
static enum status allgatherv(struct par_group *g, const float *mine, float *out, const int64_t *counts,
                              int64_t total) {
    int p = g->size, *len = g->counts, *at = len + p;
    int64_t sum = 0;
    if (total > INT_MAX) {
        for (int r = 0; r < p; sum += counts[r++]) {
            if (r == g->rank && mine && counts[r]) memmove(out + sum, mine, (size_t)counts[r] * 4);
            TM_TRY(coll_bcast(g, out + sum, counts[r] * 4, r));
        }
        return TM_OK;
    }
    for (int r = 0; r < p; sum += counts[r++]) {
        len[r] = (int)counts[r];
        at[r] = (int)sum;
    }
    TRY_MPI(g, MPI_Allgatherv(mine ? mine : MPI_IN_PLACE, mine ? len[g->rank] : 0, MPI_FLOAT, out, len, at, MPI_FLOAT,
                              g->comm));
    return TM_OK;
}

static enum status allgatherv_mapped(struct par_group *g, struct dev *d, dptr mine, dptr out, const int64_t *counts,
                                     int64_t total) {
    int64_t before = 0;
    void *to, *from;
    for (int r = 0; r < g->rank; r++) before += counts[r];
    size_t bytes = (size_t)total * 4, own = (size_t)counts[g->rank] * 4;
    bool in_place = own == 0 || mine.a == dptr_f32(out, before).a;
    TM_TRY(dev_map(d, out, bytes, &to));
    if (in_place) return unmap(d, out, bytes, to, allgatherv(g, NULL, to, counts, total));
    enum status st = dev_map(d, mine, own, &from);
    if (st == TM_OK) st = unmap(d, mine, own, from, allgatherv(g, from, to, counts, total));
    return unmap(d, out, bytes, to, st);
}

/* Parts of different lengths go as messages, each rank's to all others. */
static enum status gather_messages(struct par_group *g, dptr mine, dptr out, const int64_t *counts) {
    struct dev_comm *c = g->comms.all;
    int64_t at = 0;
    TM_TRY(dev_comm_group_begin(c));
    for (int r = 0; r < g->size; at += counts[r++]) {
        if (r == g->rank) continue;
        if (counts[g->rank]) TM_TRY(dev_comm_send(c, mine, (size_t)counts[g->rank] * 4, r));
        if (counts[r]) TM_TRY(dev_comm_recv(c, dptr_f32(out, at), (size_t)counts[r] * 4, r));
    }
    return dev_comm_group_end(c);
}

enum status comms_gather(struct par_group *g, struct dev *d, dptr mine, dptr out, const int64_t *counts) {
    bool equal = true;
    int64_t before = 0, own = counts[g->rank];
    for (int r = 0; r < g->size; r++) {
        if (r < g->rank) before += counts[r];
        equal &= counts[r] == own;
    }
    if (equal) return dev_comm_gather(g->comms.all, mine, out, (size_t)own * 4);
    if (own && mine.a != dptr_f32(out, before).a)
        TM_TRY(dev_copy(d, &(struct copy_args){.x = mine, .y = dptr_f32(out, before), .bytes = (size_t)own * 4}));
    return gather_messages(g, mine, out, counts);
}

enum status par_allgatherv_f32(struct par_group *g, struct dev *d, dptr mine, dptr out, const int64_t *counts) {
    int64_t total = 0;
    for (int r = 0; g && r < g->size; r++) total += counts[r];
    if (total > 0 && group_told(g, PAR_TRAFFIC_GATHER, total * 4, -1, -1)) return TM_OK;
    if (!g || dev_backend(d) == DEV_PLAN) return TM_OK;
    if (total == 0) return TM_OK;
    if (g->size == 1) {
        if (mine.a == out.a) return TM_OK;
        return dev_copy(d, &(struct copy_args){.x = mine, .y = out, .bytes = (size_t)total * 4});
    }
    struct call c = call_begin(KIND_allgather, g, -1, total * 4);
    if (g->comms.all) return call_end(&c, comms_gather(g, d, mine, out, counts));
    return call_end(&c, allgatherv_mapped(g, d, mine, out, counts, total));
}
