/* Writing tensors as safetensors: a plan says which tensor lies in which file at which offset, then files are filled in any order.
 *
 * The plan is a function of the tensors' names, types, shapes and of shard_size alone, so the bytes of an export are too. Tensors are cut
 * into files in the order of their names (bytewise): a file is closed when the next tensor would take its data above shard_size; a larger
 * tensor gets a file of its own (the rule of huggingface_hub). Inside a file they lie by falling alignment of their types, then by name,
 * which is the order of the reference implementation, so no element is misaligned. */
#pragma once

#include <stddef.h>

#include "base/json.h"
#include "hub/safetensors.h"

/* A tensor to be written; the name is borrowed. */
struct hub_tensor {
    const char *name;
    enum dtype dtype;
    int rank;
    int64_t shape[HUB_MAX_RANK];
};

struct hub_item {
    const char *name; /* owned by the plan */
    enum dtype dtype;
    int rank;
    int64_t shape[HUB_MAX_RANK];
    int64_t bytes, offset; /* of its data in the file */
    int file, source;      /* source: its place in the caller's list */
};

struct hub_plan_file {
    char name[48];    /* "model.safetensors", or "model-00001-of-00004.safetensors" */
    int first, count; /* its items, in the order of their offsets */
    char *header;     /* the first bytes of the file: length and JSON */
    int64_t header_bytes, bytes;
};

struct hub_plan {
    struct hub_item *items;
    struct hub_plan_file *files;
    int n, files_n;
    int64_t data_bytes; /* of all tensors */
    char *names;
};

/* shard_size: bytes of tensor data per file, > 0. metadata: texts for "__metadata__", borrowed; NULL = {"format": "pt"}, what transformers
 * asks for; an empty object = none. The caller frees with hub_plan_destroy. Local. Errors: DATA (no name, a name twice), FORMAT (a name
 * that is not UTF-8), SHAPE (sizes overflow), UNSUPPORTED (a header above 100 MB), DECK (shard_size), MEMORY. */
enum status hub_plan_create(const struct hub_tensor *tensors, int n, int64_t shard_size, json_t *metadata,
                            struct hub_plan **out);
void hub_plan_destroy(struct hub_plan **plan);
/* model.safetensors.index.json of a plan of several files, as transformers writes it; the caller frees with json_decref. Local. */
enum status hub_plan_index(const struct hub_plan *plan, json_t **out);

/* Fill one file of a plan: into path.tmp, in any order of pieces. Local. */
struct hub_writer;
enum status hub_write_begin(const struct hub_plan *plan, int file, const char *path, struct hub_writer **out);
/* `n` bytes of item `item` from byte `offset` of its data on. Each byte is written once. */
enum status hub_write_tensor(struct hub_writer *w, int item, int64_t offset, const void *bytes, int64_t n);
/* Make path.tmp durable and close it; raises INTERNAL when bytes are missing. On an error the file is removed. *w becomes NULL. */
enum status hub_write_end(struct hub_writer **w);
void hub_write_drop(struct hub_writer **w); /* give up: close and remove */

/* Before an export: make `dir` and see that it can take the plan: it must not hold *.safetensors files or an index of another layout, which
 * a reader might mix with ours. IO when it does (nothing is deleted), or when there is too little space. A file of the same name is replaced
 * by the commit: the caller sees to it that `dir` is not the model it reads from. Local. */
enum status hub_prepare_dir(const char *dir, const struct hub_plan *plan);
/* After all files of the plan lie in `dir` as .tmp: give them their names, the index last. Local. */
enum status hub_commit_dir(const char *dir, const struct hub_plan *plan);

/* One file with all of its tensors from memory (data[i]: row-major, of tensors[i]); for probes and tools. Local. */
enum status hub_save(const char *path, const struct hub_tensor *tensors, const void *const *data, int n,
                     json_t *metadata);
