/* Which rank serves which part of a wanted box: the table of holders and the plan drawn from it. Private to the room; no messages here.
 * Everything is a function of the table, so every rank comes to the same plan. */
#pragma once

#include <stddef.h>

#include "tensor/tensor.h"

/* Scratch of a plan; UNSUPPORTED beyond. A tensor cut in two dimensions over 1024 ranks needs about as many. */
enum { BOXES_MAX_PIECES = 8192 };

struct boxes_piece {
    struct tensor_box box;
    int holder;
};

struct boxes_plan {
    int pieces, open;
    struct boxes_piece piece[BOXES_MAX_PIECES];
    struct tensor_box left[BOXES_MAX_PIECES]; /* not covered yet */
};

/* The boxes of one tensor: rank r's is first[r * stride]. */
struct boxes_held {
    struct tensor_box box;
    bool has;
};
struct boxes_table {
    const struct boxes_held *first;
    size_t stride;
    int ranks;
};
static inline const struct boxes_held *boxes_held_by(const struct boxes_table *h, int rank) {
    return &h->first[(size_t)rank * h->stride];
}

/* Cover `want` of tensor `t` with what the ranks hold; `turn` chooses among replicas. Errors: SHAPE when something stays uncovered,
 * UNSUPPORTED (too many pieces). Local. */
enum status boxes_plan(const struct tensor_desc *t, int turn, const struct tensor_box *want,
                       const struct boxes_table *held, int root, struct boxes_plan *out);

/* Walk `box` in bounded sub-boxes, row-major: start with *part = (struct tensor_box){.rank = -1}; false at the end. Each has at most `limit`
 * elements (at least one). */
bool boxes_next_part(const struct tensor_box *box, int64_t limit, struct tensor_box *part);

/* The smallest run of whole rows of `box` that holds `part`: contiguous in memory, *offset elements after the start of box. */
struct tensor_box boxes_rows(const struct tensor_box *box, const struct tensor_box *part, int64_t *offset);
/* "[0:4, 2:8]" */
void boxes_print(const struct tensor_box *b, char *out, size_t cap);
