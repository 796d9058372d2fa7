/* One writer's file: the HDF5 frame, then the data by pwrite with a hash per block. */
#pragma once

#include "base/status.h"
#include "ckpt/ckpt.h"
#include "ckpt/table.h"

/* Write file `file` of the table into `dir` from this rank's tensors and sync it; sets offsets, hashes, size and rest. At most three blocks of
 * host memory (a piece that is only part of a held box costs the box once more). Local. Errors: IO, DEVICE, MEMORY. */
enum status ckpt_shard_write(const char *dir, struct dev *dev, const struct ckpt_tensor *tensors, struct ckpt_table *t,
                             int file);
/* Write index.h5, sync it; sets its size and hash. */
enum status ckpt_shard_write_index(const char *dir, struct ckpt_table *t);

/* Bytes [at, at + n) of a held box as they are stored, into out. One source at a time. */
struct shard_source {
    struct dev *dev;
    const struct ckpt_tensor *tensor;
    const char *host;  /* the tensor's host memory, or a gathered copy of the piece; NULL: device memory */
    char *copy, *wide; /* owned: the copy; a buffer for f32 before it is narrowed */
};
enum status ckpt_shard_source_open(struct shard_source *s, struct dev *dev, const struct ckpt_tensor *tensor,
                                   const struct tensor_box *piece);
enum status ckpt_shard_source_read(struct shard_source *s, int64_t at, size_t n, void *out); /* n <= CKPT_BLOCK */
void ckpt_shard_source_close(struct shard_source *s);
