/* Where tokens come from: an indexed dataset, a token file's rows, a text file, or random numbers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data/text.h"
#include "tok/tok.h"

/* A source is a list of documents of tokens. All functions are Local. */
struct data_source;

enum data_kind { DATA_MOCK, DATA_INDEX, DATA_ROWS, DATA_TEXT };

/* What a deck's source means. format "auto": "mock"; *.safetensors -> DATA_ROWS (a token file: the caller reads it); PREFIX, PREFIX.idx
 * or PREFIX.bin where PREFIX.idx exists -> DATA_INDEX; another file -> DATA_TEXT. Else mock, tokens, bin, text or jsonl says so, whatever
 * the name. Errors: DATA (no such file). */
enum status data_kind_of(const char *path, const char *format, enum data_kind *out);

/* An indexed dataset. Its documents here are its sequences, as for Megatron's GPT dataset; the tokens are taken as they are
 * (an end-of-document token is inside where the converter put one). Errors: those of data_index_open; DATA when empty. */
enum status data_source_index(const char *prefix, struct data_source **out);

/* A token file that the caller has read: rows of t tokens, taken as they are; the arrays [b, t] are copied; mask and labels may
 * be NULL. mask: 1 = a token, 0 = padding, on the left or the right of the row. labels: the wanted token at each position, as
 * Hugging Face models take them (labels[i] belongs to ids[i] and is predicted from position i - 1; negative = not scored), so
 * labels = ids is the same as NULL. Errors: DATA (empty, a mask with a hole: row and position), MEMORY. */
enum status data_source_rows(const char *name, const int64_t *ids, const int64_t *mask, const int64_t *labels,
                             int64_t b, int64_t t, struct data_source **out);

/* A text or .jsonl file, tokenized now, `eod` behind each document (-1: none). For large texts convert once instead: this
 * keeps 4 bytes a token in every process. o and t are only used during the call. Errors: those of data_text_each; DATA when empty. */
enum status data_source_text(const char *path, const struct data_text_opts *o, struct tok *t, int32_t eod,
                             struct data_source **out);

/* Random documents: lengths uniform in 1..max_length, ids uniform in [0, vocab), the last one `eod` (-1: none). Every token is a
 * function of (seed, document, position). Errors: DECK (a number below 1). */
enum status data_source_mock(uint64_t seed, int64_t documents, int64_t max_length, int64_t vocab, int32_t eod,
                             struct data_source **out);

void data_source_free(struct data_source **s); /* NULL is fine */

/* Keep documents round(from x N) .. round(to x N) - 1 of the N there are (halves to even), numbered from 0 again; 0 <= from <= to <= 1.
 * Errors: DATA (no document or no token is left: range and N). */
enum status data_source_keep(struct data_source *s, double from, double to);

enum data_kind data_source_kind(const struct data_source *s);
const char *data_source_name(const struct data_source *s); /* path as given, or "mock"; borrowed */
int64_t data_source_documents(const struct data_source *s);
int64_t data_source_first(const struct data_source *s); /* number in the file of the document that is number 0 here */
int64_t data_source_tokens(const struct data_source *s);
int64_t data_source_length(const struct data_source *s, int64_t document);
/* Read n tokens of a document from token `first` on; for DATA_ROWS a document is a row. Errors: IO, FORMAT, INTERNAL (range). */
enum status data_source_read(const struct data_source *s, int64_t document, int64_t first, int64_t n, int64_t *out);

/* For DATA_ROWS: the half-open range of real tokens of a row, and its labels ([t], borrowed) or NULL. */
const int64_t *data_source_row(const struct data_source *s, int64_t row, int64_t *begin, int64_t *end);
