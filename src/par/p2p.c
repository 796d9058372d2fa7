/* Messages from rank to rank: between pipeline stages from device memory, and blocking ones from host memory. */
#include <string.h>

#include "base/mem.h"
#include "par/room.h"

/* A type that covers n bytes, so that one message of any length has count 1: blocks of CHUNK_BYTES and the rest. */
static enum status message_type(struct par_group *g, int64_t n, MPI_Datatype *out) {
    MPI_Datatype block, part[2];
    int blocks = (int)(n / CHUNK_BYTES), rest = (int)(n % CHUNK_BYTES);
    MPI_Aint at[2] = {0, (MPI_Aint)blocks * CHUNK_BYTES};
    TRY_MPI(g, MPI_Type_contiguous(CHUNK_BYTES, MPI_BYTE, &block));
    part[0] = block;
    part[1] = MPI_BYTE;
    TRY_MPI(g, MPI_Type_create_struct(2, (int[]){blocks, rest}, at, part, out));
    TRY_MPI(g, MPI_Type_commit(out));
    TRY_MPI(g, MPI_Type_free(&block));
    return TM_OK;
}

/* Start one message of n bytes; the type may be freed while the message is under way. */
static enum status start(struct par_group *g, void *bytes, int64_t n, int peer, int tag, bool send, MPI_Request *out) {
    MPI_Datatype type = MPI_BYTE;
    int count = (int)n;
    if (n > CHUNK_BYTES) {
        TM_TRY(message_type(g, n, &type));
        count = 1;
    }
    if (send) {
        TRY_MPI(g, MPI_Isend(bytes, count, type, peer, tag, g->comm, out));
    } else {
        TRY_MPI(g, MPI_Irecv(bytes, count, type, peer, tag, g->comm, out));
    }
    if (type != MPI_BYTE) TRY_MPI(g, MPI_Type_free(&type));
    return TM_OK;
}

/* Wait, and check the length of a message that came in (one too long is an error of MPI's own). */
static enum status finish(struct par_group *g, MPI_Request *request, int64_t n, int peer, bool received) {
    MPI_Status s;
    MPI_Count got;
    TRY_MPI(g, MPI_Wait(request, &s));
    if (!received) return TM_OK;
    TRY_MPI(g, MPI_Get_elements_x(&s, MPI_BYTE, &got));
    if (got == n) return TM_OK;
    return TM_FAIL(TM_ERR_COMM, "message from rank %d has %lld bytes: expected %lld", g->world_rank[peer],
                   (long long)got, (long long)n);
}

enum status p2p_send(struct par_group *g, const void *bytes, int64_t n, int to, int tag) {
    MPI_Request request;
    TM_TRY(start(g, (void *)(uintptr_t)bytes, n, to, tag, true, &request));
    return finish(g, &request, n, to, false);
}

enum status p2p_recv(struct par_group *g, void *bytes, int64_t n, int from, int tag) {
    MPI_Request request;
    TM_TRY(start(g, bytes, n, from, tag, false, &request));
    return finish(g, &request, n, from, true);
}

static enum status check(const struct par_group *g, int peer, int tag, int64_t n) {
    if (!g) return TM_FAIL(TM_ERR_INTERNAL, "a message over a group that does not exist");
    if (peer >= 0 && peer < g->size && peer != g->rank && tag >= 0 && tag <= PAR_MAX_TAG && n >= 0) return TM_OK;
    return TM_FAIL(TM_ERR_INTERNAL, "message of %lld bytes from rank %d to or from %d of group %s (%d ranks), tag %d",
                   (long long)n, g->rank, peer, g->name, g->size, tag);
}

enum status par_send(struct par_group *g, const void *bytes, int64_t n, int to, int tag) {
    TM_TRY(check(g, to, tag, n));
    struct call c = call_begin(KIND_send, g, to, n);
    return call_end(&c, p2p_send(g, bytes, n, to, tag));
}

enum status par_recv(struct par_group *g, void *bytes, int64_t n, int from, int tag) {
    TM_TRY(check(g, from, tag, n));
    struct call c = call_begin(KIND_recv, g, from, n);
    return call_end(&c, p2p_recv(g, bytes, n, from, tag));
}

/* ---- device memory, not blocking ---- */

static enum status start_dev(struct par_group *g, struct dev *d, dptr x, int64_t n, int peer, int tag, bool send,
                             int *out) {
    int i = 0;
    while (i < PAR_MAX_REQUESTS && g->request[i].used) i++;
    if (i == PAR_MAX_REQUESTS)
        return TM_FAIL(TM_ERR_INTERNAL, "more than %d messages in flight over %s", PAR_MAX_REQUESTS, g->name);
    struct par_request *r = &g->request[i];
    *r =
        (struct par_request){.dev = d, .x = x, .bytes = n, .peer = peer, .send = send, .comm = comms_to(g, peer, send)};
    *out = i;
    if (r->comm) {
        TM_TRY(dev_comm_start(r->comm, send, x, (size_t)n, send ? COMM_RECEIVER : COMM_SENDER, &r->ticket));
        r->used = true;
        return TM_OK;
    }
    if (n > 0) TM_TRY(dev_map(d, x, (size_t)n, &r->host));
    enum status st = start(g, r->host, n, peer, tag, send, &r->mpi);
    if (st != TM_OK) {
        if (n > 0) (void)dev_unmap(d, x, (size_t)n, r->host);
        return st;
    }
    r->used = true;
    return TM_OK;
}

/* The group of an imagined grid, under the plan backend: there is nobody, and no memory. */
static bool imagined(const struct par_group *g, const struct dev *d) {
    return (!g || g->listener) && dev_backend(d) == DEV_PLAN;
}

enum status par_send_start(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int to, int tag, int *request) {
    *request = -1;
    (void)group_told(g, PAR_TRAFFIC_SEND, bytes, to, tag);
    if (imagined(g, d)) return TM_OK;
    TM_TRY(check(g, to, tag, bytes));
    struct call c = call_begin(KIND_send, g, to, bytes);
    return call_end(&c, start_dev(g, d, x, bytes, to, tag, true, request));
}

enum status par_recv_start(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int from, int tag, int *request) {
    *request = -1;
    (void)group_told(g, PAR_TRAFFIC_RECV, bytes, from, tag);
    if (imagined(g, d)) return TM_OK;
    TM_TRY(check(g, from, tag, bytes));
    struct call c = call_begin(KIND_recv, g, from, bytes);
    return call_end(&c, start_dev(g, d, x, bytes, from, tag, false, request));
}

enum status par_wait(struct par_group *g, int request) {
    if ((!g || g->listener) && request == -1) return TM_OK;
    if (!g || request < 0 || request >= PAR_MAX_REQUESTS || !g->request[request].used)
        return TM_FAIL(TM_ERR_INTERNAL, "wait for message %d, which is not in flight", request);
    struct par_request *r = &g->request[request];
    struct call c = call_begin(KIND_wait, g, r->peer, 0);
    if (r->comm) {
        r->used = false;
        return call_end(&c, dev_comm_wait(r->comm, r->ticket));
    }
    enum status st = finish(g, &r->mpi, r->bytes, r->peer, !r->send), end = TM_OK;
    if (r->bytes > 0) end = dev_unmap(r->dev, r->x, (size_t)r->bytes, r->host);
    r->used = false;
    return call_end(&c, st == TM_OK ? end : st);
}
