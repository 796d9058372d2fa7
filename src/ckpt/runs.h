/* Runs of a box: stretches of elements that lie consecutively in two row-major arrays at once. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tensor/tensor.h"

/* Walks `part` (inside both a and b) in row-major order. */
struct runs {
    const struct tensor_box *part, *a, *b;
    int64_t at[TENSOR_MAX_RANK];
    int axes;    /* leading axes that are stepped through; the others are inside a run */
    int64_t len; /* elements of every run */
    bool done;
};

void ckpt_runs_start(struct runs *r, const struct tensor_box *part, const struct tensor_box *a,
                     const struct tensor_box *b);
/* The next run: element offsets in a and b; false after the last. */
bool ckpt_runs_next(struct runs *r, int64_t *in_a, int64_t *in_b);
