/* The folders of a stage's checkpoints: names and the list of them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* One folder. `old`: step_N.old, what step_N was while a new step_N was being put in its place; it counts while step_N is not there. */
struct step_dir {
    int64_t step;
    bool old, tmp; /* tmp: step_N.tmp, never complete */
};

/* "step_00000012", with ".tmp" or ".old" as its flags say, inside `dir`. */
enum status ckpt_dirs_path(const char *dir, const struct step_dir *d, char *out, size_t cap);
/* All of them in `dir`, the largest step first, step_N before step_N.old; free with mem_free. An absent `dir` has none. Errors: IO, MEMORY. */
enum status ckpt_dirs_list(const char *dir, struct step_dir **out, size_t *n);
/* Does the folder have a manifest that passes all checks, and its files their sizes? Errors: as ckpt_open and ckpt_read_box. */
enum status ckpt_dirs_check(const char *step_dir);
/* Remove leftovers of saves that never ended: *.tmp. */
enum status ckpt_dirs_remove_tmp(const char *dir);
/* Keep the `keep` largest valid steps and `saved` itself; remove all other checkpoints below the last kept, and every .old. */
enum status ckpt_dirs_prune(const char *dir, int keep, int64_t saved);
