/* Documents end to end: marks, and the search for a token. */
#include "data/stream.h"

#include "base/size.h"
#include "data/order.h"

int64_t data_stream_marks(int64_t places) { return size_ceil_div(places, DATA_STREAM_STRIDE); }

int64_t data_stream_document(const struct data_stream *s, int64_t place) {
    if (s->order) return s->order[place];
    return s->shuffle ? data_permute(s->seed, s->stream, s->places, place) : place;
}

static int64_t length_at(const struct data_stream *s, int64_t place) {
    return data_source_length(s->source, data_stream_document(s, place));
}

void data_stream_mark(const struct data_stream *s, int64_t *begin) {
    int64_t at = 0;
    for (int64_t k = 0; k < s->places; k++) {
        if (k % DATA_STREAM_STRIDE == 0) begin[k / DATA_STREAM_STRIDE] = at;
        at += length_at(s, k);
    }
}

void data_stream_find(const struct data_stream *s, int64_t token, int64_t *place, int64_t *offset) {
    int64_t lo = 0, hi = data_stream_marks(s->places); /* begin[lo] <= token < begin[hi] */
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        if (s->begin[mid] <= token)
            lo = mid;
        else
            hi = mid;
    }
    int64_t k = lo * DATA_STREAM_STRIDE, at = s->begin[lo], n;
    for (; n = length_at(s, k), at + n <= token; k++) at += n;
    *place = k;
    *offset = token - at;
}

enum status data_stream_each(const struct data_stream *s, int64_t from, int64_t n, data_piece_fn *fn, void *ctx) {
    int64_t k, first;
    if (n < 1) return TM_OK;
    data_stream_find(s, from, &k, &first);
    for (; n > 0; k++, first = 0) {
        int64_t document = data_stream_document(s, k),
                piece = size_min(data_source_length(s->source, document) - first, n);
        if (piece > 0) TM_TRY(fn(ctx, document, first, piece));
        n -= piece;
    }
    return TM_OK;
}
