/* The documents of a source laid end to end in some order, and where a token of that stream lies. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "data/source.h"

/* A stream is a list of places, each with a document of the source. All functions are Local. Only every 64th place is marked with
 * where it begins: an eighth of a byte a document, and a token is found by bisection and at most 64 lengths. */
enum { DATA_STREAM_STRIDE = 64 };

struct data_stream {
    const struct data_source *source;
    int64_t places, tokens;
    const uint32_t *order; /* [places]: the document at each place; borrowed. NULL: by the three below */
    bool shuffle;          /* off: place = document */
    uint64_t seed, stream; /* of data_permute */
    const int64_t *begin;  /* [data_stream_marks(places)]: where places 0, 64, 128, ... begin in the stream; borrowed */
};

int64_t data_stream_marks(int64_t places);
/* Compute the marks from the places and their order. */
void data_stream_mark(const struct data_stream *s, int64_t *begin);
int64_t data_stream_document(const struct data_stream *s, int64_t place);
/* The place that holds a token, 0 <= token < tokens, and the token's offset in its document. */
void data_stream_find(const struct data_stream *s, int64_t token, int64_t *place, int64_t *offset);

/* Hand the pieces of documents that make up tokens [from, from + n), in order, to fn; its error ends it. */
typedef enum status data_piece_fn(void *ctx, int64_t document, int64_t first, int64_t n);
enum status data_stream_each(const struct data_stream *s, int64_t from, int64_t n, data_piece_fn *fn, void *ctx);
