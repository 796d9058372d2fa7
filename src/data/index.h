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

struct data_index {
    char *prefix;
    enum data_dtype dtype;
    int64_t sequences, documents, tokens;
    int32_t *lengths;  /* [sequences], tokens */
    int64_t *offsets;  /* [sequences], bytes */
    int64_t *document; /* [documents + 1], sequence numbers */
    bool has_modes;    /* multimodal: one mode byte per sequence; not kept */
    int fd;            /* of .bin */
};

/* Open PREFIX.idx and PREFIX.bin; every number of the index is checked against the sizes of both files. `prefix` may also be
 * the name of either file. The caller closes. Errors: IO; FORMAT (file, sequence or document, value, what was expected). */
enum status data_index_open(const char *prefix, struct data_index **out);
void data_index_close(struct data_index **x); /* NULL is fine */

/* Read n tokens of a sequence, from token `first` on, widened to 64 bits. Errors: IO, FORMAT (the file shrank), INTERNAL (a
 * range outside the sequence). */
enum status data_index_read(const struct data_index *x, int64_t sequence, int64_t first, int64_t n, int64_t *out);

/* Bytes of a token; 0 for an unknown or floating-point code. */
size_t data_dtype_size(int code);

/* Writing: add sequences, end documents, finish. Nothing of that name is touched before finish, which makes both files
 * durable (.idx last). Memory: 20 bytes a sequence and one 1 MiB buffer. */
struct data_writer;
enum status data_writer_open(const char *prefix, enum data_dtype dtype, struct data_writer **out);
/* Append one sequence. Errors: DATA (an id that the dtype cannot hold: sequence, position, id), IO. */
enum status data_writer_add(struct data_writer *w, const int32_t *ids, size_t n);
enum status data_writer_end_document(struct data_writer *w);
/* Write out and close; *w becomes NULL, also on failure. */
enum status data_writer_finish(struct data_writer **w);
void data_writer_cancel(struct data_writer **w); /* drop what was written; NULL is fine */
