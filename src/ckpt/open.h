/* An open checkpoint inside this room: the table, and one verified block in memory. */
#pragma once

#include "ckpt/ckpt.h"
#include "ckpt/table.h"

struct ckpt {
    char dir[4096], path[4096]; /* path: of the open file */
    struct ckpt_table t;
    json_t *root;
    struct ckpt_about about; /* borrows from root */
    int fd, file;            /* one file is open at a time; -1: none */
    int64_t cached_piece, cached_block;
    char *block; /* CKPT_BLOCK bytes */
};

/* Make `file` the open one; its size is checked. */
enum status ckpt_use_file(struct ckpt *c, int file);
void ckpt_use_none(struct ckpt *c); /* close it */
/* Bring block `block` of a piece into c->block, verified. */
enum status ckpt_use_block(struct ckpt *c, int64_t piece, int64_t block);
/* Every byte of a file against the hashes of the table. */
enum status ckpt_verify_file(struct ckpt *c, int file);
