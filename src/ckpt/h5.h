/* HDF5 in a few calls that return a status: making the shard files and the index. Nothing here reads. */
#pragma once

#include <stdint.h>

#include "base/status.h"
#include "ckpt/table.h"

/* Create `path` (replaced when there) with one contiguous dataset, not yet written, per piece of `file`; sets offset of those pieces.
 * The file has its full size afterwards. Local. Errors: IO with HDF5's own words. */
enum status ckpt_h5_create_shard(const char *path, struct ckpt_table *t, int file);
/* Create the index: every tensor as a virtual dataset over its pieces. */
enum status ckpt_h5_create_index(const char *path, const struct ckpt_table *t);
