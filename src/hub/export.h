/* Writing an export from all ranks, and the files that go along with the weights. */
#pragma once

#include "hub/write.h"

/* Bring rows [row0, row0 + rows) of tensor `tensor` (its place in the list the plan was made from; a scalar has one row) to rank `root`,
 * as row-major bytes into out; out is NULL on the other ranks. It is called by all ranks in the same order with the same arguments (but
 * out), so it may be collective; a rank on which it failed, or which failed before, goes on being called. */
typedef enum status (*hub_produce_fn)(void *ctx, int tensor, int64_t row0, int64_t rows, int root, void *out);

/* Write all files of the plan into `dir` (one that every rank sees). File i is written by rank i % size; rows come in blocks of at most
 * block_bytes (0: 4 MiB, which stay in the cache; a longer row comes whole), so no rank holds more than one block. The bytes do not depend on the number of
 * ranks. Collective over the world; all ranks return the same status. Files get their names when all are complete; on failure none
 * does, and what was begun is removed. Errors: as hub_prepare_dir, IO, MEMORY, those of produce. */
enum status hub_write_all(const char *dir, const struct hub_plan *plan, int64_t block_bytes, hub_produce_fn produce,
                          void *ctx);

/* The same where every rank can bring any rows by itself (from a file that all see): `produce` is Local, is called only on the rank that
 * writes the file, with root = that rank, and ranks fill their files side by side. Collective over the world. */
enum status hub_write_apart_all(const char *dir, const struct hub_plan *plan, int64_t block_bytes,
                                hub_produce_fn produce, void *ctx);

/* Copy the files of a model directory that are no weights (tokenizer, chat template, generation_config.json, licences) byte for byte.
 * Those that are not there are left out; nothing is done when both are one directory. *copied counts them. Local. Errors: IO. */
enum status hub_copy_files(const char *from, const char *to, int *copied);
