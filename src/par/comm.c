/* The communicators of the devices' own: who may have them, and making them from ids that MPI carries, in one fixed order. */
#include <string.h>

#include "base/mem.h"
#include "par/room.h"

/* What two ranks of a tree sum exchange at a time, and what the slices of a chunk are cut from: at P = 8 a message is 4 MiB. */
enum { SCRATCH_BYTES = 32 << 20 };

/* Device memory that NCCL takes for itself. A communicator of a whole group: 688 MiB, the most that was measured on four A100 with NVLink
 * (github.com/NVIDIA/nccl issue 964). One that is for messages alone: for each of its 8 channels (kernels/comm.cu) a receive buffer of 10 MiB,
 * NCCL_BUFFSIZE's 4 MiB and those of two more protocols, and 2 MiB beside it (issue 1685). */
static const int64_t NCCL_WHOLE = 688 << 20, NCCL_SIDE = 8 * (12 << 20);

/* What a rank tells of its device. */
struct place {
    int32_t backend, host, serves;
    char address[32];
};

static const char *backend_name(int backend) {
    static const char *const names[] = {
        [DEV_HOST] = "host", [DEV_GUARD] = "guard", [DEV_PLAN] = "plan", [DEV_CUDA] = "cuda"};
    return backend >= DEV_HOST && backend <= DEV_CUDA ? names[backend] : "?";
}

static bool same_device(const struct place *a, const struct place *b) {
    return a->host == b->host && !memcmp(a->address, b->address, sizeof a->address);
}

/* Fails alike on all ranks. *serve: every rank has a device of its own that can. */
static enum status check_places(const struct place *all, bool share, bool *serve) {
    int n = par_size();
    *serve = all[0].backend == DEV_CUDA && n > 1;
    for (int r = 0; r < n; r++) {
        if (all[r].backend != all[0].backend)
            return TM_FAIL(TM_ERR_DEVICE,
                           "rank %d has the %s backend and rank 0 the %s: expected one for all (device.backend)", r,
                           backend_name(all[r].backend), backend_name(all[0].backend));
        if (!all[r].serves) *serve = false;
        for (int q = 0; q < r && all[0].backend == DEV_CUDA; q++) {
            if (!same_device(&all[q], &all[r])) continue;
            if (!share)
                return TM_FAIL(TM_ERR_DEVICE,
                               "ranks %d and %d have one GPU (PCI %s): start one rank a GPU, or allow it with "
                               "device.share = true",
                               q, r, all[r].address);
            *serve = false;
        }
    }
    return TM_OK;
}

/* ---- making them ---- */

struct maker {
    struct dev *dev;
    double deadline;
};

struct id {
    int32_t status;
    char bytes[DEV_COMM_ID];
};

static struct id make_id(struct dev *d) {
    struct id id = {0};
    id.status = (int32_t)dev_comm_id(d, id.bytes);
    return id;
}

/* Collective over the ranks of the id. */
static enum status join(const struct maker *m, const struct par_group *g, const struct id *id, int ranks, int rank,
                        size_t scratch, struct dev_comm **out) {
    const struct dev_comm_options o = {.id = id->bytes,
                                       .ranks = ranks,
                                       .rank = rank,
                                       .scratch = scratch,
                                       .side = scratch == 0,
                                       .deadline_s = m->deadline};
    if (id->status) return TM_FAIL((enum status)id->status, "a communicator of %s: its maker failed", g->name);
    enum status st = dev_comm_open(m->dev, &o, out);
    if (st == TM_OK) st = watch_comm(*out, g);
    return st == TM_OK ? st : status_context(st, "group %s: ", g->name);
}

/* One communicator of the whole group. */
static enum status make_whole(const struct maker *m, struct par_group *g) {
    struct id id = {0};
    size_t bytes;
    if (group_alone(g)) return TM_OK;
    if (g->rank == 0) id = make_id(m->dev);
    TM_TRY(coll_bcast(g, &id, sizeof id, 0));
    TM_TRY(join(m, g, &id, g->size, g->rank, SCRATCH_BYTES, &g->comms.all));
    g->comms.scratch = dev_comm_scratch(g->comms.all, &bytes);
    g->comms.chunk = (int64_t)(bytes / 4);
    return TM_OK;
}

/* Two communicators between ranks `a` and `b` of g, of which this is one: a sends over the first, b over the second. */
static enum status make_pair(const struct maker *m, struct par_group *g, int a, int b) {
    for (int k = 0; k < 2; k++) {
        struct id id = {0};
        bool send = (g->rank == a) == (k == 0);
        int side = g->rank == a ? NEXT : BEFORE;
        if (g->rank == a) {
            id = make_id(m->dev);
            TM_TRY(p2p_send(g, &id, sizeof id, b, TAG_ID));
        } else {
            TM_TRY(p2p_recv(g, &id, sizeof id, a, TAG_ID));
        }
        TM_TRY(join(m, g, &id, 2, send ? COMM_SENDER : COMM_RECEIVER, 0,
                    send ? &g->comms.send[side] : &g->comms.recv[side]));
    }
    return TM_OK;
}

/* Neighbours on the ring: pairs (0,1), (2,3), ... first, then those between, so that pairs come up side by side. */
static enum status make_ring(const struct maker *m, struct par_group *g) {
    if (group_alone(g)) return TM_OK;
    int pairs = g->size == 2 ? 1 : g->size;
    for (int first = 0; first < 2; first++)
        for (int a = first; a < pairs; a += 2) {
            int b = (a + 1) % g->size;
            if (g->rank == a || g->rank == b) TM_TRY(make_pair(m, g, a, b));
        }
    return TM_OK;
}

struct dev_comm *comms_to(const struct par_group *g, int peer, bool send) {
    int next = (g->rank + 1) % g->size, before = (g->rank + g->size - 1) % g->size;
    for (int side = NEXT; side <= BEFORE; side++) {
        struct dev_comm *c = send ? g->comms.send[side] : g->comms.recv[side];
        if (c && peer == (side == NEXT ? next : before)) return c;
    }
    return NULL;
}

static void close_comm(struct dev_comm **c) {
    if (*c) watch_comm_end(*c);
    dev_comm_close(c);
}

void comms_close(struct par_group *g) {
    close_comm(&g->comms.all);
    for (int side = NEXT; side <= BEFORE; side++) {
        close_comm(&g->comms.send[side]);
        close_comm(&g->comms.recv[side]);
    }
}

/* ---- the grid ---- */

/* A rank that fails goes on, so that the others need not wait for it longer than the deadline. */
static enum status make_comms(struct par_grid *g, struct dev *d, double deadline) {
    const struct maker m = {d, deadline};
    enum status st = make_whole(&m, g->tp_group), s = make_whole(&m, g->dp_group);
    if (st == TM_OK) st = s;
    s = make_ring(&m, g->pp_group);
    return st == TM_OK ? s : st;
}

enum status par_grid_devices_all(struct par_grid *g, struct dev *d, bool share, double deadline_s) {
    struct place mine = {.backend = (int32_t)dev_backend(d), .host = par_host(), .serves = dev_comm_serves(d)}, *all;
    memcpy(mine.address, dev_address(d), sizeof mine.address);
    enum status st = mem_alloc(&all, (size_t)par_size(), sizeof *all);
    TM_TRY(par_agree_all(st));
    bool serve = false;
    st = par_allgather_bytes(g->world, &mine, sizeof mine, all);
    if (st == TM_OK) st = check_places(all, share, &serve);
    mem_free(&all);
    if (st != TM_OK || !serve) return st;
    struct call c = call_begin(KIND_comms, g->world, -1, 0);
    st = call_end(&c, make_comms(g, d, deadline_s));
    if (st == TM_OK) st = dev_account(d, PAR_COMMS, (size_t)par_grid_comms_bytes(g->tp, g->dp, g->pp));
    return par_agree_all(st);
}

int64_t par_grid_comms_bytes(int tp, int dp, int pp) {
    const int whole = (tp > 1) + (dp > 1), neighbours = pp > 2 ? 2 : pp - 1;
    return whole * (SCRATCH_BYTES + NCCL_WHOLE) + 2 * neighbours * NCCL_SIDE;
}

bool par_grid_has_comms(const struct par_grid *g) {
    const struct par_group *const groups[] = {g->tp_group, g->dp_group, g->pp_group};
    for (int i = 0; i < 3; i++)
        if (groups[i] && (groups[i]->comms.all || groups[i]->comms.send[NEXT] || groups[i]->comms.send[BEFORE]))
            return true;
    return false;
}
