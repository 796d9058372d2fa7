/* Datasets: sources blended, documents packed into rows of fixed length; a sample is a function of its global index. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/str.h"
#include "data/source.h"

/* All functions are Local. A set keeps scratch memory: one thread at a time. The only cursor is the global sample index.
 *
 * A source with documents is one stream of N tokens per epoch: its documents in the epoch's order, end to end. Sample k of the
 * epoch takes tokens k T .. (k + 1) T as inputs and the same, one further, as labels; so each of the N - 1 transitions is scored
 * exactly once an epoch. The last sample is filled up with padding (or left out: drop_partial). A token file's sample is a row.
 * Epoch, order of the documents and order of the samples come from Philox under (seed, source number, epoch).
 *
 * order DATA_MEGATRON: the samples of Megatron's GPTDataset and BlendedDataset instead (megatron.h). All epochs that `samples` needs are one
 * stream; there are so many samples and no more. A blend is of `samples`, or of the sum of the shares of `samples`, each rounded up.
 *
 * Memory: an eighth of a byte a document and source, scratch of two rows; Megatron's order as megatron.h says. No token is kept. */
enum data_order { DATA_IN_PLACE /* as they lie in the sources */, DATA_SHUFFLED, DATA_MEGATRON };

struct data_opts {
    int64_t seq_length; /* T; 0 = the row length of the first token file */
    uint64_t seed;      /* DATA_MEGATRON: below 2^32 */
    enum data_order order;
    int64_t samples;      /* DATA_MEGATRON: how many are asked for; 0 = one epoch, each sample once */
    const char *cache;    /* DATA_MEGATRON: directory for large orders, NULL = none; borrowed for data_set_create */
    bool drop_partial;    /* leave out the sample that would be padded: calibration */
    bool no_overlap;      /* samples of T tokens that share none, the last label of each not scored */
    bool one_document;    /* a sample is a document, cut or padded to T */
    bool reset_documents; /* attention and positions begin anew at each document */
    bool mask_documents;  /* do not score the step from one document to the next */
    int64_t vocab;        /* ids must be below it */
    int32_t pad;          /* the id that fills padding; -1 = 0 */
};

struct data_member {
    struct data_source *source;
    double weight; /* relative share of samples; 0 in every member = one after the other, each sample once a pass */
};

struct data_set;
/* Make a set; it takes over the sources, also on failure. Errors: DECK (no source, lengths, weights: some 0 and some not; a token file or
 * one_document in Megatron's order, or its weights without `samples`), DATA (a source with fewer than 2 tokens, or than T + 1 with
 * drop_partial; a source without the samples that a blend takes of it), SHAPE (a token file with rows of another length), UNSUPPORTED and
 * IO (megatron.h). */
enum status data_set_create(const struct data_opts *opts, const struct data_member *members, size_t n,
                            struct data_set **out);
void data_set_free(struct data_set **s); /* NULL is fine */

int64_t data_set_seq_length(const struct data_set *s);
/* Samples of one pass: the sum of the sources' samples. Without weights a pass shows each sample once; with weights a source is
 * seen more or less than once. Indices behind it go on with the next epoch; in Megatron's order they are errors. */
int64_t data_set_samples(const struct data_set *s);

/* One sample. Arrays of T, owned by the caller. */
struct data_row {
    int32_t *tokens;
    int32_t *labels;    /* the wanted next token; -1 = not scored */
    int32_t *positions; /* counted from the first real token, or from the document's first with reset_documents */
    int32_t *first;     /* position i sees the keys first[i] .. i of its row; i + 1 = none (padding) */
    int64_t valid;      /* labels that are scored */
};
/* Errors: DATA (an id outside [0, vocab): source, document, position, id), IO, FORMAT; DECK (index < 0, or behind Megatron's
 * last). */
enum status data_sample(struct data_set *s, int64_t index, struct data_row *out);

/* Which documents made samples [first, first + count): JSON text for reports, {"seq_length", ..., "sources": [{"name", "kind",
 * "weight", "documents", "tokens", "samples"}], "rows": [{"sample": i, "pieces": [[source, document, first token, tokens]]}]}. */
enum status data_describe(struct data_set *s, int64_t first, int64_t count, struct str *out);

/* What a step consumes: rows [b, t]; memory owned by the batch, allocated once. */
struct data_batch {
    int64_t b, t;
    int32_t *tokens, *labels, *positions, *first; /* [b, t], as in struct data_row */
    int64_t valid;                                /* labels that are scored in the whole batch */
};
enum status data_batch_create(int64_t b, int64_t t, struct data_batch *out);
void data_batch_free(struct data_batch *batch);
enum status data_batches_create(int64_t n, int64_t b, int64_t t, struct data_batch **out); /* *out [n] */
void data_batches_free(int64_t n, struct data_batch **b);                                  /* sets *b to NULL */
/* Samples first .. first + count - 1 into rows 0 .. count - 1 (count <= b); the rows behind them are padding. Errors: those of
 * data_sample; SHAPE (t is not the set's, count > b). */
enum status data_batch_fill(struct data_set *s, int64_t first, int64_t count, struct data_batch *out);
