/* One save inside this room: the steps that saving in line and saving in the background are both made of. */
#pragma once

#include "ckpt/ckpt.h"
#include "ckpt/table.h"

struct save {
    const struct ckpt_save_args *a;
    struct ckpt_table t;
    int mine;        /* this rank's file, -1 = it writes none */
    int wave, waves; /* when this rank's turn is, of so many: args.writers files are written at once */
    bool first;      /* rank 0: it makes folders, the index, the manifest */
    double began;
    char when[32], tmp[4096], old[4096], path[4096];
};

/* Who writes what, and an empty .tmp. `a` is borrowed until publish or drop. Collective over the world; nothing is left on an error. */
enum status ckpt_save_plan_all(struct save *s, const struct ckpt_save_args *a);
/* This rank's file (and rank 0's index), synced, and read back where args.verify asks. `tensors` stands for args.tensors. Local: no MPI. */
enum status ckpt_save_write(struct save *s, struct dev *dev, const struct ckpt_tensor *tensors);
/* After all ranks wrote well: hashes come together, manifest, rename, ledger. *there: it has its name (an error may still be the ledger's);
 * without it all is undone. Collective over the world. */
enum status ckpt_save_publish_all(struct save *s, struct ckpt_saved *info, bool *there);
/* After that, on rank 0: remove what args.keep does not keep, which takes a while where files are large. Local. */
void ckpt_save_prune(const struct save *s);
/* Give up, without losing the message of what went wrong. Local, after an agreement; the .tmp goes. */
void ckpt_save_drop(struct save *s);
