/* Tensors on disk in the safetensors format: one file, or a Hugging Face directory with its index. Found by name, read by boxes.
 *
 * A file is: header length n (8 bytes, little endian) | JSON header of n bytes, padded with blanks,
 * {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, .., "__metadata__": {"key": "text"}} | data.
 * Offsets count from the end of the header. Everything in it is checked before any tensor is read. All functions are Local; the model
 * keeps its files open and may be read from several threads at once.
 * Source: https://huggingface.co/docs/safetensors and the bounds of its reference implementation. */
#pragma once

#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

enum { HUB_MAX_RANK = 8 };

struct hub_model;

struct hub_entry {
    const char *name; /* owned by the model */
    enum dtype dtype;
    int rank; /* 0: a scalar */
    int64_t shape[HUB_MAX_RANK];
    int64_t elems, bytes;
    int file;       /* see hub_path */
    int64_t offset; /* of its first byte in the file */
};

/* `path`: a directory (model.safetensors, else model.safetensors.index.json), an index file or one .safetensors file. With an index, the
 * tensors of the model are those that the index lists; others in its files are left out. The caller closes with hub_close.
 * A PyTorch pickle (.bin, .pt, ...) is refused by its name. The files of an index lie in its own folder.
 * Errors: IO (absent file or shard), FORMAT (damaged; the message names file and tensor), UNSUPPORTED (more than HUB_MAX_RANK axes, a pickle),
 * MEMORY. */
enum status hub_open(const char *path, struct hub_model **out);
void hub_close(struct hub_model **m);

/* Entries in the order of their names (bytewise). hub_find: NULL when there is none of that name. */
int64_t hub_count(const struct hub_model *m);
const struct hub_entry *hub_entry(const struct hub_model *m, int64_t i);
const struct hub_entry *hub_find(const struct hub_model *m, const char *name);
/* As hub_find, but absence raises FORMAT, and another shape than the one expected raises SHAPE. rank < 0: any shape. */
enum status hub_need(const struct hub_model *m, const char *name, int rank, const int64_t *shape,
                     const struct hub_entry **out);
/* The file an entry lies in, for messages. */
const char *hub_path(const struct hub_model *m, const struct hub_entry *e);

/* Read a box (NULL: the whole tensor) into a row-major array of the box's shape. A box outside the tensor raises SHAPE; an empty one
 * reads nothing. Bytes go through a buffer of at most 1 MiB. Errors: also IO, FORMAT, MEMORY. */
/* To fp32, from F64 (rounded), F32, F16, BF16, F8_E4M3 (its scales: hub/fp8.h); other types raise UNSUPPORTED. */
enum status hub_read_box(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                         float *out);
/* As the stored bytes, any type: dtype_bytes(e->dtype) per element. */
enum status hub_read_raw(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box, void *out);
/* From any integer type or BOOL (0 or 1); a floating type raises UNSUPPORTED, a value that does not fit raises DATA. */
enum status hub_read_i64(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                         int64_t *out);
enum status hub_read_i32(const struct hub_model *m, const struct hub_entry *e, const struct tensor_box *box,
                         int32_t *out);

/* NaN and Inf among x[n]. hub_need_finite raises NUMERIC when there is one, naming file, tensor, count in x and value. */
int64_t hub_count_nonfinite(const float *x, int64_t n);
enum status hub_need_finite(const struct hub_model *m, const struct hub_entry *e, const float *x, int64_t n);
