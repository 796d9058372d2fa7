/* Who writes what: from every rank's boxes of a list of tensors to disjoint pieces, each with one writer. */
#pragma once

#include "base/status.h"
#include "ckpt/ckpt.h"
#include "ckpt/table.h"

/* One non-empty box that a rank holds. */
struct held_box {
    int64_t lo[TENSOR_MAX_RANK], hi[TENSOR_MAX_RANK];
    int tensor, rank;
};

enum dtype ckpt_plan_stored_dtype(const struct ckpt_tensor *t);
bool ckpt_plan_holds(const struct ckpt_tensor *t); /* does this rank hold anything of it? */
/* Make the table of tensors and pieces from all ranks' boxes (sorted here): boxes that repeat or overlap become disjoint pieces; a piece goes to
 * the least loaded rank (bytes so far, then lowest rank) of those with the box it comes from. piece.file = the writer's rank; hashes are
 * allocated. Deterministic. Local. Errors: SHAPE when a tensor is not covered, FORMAT for a repeated name, MEMORY. */
enum status ckpt_plan_make(const struct ckpt_tensor *tensors, int n, struct held_box *held, size_t n_held, int world,
                           struct ckpt_table *out);
/* Name the files (a rank that writes nothing has none; index.h5 comes last): piece.file becomes an index into files. *mine = this rank's
 * file or -1. Local. Errors: MEMORY. */
enum status ckpt_plan_name_files(struct ckpt_table *t, int world, int rank, int *mine);
/* Check the list, bring everyone's boxes together and make the table, the same one on every rank. Collective over the world. Errors as
 * ckpt_save_all. */
enum status ckpt_plan_gather_all(const struct ckpt_tensor *tensors, int n, bool have_device, struct par_group *world,
                                 struct ckpt_table *out);
