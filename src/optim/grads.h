/* What happens to gradients between backward and update: the sums that were kept apart, the norm. */
#pragma once

#include "model/model.h"

/* Gradients of a model over several micro-batches, as a tree over virtual data-parallel groups (DESIGN §2.7): `dp_segments` groups of consecutive
 * micro-batches of the global batch; in order inside a group, a tree over groups. */
struct optim_grads {
    struct model *m;
    int groups;    /* virtual groups of this rank: dp_segments / dp, at least 1 */
    dptr level[4]; /* partial trees; only when groups > 1 */
    bool used[4];
    int n_levels;
    int64_t closed; /* bytes of the gradients from here on are closed */
    dptr tied;      /* the other stage's gradient of a tied embedding */
    dptr slots;     /* fp64 sums of squares, one per parameter and segment */
    double *host_slots;
};

/* All memory is taken here. dp_segments: 1, or a power of two that dp divides (checked: DECK). Local. */
enum status optim_grads_create(struct model *m, int dp_segments, struct optim_grads *out);
void optim_grads_destroy(struct optim_grads *g);
size_t optim_grads_bytes(const struct optim_grads *g);
/* Before the first micro-batch of a step. */
enum status optim_grads_begin(struct optim_grads *g);
/* After the last micro-batch of each virtual group of this rank but the last. */
enum status optim_grads_push(struct optim_grads *g);
/* In the backward pass of the last micro-batch of the last group, once the gradients from byte `from` on (model_grads_from) are not added to any
 * more: close their tree over groups and begin their sum over DP. Worth while where that runs beside (par_runs_beside); the bits are those of
 * optim_grads_finish alone, which closes what is left. Collective over the DP group: the same calls on all its ranks. */
enum status optim_grads_close(struct optim_grads *g, int64_t from);
/* After the last group: sum over DP, fold the leaves, add the two uses of a tied embedding. Collective over the grid.
 * Afterwards each parameter's w.grad starts with its full gradient (the box's shape). */
enum status optim_grads_finish(struct optim_grads *g);
/* Global L2 norm in fp64: per tensor over its segments, tensors in registry order, without the frozen ones; the same on every rank. Collective over the model group. */
enum status optim_grads_norm(struct optim_grads *g, double *norm);
