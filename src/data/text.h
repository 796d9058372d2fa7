/* Text files as documents: plain text and JSONL, whole or a range of bytes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* What one document of a file is. */
enum data_split {
    DATA_SPLIT_FILE,  /* the whole file */
    DATA_SPLIT_BLANK, /* the pieces between blank lines, line ends inside kept, blank lines dropped */
    DATA_SPLIT_JSONL, /* one JSON object a line, the string under text_key; lines of blanks are skipped */
};

/* What becomes of a document (in JSONL: a line) that is not UTF-8. */
enum data_utf8 {
    DATA_UTF8_STRICT,  /* an error: file and byte offset */
    DATA_UTF8_REPLACE, /* each maximal ill-formed part becomes U+FFFD */
    DATA_UTF8_DROP,    /* it is left out */
};

struct data_text_opts {
    enum data_split split;
    enum data_utf8 utf8;
    const char *text_key; /* JSONL; borrowed */
};

/* How a file of a deck's format ("auto", "text", "jsonl") is split: *.jsonl is JSONL, anything else is cut at blank lines. */
enum data_split data_text_split(const char *path, const char *format);

/* The documents that begin in bytes [from, to) of a file, in order; all functions are Local. Ranges that together are the file give each
 * document once: a range begins at its first line (JSONL) or blank line (plain text) and goes on to the next range's. A whole file belongs
 * to the range with byte 0. Memory: the longest document, at most 64 MiB of a JSONL line and 1 GiB of plain text, and 1 MiB. */
struct data_text;
enum status data_text_open(const char *path, const struct data_text_opts *o, int64_t from, int64_t to,
                           struct data_text **out);
void data_text_close(struct data_text **t); /* NULL is fine */
/* The next document, valid UTF-8, borrowed until the next call; *text NULL at the end. Errors: IO; DATA (invalid UTF-8: file and byte offset;
 * a bad JSON line or one without a string under text_key: file and line; a document too long). */
enum status data_text_next(struct data_text *t, const char **text, size_t *n);
/* Put the place of the present document in front of an error's message; returns st. */
enum status data_text_context(const struct data_text *t, enum status st);
int64_t data_text_read(const struct data_text *t);    /* bytes of the range behind it */
int64_t data_text_damaged(const struct data_text *t); /* documents so far that were not UTF-8 */

/* Hand every document of a file, in order, to fn; text is borrowed for the call. Local. Errors: those above; DATA (a file without any
 * text); those of fn, with the place in front. */
typedef enum status data_document_fn(void *ctx, const char *text, size_t n);
enum status data_text_each(const char *path, const struct data_text_opts *o, data_document_fn *fn, void *ctx);
