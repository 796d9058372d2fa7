/* Megatron's indexed datasets: PREFIX.bin holds tokens back to back, PREFIX.idx says where each sequence lies. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* All functions are Local. Layout of .idx (little-endian; reference: megatron-core, datasets/indexed_dataset.py):
 * "MMIDIDX\0\0", u64 version = 1, u8 dtype code, u64 S sequences, u64 D = documents + 1, i32[S] tokens per sequence,
 * i64[S] byte offset of each in .bin, i64[D] first sequence of each document (0 first, S last), maybe i8[S] modes. */
enum data_dtype { DATA_U8 = 1, DATA_I8 = 2, DATA_I16 = 3, DATA_I32 = 4, DATA_I64 = 5, DATA_U16 = 8 };

/* The index file is mapped, never copied: a machine holds it once, in its page cache, however many ranks read it. .bin is read piece by
 * piece with pread. Both must stay as they are while open. */
struct data_index {
    char *prefix;
    enum data_dtype dtype;
    int64_t sequences, documents, tokens;
    bool has_modes;  /* multimodal: one mode byte per sequence; not used */
    const char *map; /* .idx; its numbers are not aligned: use the three functions below */
    size_t map_bytes;
    int fd; /* of .bin */
};

/* Open PREFIX.idx and PREFIX.bin; every number of the index is checked: sequences lie in .bin one behind the other without overlap, document
 * bounds rise. `prefix` may also be the name of either file. The caller closes. Errors: IO; FORMAT (file, sequence or document, value, what was expected). */
enum status data_index_open(const char *prefix, struct data_index **out);
void data_index_close(struct data_index **x); /* NULL is fine */

int64_t data_index_length(const struct data_index *x, int64_t sequence); /* tokens */
int64_t data_index_offset(const struct data_index *x, int64_t sequence); /* bytes */
int64_t data_index_document(const struct data_index *x,
                            int64_t document); /* its first sequence; of `documents`: the end */

/* Read n tokens of a sequence, from token `first` on, widened to 64 bits. Errors: IO, FORMAT (the file shrank), INTERNAL (a
 * range outside the sequence). */
enum status data_index_read(const struct data_index *x, int64_t sequence, int64_t first, int64_t n, int64_t *out);

/* Bytes of a token; 0 for an unknown or floating-point code. */
size_t data_dtype_size(int code);
