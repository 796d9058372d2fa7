/* Text files as documents, and their conversion into token shards. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tok/tok.h"

/* What one document of a plain text file is. A file whose name ends in .jsonl has one JSON object a line and its document is the
 * string under text_key, usually "text"; lines of blanks are skipped. */
enum data_split {
    DATA_SPLIT_FILE,  /* the whole file */
    DATA_SPLIT_BLANK, /* the pieces between blank lines, line ends inside kept, blank lines dropped */
};

/* Called once per document; text is borrowed for the call. */
typedef enum status data_document_fn(void *ctx, const char *text, size_t n);

/* Hand every document of a file, in order, to fn. Memory: a .jsonl line (at most 64 MiB), else the whole file (at most 1 GiB). Local.
 * Errors: IO; DATA (invalid UTF-8: file and byte offset; a bad JSON line or one without a string under text_key: file and line; a file
 * without any text); those of fn, with the file and the place in front. */
enum status data_text_each(const char *path, enum data_split split, const char *text_key, data_document_fn *fn,
                           void *ctx);

/* Tokenize the files, in order, into PREFIX.bin and PREFIX.idx: one sequence per document, with `eod` behind each (-1: none).
 * Empty documents are left out. dtype u16 when the vocabulary has less than 65500 ids, else i32, as Megatron's own tool.
 * The same files give the same bytes. *documents and *tokens (may be NULL) say what was written. Local: one rank does it.
 * Errors: those of data_text_each, tok_encode and the writer. */
enum status data_convert_text(const char *const *paths, size_t npaths, enum data_split split, const char *text_key,
                              struct tok *t, int32_t eod, const char *prefix, int64_t *documents, int64_t *tokens);
