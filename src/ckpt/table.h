/* The table of a checkpoint: its tensors, which box of which lies where, and the hashes. A save fills it from a plan, a load from the manifest. */
#pragma once

#include "base/json.h"
#include "base/status.h"
#include "base/str.h"
#include "tensor/tensor.h"

enum {
    CKPT_BLOCK = 16 << 20, /* bytes hashed together; part of the format */
    CKPT_VERSION = 1,
    CKPT_FILE_MAX = 64
};
#define CKPT_INDEX    "index.h5"
#define CKPT_MANIFEST "MANIFEST.json"

struct ckpt_piece {
    struct tensor_box box;
    int tensor, file;    /* indices into the table */
    int64_t offset;      /* in the file */
    int64_t bytes, hash; /* size; index of its first block's hash */
};
struct ckpt_entry {
    struct tensor_desc desc; /* dtype as stored; box = whole */
    int64_t piece, pieces;   /* its pieces are consecutive; they are disjoint and cover it */
    char units[32];
};
struct ckpt_file {
    char name[CKPT_FILE_MAX];
    int64_t bytes;
    uint64_t rest; /* XXH3 of all bytes outside pieces, see ckpt_table_hash_rest */
};
struct ckpt_table {
    struct ckpt_entry *tensors;
    struct ckpt_piece *pieces;
    struct ckpt_file *files; /* index.h5 is the last one */
    uint64_t *hashes;
    int *by_name; /* permutation of tensors, sorted by name */
    int n, n_files;
    int64_t n_pieces, n_hashes, bytes;
    size_t cap_pieces;
};

/* What stands in a manifest beside the table. Strings are borrowed. */
struct ckpt_about {
    int64_t step;
    const char *code, *deck, *when;
    const json_t *meta, *grid;
};

void ckpt_table_free(struct ckpt_table *t);
static inline int64_t ckpt_table_blocks(int64_t bytes) { return (bytes + CKPT_BLOCK - 1) / CKPT_BLOCK; }
/* May a stored tensor be called so? Printable, no empty or "." part between '/'. */
bool ckpt_table_good_name(const char *name);
/* Fill by_name. Errors: FORMAT when two tensors have one name; MEMORY. */
enum status ckpt_table_sort_names(struct ckpt_table *t);
int ckpt_table_find(const struct ckpt_table *t, const char *name); /* -1: none */
/* Hash of the bytes of an open file that belong to no piece: gaps in rising order, in blocks from each gap's start, chained. `buf` holds
 * CKPT_BLOCK bytes. Errors: IO, FORMAT (shorter than `size`), MEMORY. */
enum status ckpt_table_hash_rest(const struct ckpt_table *t, int file, int fd, const char *path, int64_t size,
                                 void *buf, uint64_t *out);

/* The manifest's text; `out` is appended to. Errors: DECK (deck or metadata not UTF-8), MEMORY. */
enum status ckpt_manifest_print(const struct ckpt_table *t, const struct ckpt_about *about, struct str *out);
/* Parse and check text[n] (hostile): sets *t, *root and *about, which borrows from *root. `where` names it in messages. Errors: FORMAT, MEMORY. */
enum status ckpt_manifest_parse(const char *text, size_t n, const char *where, struct ckpt_table *t, json_t **root,
                                struct ckpt_about *about);
/* Read step_dir/MANIFEST.json whole; free with mem_free. */
enum status ckpt_manifest_read(const char *step_dir, char **text, size_t *n);
