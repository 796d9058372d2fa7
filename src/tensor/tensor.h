/* Global tensors and the boxes of them that a rank holds: names, shapes, cuts. No data lives here. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/dtype.h"

enum { TENSOR_MAX_RANK = 4, TENSOR_NAME_MAX = 192 };

/* A half-open range of indices per axis of the global tensor. Empty when any lo >= hi. */
struct tensor_box {
    int rank;
    int64_t lo[TENSOR_MAX_RANK], hi[TENSOR_MAX_RANK];
};

/* A tensor's global identity, and the part of it that is held here. Data for it is a row-major array of the box's shape. */
struct tensor_desc {
    char name[TENSOR_NAME_MAX]; /* global name; the Hugging Face name for weights */
    enum dtype dtype;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    struct tensor_box box;
};

/* How a dimension is cut: `units` pieces of `unit` elements, grouped into `segments` fixed segments whose boundaries are at
 * ceil(units * i / segments). Sums over the dimension are a binary tree over the segments (DESIGN: the same bytes on any grid). */
struct tensor_axis {
    int64_t units, unit;
    int segments;
};

int64_t tensor_elems(const struct tensor_desc *t);    /* of the global tensor */
int64_t tensor_box_elems(const struct tensor_box *b); /* 0 when empty */
struct tensor_box tensor_box_whole(int rank, const int64_t *shape);
bool tensor_box_equal(const struct tensor_box *a, const struct tensor_box *b);
/* Intersection; false (and an empty box) when there is none. */
bool tensor_box_intersect(const struct tensor_box *a, const struct tensor_box *b, struct tensor_box *out);
/* Copy `part` (inside both boxes) from src (row-major array of src_box) to dst (of dst_box); elem_bytes per element. */
void tensor_copy_box(void *dst, const struct tensor_box *dst_box, const void *src, const struct tensor_box *src_box,
                     const struct tensor_box *part, size_t elem_bytes);

/* First element of segment i (0..segments; i = segments gives the extent). */
int64_t tensor_axis_lo(const struct tensor_axis *a, int i);
/* Elements [*lo, *hi) that rank r of n owns: segments [S*r/n, S*(r+1)/n). S % n == 0 is required for the grid-invariance promise;
 * any n is legal here. */
void tensor_axis_range(const struct tensor_axis *a, int r, int n, int64_t *lo, int64_t *hi);
/* Whether a cut between n ranks lies inside a block of `block` elements (a row as one block: whenever two ranks own something). */
bool tensor_axis_divides(const struct tensor_axis *a, int n, int64_t block);
/* Bit r set: rank r of n owns at least one element. */
uint64_t tensor_axis_present(const struct tensor_axis *a, int n);
