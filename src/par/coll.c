/* Collectives over host memory, for control data. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "par/room.h"

/* An MPI_Allreduce in place, of elements of `bytes` bytes each, in chunks. */
static enum status allreduce(struct par_group *g, void *x, int64_t n, MPI_Datatype type, size_t bytes, MPI_Op op) {
    int64_t step = CHUNK_BYTES / (int64_t)bytes;
    for (int64_t at = 0; at < n; at += step) {
        int len = (int)size_min(step, n - at);
        TRY_MPI(g, MPI_Allreduce(MPI_IN_PLACE, (char *)x + (size_t)at * bytes, len, type, op, g->comm));
    }
    return TM_OK;
}

enum status par_reduce_i64(struct par_group *g, int64_t *x, int64_t n, enum par_op op) {
    const MPI_Op ops[] = {[PAR_SUM] = MPI_SUM, [PAR_MAX] = MPI_MAX, [PAR_MIN] = MPI_MIN, [PAR_BOR] = MPI_BOR};
    if (group_alone(g)) return TM_OK;
    struct call c = call_begin(KIND_reduce, g, -1, n * 8);
    return call_end(&c, allreduce(g, x, n, MPI_INT64_T, 8, ops[op]));
}

/* The order of doubles as one of integers, NaN on top: then the maximum is exact in any order. It is its own inverse. */
static int64_t ordered(int64_t bits) { return bits >= 0 ? bits : bits ^ INT64_MAX; }

enum status par_reduce_f64_max(struct par_group *g, double *x, int64_t n) {
    if (group_alone(g)) return TM_OK;
    struct call c = call_begin(KIND_reduce, g, -1, n * 8);
    int64_t *key = g->scratch, step = CHUNK_BYTES / 8;
    enum status st = TM_OK;
    for (int64_t at = 0; at < n && st == TM_OK; at += step) {
        int64_t len = size_min(step, n - at);
        memcpy(key, x + at, (size_t)len * 8);
        for (int64_t i = 0; i < len; i++) key[i] = isnan(x[at + i]) ? INT64_MAX : ordered(key[i]);
        st = allreduce(g, key, len, MPI_INT64_T, 8, MPI_MAX);
        for (int64_t i = 0; i < len; i++) key[i] = ordered(key[i]);
        if (st == TM_OK) memcpy(x + at, key, (size_t)len * 8);
    }
    return call_end(&c, st);
}

enum status par_sum_slots_f64(struct par_group *g, double *x, int64_t n) {
    if (group_alone(g)) return TM_OK;
    struct call c = call_begin(KIND_reduce, g, -1, n * 8);
    return call_end(&c, allreduce(g, x, n, MPI_DOUBLE, 8, MPI_SUM));
}

enum status coll_check_root(const struct par_group *g, int root) {
    if (root >= 0 && root < g->size) return TM_OK;
    return TM_FAIL(TM_ERR_INTERNAL, "root %d in group %s of %d", root, g->name, g->size);
}

enum status coll_bcast(struct par_group *g, void *bytes, int64_t n, int root) {
    for (int64_t at = 0; at < n; at += CHUNK_BYTES)
        TRY_MPI(g, MPI_Bcast((char *)bytes + at, (int)size_min(CHUNK_BYTES, n - at), MPI_BYTE, root, g->comm));
    return TM_OK;
}

enum status par_bcast(struct par_group *g, void *bytes, int64_t n, int root) {
    if (group_alone(g)) return TM_OK;
    TM_TRY(coll_check_root(g, root));
    struct call c = call_begin(KIND_bcast, g, root, n);
    return call_end(&c, coll_bcast(g, bytes, n, root));
}

/* Gather n bytes of each rank to `root`, or to everyone (root < 0), in rounds of at most 16 MiB for all ranks together (the library counts
 * whole subtrees of ranks in int). The pieces of a round lie at distance n in the result, which a type of that extent says. */
static enum status gather(struct par_group *g, const char *mine, int64_t n, char *out, int root) {
    int64_t step = size_max(1, 4 * CHUNK_BYTES / g->size);
    for (int64_t at = 0; at < n; at += step) {
        int len = (int)size_min(step, n - at);
        MPI_Datatype run, placed;
        TRY_MPI(g, MPI_Type_contiguous(len, MPI_BYTE, &run));
        TRY_MPI(g, MPI_Type_create_resized(run, 0, (MPI_Aint)n, &placed));
        TRY_MPI(g, MPI_Type_commit(&placed));
        char *to = out ? out + at : NULL;
        if (root < 0) {
            TRY_MPI(g, MPI_Allgather(mine + at, len, MPI_BYTE, to, 1, placed, g->comm));
        } else {
            TRY_MPI(g, MPI_Gather(mine + at, len, MPI_BYTE, to, 1, placed, root, g->comm));
        }
        TRY_MPI(g, MPI_Type_free(&run));
        TRY_MPI(g, MPI_Type_free(&placed));
    }
    return TM_OK;
}

enum status par_gather_bytes(struct par_group *g, const void *mine, int64_t n, void *out, int root) {
    if (group_alone(g)) {
        if (n) memmove(out, mine, (size_t)n);
        return TM_OK;
    }
    TM_TRY(coll_check_root(g, root));
    struct call c = call_begin(KIND_gather, g, root, n);
    return call_end(&c, gather(g, mine, n, out, root));
}

enum status par_allgather_bytes(struct par_group *g, const void *mine, int64_t n, void *out) {
    if (group_alone(g)) {
        if (n) memmove(out, mine, (size_t)n);
        return TM_OK;
    }
    struct call c = call_begin(KIND_allgather, g, -1, n * g->size);
    return call_end(&c, gather(g, mine, n, out, -1));
}

static enum status barrier(struct par_group *g) {
    TRY_MPI(g, MPI_Barrier(g->comm));
    return TM_OK;
}

enum status par_barrier(struct par_group *g) {
    if (group_alone(g)) return TM_OK;
    struct call c = call_begin(KIND_barrier, g, -1, 0);
    return call_end(&c, barrier(g));
}
