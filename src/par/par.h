/* The ranks: world, grid of tensor, pipeline and data groups, and how ranks agree. The only room that names MPI.
 * Functions that end in _all are collective over the world; those that take a group are collective over that group (and are called
 * only inside tape operations and this room); the rest are Local. Multi-byte counts are int64_t; chunks are made inside. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "dev/dev.h"
#include "tensor/tensor.h"

enum { PAR_TP_SEGMENTS = 8 };

/* An MPI communicator and its buffers. A NULL group (an imagined grid, or MPI not started) and a group of one return at once; so do the
 * device collectives under the plan backend. */
struct par_group;

/* rank = tp + TP*(cp + CP*(dp + DP*pp)). */
struct par_grid {
    int tp, cp, dp, pp;                     /* sizes */
    int tp_rank, cp_rank, dp_rank, pp_rank; /* this rank's place */
    struct par_group *world, *tp_group, *dp_group, *pp_group,
        *model_group; /* model_group: the ranks of one DP replica (tp x pp) */
    bool invariant;   /* sums keep the fixed tree (TP is a power of two <= PAR_TP_SEGMENTS) */
};

/* World. par_start also detects processes that srun started as singletons (SLURM_NTASKS > 1, MPI size 1): ERR_DECK with a hint.
 * MPI runs at MPI_THREAD_FUNNELED: only the thread that called par_start may call functions of this room (but par_note, any thread). */
enum status par_start(int *argc, char ***argv);
void par_finish(void);                    /* MPI_Finalize; waits for the other ranks: never call it on one rank alone */
_Noreturn void par_abort(enum status st); /* last resort: ends all ranks with the exit code of st */
int par_rank(void);
int par_size(void);
int par_local_size(void); /* ranks on this host */
int par_local_rank(void);
int par_host(void); /* numbers the hosts: the lowest rank on this one */

/* Sizes are checked: tp*cp*pp must divide the world (ERR_DECK names the deck keys). dp = what is left. Groups are made in one fixed order.
 * Destroy it on all ranks, before par_finish. */
enum status par_grid_create_all(int tp, int cp, int pp, struct par_grid *out);
/* The grid of rank `rank` of a world that does not exist (for --plan --as-ranks): groups are NULL, sizes as given. No MPI. */
enum status par_grid_imagine(int world, int rank, int tp, int cp, int pp, struct par_grid *out);
void par_grid_destroy(struct par_grid *g);
/* What a rank that is imagined would exchange, told as it is asked for. */
enum par_traffic_kind {
    PAR_TRAFFIC_SUM,    /* `bytes` of every rank reduced, the result on all */
    PAR_TRAFFIC_BESIDE, /* the same, begun: what comes until the next join may run beside it */
    PAR_TRAFFIC_JOIN,   /* the end of all that were begun */
    PAR_TRAFFIC_GATHER, /* `bytes` in all, on all */
    PAR_TRAFFIC_BCAST,
    PAR_TRAFFIC_SEND, /* to rank `peer` of the group, queued */
    PAR_TRAFFIC_RECV, /* from rank `peer`; the rank goes on when it is there */
};
struct par_traffic {
    enum par_traffic_kind kind;
    const char *group;   /* "tp", "dp", "pp" */
    int size, peer, tag; /* ranks of the group; peer and tag: -1 for collectives */
    int64_t bytes;
};
struct par_listener {
    void (*tell)(void *context, const struct par_traffic *t);
    void *context;
};
/* Gives an imagined grid tp, dp and pp groups (of more than one rank) in which there is nobody: calls on device memory return at once and are
 * told; those on host memory behave as in a group of one. The listener is borrowed; par_grid_destroy frees the groups. Local. Errors: MEMORY. */
enum status par_grid_listen(struct par_grid *g, const struct par_listener *l);
/* Tells the grid the device of its ranks. Where each has a GPU of its own, and the plugin has NCCL, the tp and dp groups and the neighbours
 * in pp (a ring) get communicators of the devices' own, which then serve the calls on device memory below, queued: they return at once,
 * and errors come at the device's next sync or from the watchdog. Else MPI serves, through mapped memory. `share` allows several ranks
 * on one GPU; deadline_s bounds making and ending a communicator (0 = none). Errors, alike on all ranks: DEVICE (two ranks on one GPU,
 * ranks of different backends), COMM, TIMEOUT. Call it at most once, before the calls on device memory; close d after the grid. */
enum status par_grid_devices_all(struct par_grid *g, struct dev *d, bool share, double deadline_s);
/* Device memory that a rank's communicators take on such a grid, counted as PAR_COMMS: ours, and an allowance for NCCL's own (comm.c). Local. */
#define PAR_COMMS "NCCL"
int64_t par_grid_comms_bytes(int tp, int dp, int pp);
/* Whether devices' own communicators serve the grid. */
bool par_grid_has_comms(const struct par_grid *g);
int par_group_rank(const struct par_group *g);
int par_group_size(const struct par_group *g);

/* Agreement: every rank passes its status; all return the worst one. Order: OK, then STOPPED, then the errors by rising exit code (an error
 * outweighs a clean stop, although 75 is the larger code); the lowest rank wins among equals. Every rank then has the guilty rank's message,
 * prefixed by its world rank ("rank 3: ...") on the others. One reduction when all are well, and a broadcast of the message otherwise. */
enum status par_agree_all(enum status mine);
enum status par_agree(struct par_group *g, enum status mine);

/* Host-memory collectives for control data, equal arguments on all ranks of the group. Errors: COMM. `op`: sums only of integers; floating sums exist only as the fixed tree below. */
enum par_op { PAR_SUM, PAR_MAX, PAR_MIN, PAR_BOR };
enum status par_reduce_i64(struct par_group *g, int64_t *x, int64_t n, enum par_op op); /* allreduce */
enum status par_reduce_f64_max(struct par_group *g, double *x, int64_t n);              /* NaN wins; +0 > -0 */
enum status par_bcast(struct par_group *g, void *bytes, int64_t n, int root);
enum status par_gather_bytes(struct par_group *g, const void *mine, int64_t n, void *out,
                             int root); /* equal n everywhere */
enum status par_allgather_bytes(struct par_group *g, const void *mine, int64_t n, void *out);
enum status par_barrier(struct par_group *g);
/* Sum of doubles where at most one rank's term is not zero (slots): exact in any order. */
enum status par_sum_slots_f64(struct par_group *g, double *x, int64_t n);

/* Device-memory collectives (fp32). On the host backend they work in place on the memory. Errors: COMM; DEVICE when the memory cannot be
 * mapped (a lost device: the other ranks are then left waiting, and the watchdog or par_abort ends the job). */
/* x[n] <- the binary tree sum over ranks (rank order = leaf order: pairs at distance 1, 2, 4, ...). `present` bit r: rank r contributes; an
 * absent rank contributes nothing (its x is not read), everyone receives. With all absent, x becomes +0. Ranks from 64 on have no bit and always contribute. x + nothing = x, bit for bit.
 * Groups whose size is no power of two are summed by the same rule (missing partner = nothing). */
enum status par_tree_sum(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present);
/* The same begun, beside what is queued later, which leaves x alone until par_tree_join lets the queue wait for all that were begun; no other
 * collective of the group comes between. Where MPI serves it is done when it returns: par_runs_beside says whether it is worth while (true of an
 * imagined group: the listener hears of begun sums and joins). */
enum status par_tree_start(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present);
enum status par_tree_join(struct par_group *g);
bool par_runs_beside(const struct par_group *g);
/* x[n] <- sum where at most one rank is not +0 (embedding look-ups, target logits); -0 becomes +0. */
enum status par_sum_one_nonzero(struct par_group *g, struct dev *d, dptr x, int64_t n);
enum status par_max_f32(struct par_group *g, struct dev *d, dptr x, int64_t n); /* NaN wins */
/* Row-wise argmax across ranks: (value[i], index[i]) <- the largest value, lowest index on ties. index int32, >= 0 (a negative
 * one, of a rank without columns, loses ties). NaN wins; -0 counts as, and comes back as, +0. */
enum status par_argmax(struct par_group *g, struct dev *d, dptr value, dptr index, int64_t n);
enum status par_bcast_dev(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int root);
/* Gather `n_r` floats of each rank (counts[size], may be 0) to every rank, in rank order. `mine` may be
 * its own place in `out`. */
enum status par_allgatherv_f32(struct par_group *g, struct dev *d, dptr mine, dptr out, const int64_t *counts);

/* Point to point between pipeline stages (device memory); `request` is completed by par_wait. Messages from one rank to another are received in
 * the order in which they are sent, whatever their tags. At most PAR_MAX_REQUESTS in flight per group;
 * tag 0..PAR_MAX_TAG. x stays untouched until the wait. On a NULL group under the plan backend nothing is sent: *request = -1, which waits on NULL at once. Errors: COMM; INTERNAL (too many requests, a bad rank, tag or request). */
enum { PAR_MAX_REQUESTS = 64, PAR_MAX_TAG = 32000 };
enum status par_send_start(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int to, int tag, int *request);
enum status par_recv_start(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int from, int tag, int *request);
enum status par_wait(struct par_group *g, int request);
/* Host-memory blocking forms, for moving boxes of tensors between ranks. A message of another length than
 * expected is COMM. */
enum status par_send(struct par_group *g, const void *bytes, int64_t n, int to, int tag);
enum status par_recv(struct par_group *g, void *bytes, int64_t n, int from, int tag);

/* Boxes: who holds what of a list of global tensors. Every rank passes the same list (names, shapes, order: INTERNAL otherwise) with its own
 * boxes (empty where it holds nothing; for a scalar data 0 says so) and the device memory of them; data is borrowed and must stay. Replicas
 * are fine: one holder serves (`root` itself if it can; else the ranks in rising order as far as they cover something new, and among ranks
 * with equal boxes the one whose turn it is by i, so that reads spread over the DP replicas). */
struct par_boxes;
enum status par_boxes_create_all(struct dev *d, const struct tensor_desc *tensors, const dptr *data, int n,
                                 struct par_boxes **out);
void par_boxes_destroy(struct par_boxes **b);
/* Collective over the world, called with equal arguments everywhere (but `out`): bring box `want` of tensor i to rank `root` as a row-major
 * host array. Pieces of at most 4 MiB travel, so no rank needs more than that beside `out`. Errors, alike on all ranks: SHAPE when the holders
 * together do not cover it (names tensor and box), UNSUPPORTED (cut into too many pieces), INTERNAL (bad i or root). A holder whose device
 * fails sends zeros and keeps the status to itself: agree before using `out`. */
enum status par_boxes_fetch_all(struct par_boxes *b, int i, const struct tensor_box *want, int root, void *out);

/* Watchdog: a thread that ends the job with the exit code of ERR_TIMEOUT when a communication of any rank lasts longer than the deadline.
 * Before that it reports every rank's stage, step, operation and their age, and names those that the others wait for: ranks that are in no
 * communication, and ranks whose heartbeat is missing. Local; deadline_s = 0 or a world of one: off. DECK when deadline_s < 0.
 * par_note says what this rank is doing; cheap. */
enum status par_watchdog_start(double deadline_s);
void par_watchdog_stop(void);
void par_note(const char *stage, int64_t step, const char *operation); /* strings are copied */
/* The same stage and step, another operation. */
void par_phase(const char *operation);
/* Have `changed` called with each operation that the calling thread notes from here on (--profile); NULL ends it. */
void par_on_note(void (*changed)(void *context, const char *operation), void *context);

/* Time and bytes by collective so far, for --profile; of what devices' own communicators carry, the time to queue it. */
struct par_counter {
    const char *name;
    int64_t calls, bytes;
    double seconds;
};
int par_counter_count(void);
struct par_counter par_counter(int i);
