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

struct par_group; /* an MPI communicator and its buffers */

/* rank = tp + TP*(cp + CP*(dp + DP*pp)). */
struct par_grid {
    int tp, cp, dp, pp;                     /* sizes */
    int tp_rank, cp_rank, dp_rank, pp_rank; /* this rank's place */
    struct par_group *world, *tp_group, *dp_group, *pp_group,
        *model_group; /* model_group: the ranks of one DP replica (tp x pp) */
    bool invariant;   /* sums keep the fixed tree (TP is a power of two <= PAR_TP_SEGMENTS) */
};

/* World. par_start also detects processes that srun started as singletons (SLURM_NTASKS > 1, MPI size 1): ERR_DECK with a hint. */
enum status par_start(int *argc, char ***argv);
void par_finish(void);                    /* MPI_Finalize */
_Noreturn void par_abort(enum status st); /* last resort: ends all ranks with the exit code of st */
int par_rank(void);
int par_size(void);
int par_local_size(void); /* ranks on this host */
int par_local_rank(void);

/* Sizes are checked: tp*cp*pp must divide the world (ERR_DECK names the deck keys). dp = what is left. Groups are made in one fixed order. */
enum status par_grid_create_all(int tp, int cp, int pp, struct par_grid *out);
/* The grid of rank `rank` of a world that does not exist (for --plan --as-ranks): groups are NULL, sizes as given. No MPI. */
enum status par_grid_imagine(int world, int rank, int tp, int cp, int pp, struct par_grid *out);
void par_grid_destroy(struct par_grid *g);
int par_group_rank(const struct par_group *g);
int par_group_size(const struct par_group *g);

/* Agreement: every rank passes its status; all return the worst one (largest exit code; lowest rank wins), with the guilty rank's message
 * (prefixed by its rank when it is another). One reduction when all are well. */
enum status par_agree_all(enum status mine);
enum status par_agree(struct par_group *g, enum status mine);

/* Host-memory collectives for control data. `op`: sums only of integers; floating sums exist only as the fixed tree below. */
enum par_op { PAR_SUM, PAR_MAX, PAR_MIN, PAR_BOR };
enum status par_reduce_i64(struct par_group *g, int64_t *x, int64_t n, enum par_op op); /* allreduce */
enum status par_reduce_f64_max(struct par_group *g, double *x, int64_t n);
enum status par_bcast(struct par_group *g, void *bytes, int64_t n, int root);
enum status par_gather_bytes(struct par_group *g, const void *mine, int64_t n, void *out,
                             int root); /* equal n everywhere */
enum status par_allgather_bytes(struct par_group *g, const void *mine, int64_t n, void *out);
enum status par_barrier(struct par_group *g);
/* Sum of doubles where at most one rank's term is not zero (slots): exact in any order. */
enum status par_sum_slots_f64(struct par_group *g, double *x, int64_t n);

/* Device-memory collectives (fp32). On the host backend they work in place on the memory. */
/* x[n] <- the binary tree sum over ranks (rank order = leaf order: pairs at distance 1, 2, 4, ...). `present` bit r: rank r contributes; an
 * absent rank contributes nothing (its x is not read), everyone receives. With all absent, x becomes +0.
 * Groups whose size is no power of two are summed by the same rule (missing partner = nothing). */
enum status par_tree_sum(struct par_group *g, struct dev *d, dptr x, int64_t n, uint64_t present);
/* x[n] <- sum where at most one rank is not +0 (embedding look-ups, target logits). */
enum status par_sum_one_nonzero(struct par_group *g, struct dev *d, dptr x, int64_t n);
enum status par_max_f32(struct par_group *g, struct dev *d, dptr x, int64_t n); /* NaN wins */
/* Row-wise argmax across ranks: (value[i], index[i]) <- the largest value, lowest index on ties. index int32. */
enum status par_argmax(struct par_group *g, struct dev *d, dptr value, dptr index, int64_t n);
enum status par_bcast_dev(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int root);
/* Gather `n_r` floats of each rank (counts[size], may be 0) to every rank, in rank order. */
enum status par_allgatherv_f32(struct par_group *g, struct dev *d, dptr mine, dptr out, const int64_t *counts);

/* Point to point between pipeline stages (device memory); `request` is completed by par_wait. At most PAR_MAX_REQUESTS in flight. */
enum { PAR_MAX_REQUESTS = 64 };
enum status par_send_start(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int to, int tag, int *request);
enum status par_recv_start(struct par_group *g, struct dev *d, dptr x, int64_t bytes, int from, int tag, int *request);
enum status par_wait(struct par_group *g, int request);
/* Host-memory blocking forms, for moving boxes of tensors between ranks. */
enum status par_send(struct par_group *g, const void *bytes, int64_t n, int to, int tag);
enum status par_recv(struct par_group *g, void *bytes, int64_t n, int from, int tag);

/* Boxes: who holds what of a list of global tensors. Every rank passes the same list (names, shapes, order) with its own boxes (empty where
 * it holds nothing) and the device memory of them; data is borrowed and must stay. Replicas are fine: one holder serves (lowest rank that
 * covers the piece, rotated over the DP replicas so that reads spread). */
struct par_boxes;
enum status par_boxes_create_all(struct dev *d, const struct tensor_desc *tensors, const dptr *data, int n,
                                 struct par_boxes **out);
void par_boxes_destroy(struct par_boxes **b);
/* Collective over the world, called with equal arguments everywhere (but `out`): bring box `want` of tensor i to rank `root` as a row-major
 * host array. Errors: SHAPE when the holders together do not cover it (names tensor and box). */
enum status par_boxes_fetch_all(struct par_boxes *b, int i, const struct tensor_box *want, int root, void *out);

/* Watchdog: a thread that ends the job (all ranks named with stage, step, operation and their age; ERR_TIMEOUT or ERR_COMM) when a
 * communication lasts longer than the deadline. deadline_s = 0 turns it off. par_note says what this rank is doing; cheap. */
enum status par_watchdog_start(double deadline_s);
void par_watchdog_stop(void);
void par_note(const char *stage, int64_t step, const char *operation); /* strings are copied */

/* Time and bytes by collective so far, for --profile. */
struct par_counter {
    const char *name;
    int64_t calls, bytes;
    double seconds;
};
int par_counter_count(void);
struct par_counter par_counter(int i);
