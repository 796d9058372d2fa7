/* Global tensors, boxes and cuts. */
#include "tensor/tensor.h"

#include <string.h>

#include "base/size.h"

int64_t tensor_elems(const struct tensor_desc *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

int64_t tensor_box_elems(const struct tensor_box *b) {
    int64_t n = 1;
    for (int i = 0; i < b->rank; i++)
        if (b->hi[i] <= b->lo[i]) return 0; /* others may be of any length */
    for (int i = 0; i < b->rank; i++) n *= b->hi[i] - b->lo[i];
    return n;
}

struct tensor_box tensor_box_whole(int rank, const int64_t *shape) {
    struct tensor_box b = {.rank = rank};
    for (int i = 0; i < rank; i++) b.hi[i] = shape[i];
    return b;
}

bool tensor_box_equal(const struct tensor_box *a, const struct tensor_box *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->lo[i] != b->lo[i] || a->hi[i] != b->hi[i]) return false;
    return true;
}

bool tensor_box_intersect(const struct tensor_box *a, const struct tensor_box *b, struct tensor_box *out) {
    *out = (struct tensor_box){.rank = a->rank};
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++) {
        out->lo[i] = size_max(a->lo[i], b->lo[i]);
        out->hi[i] = size_min(a->hi[i], b->hi[i]);
    }
    return tensor_box_elems(out) > 0;
}

static int64_t offset_in(const struct tensor_box *b, const int64_t *index) {
    int64_t o = 0;
    for (int i = 0; i < b->rank; i++) o = o * (b->hi[i] - b->lo[i]) + index[i] - b->lo[i];
    return o;
}

void tensor_copy_box(void *dst, const struct tensor_box *dst_box, const void *src, const struct tensor_box *src_box,
                     const struct tensor_box *part, size_t elem_bytes) {
    int64_t at[TENSOR_MAX_RANK];
    int last = part->rank - 1;
    if (tensor_box_elems(part) == 0) return;
    if (part->rank == 0) {
        memcpy(dst, src, elem_bytes);
        return;
    }
    memcpy(at, part->lo, sizeof at);
    size_t run = (size_t)(part->hi[last] - part->lo[last]) * elem_bytes;
    for (;;) {
        memcpy((char *)dst + (size_t)offset_in(dst_box, at) * elem_bytes,
               (const char *)src + (size_t)offset_in(src_box, at) * elem_bytes, run);
        int axis = last - 1;
        while (axis >= 0 && ++at[axis] == part->hi[axis]) {
            at[axis] = part->lo[axis];
            axis--;
        }
        if (axis < 0) return;
    }
}

int64_t tensor_axis_lo(const struct tensor_axis *a, int i) {
    return size_ceil_div(a->units * i, a->segments) * a->unit;
}

void tensor_axis_range(const struct tensor_axis *a, int r, int n, int64_t *lo, int64_t *hi) {
    *lo = tensor_axis_lo(a, a->segments * r / n);
    *hi = tensor_axis_lo(a, a->segments * (r + 1) / n);
}

bool tensor_axis_divides(const struct tensor_axis *a, int n, int64_t block) {
    int64_t lo, hi, extent = a->units * a->unit;
    for (int r = 0; r < n; r++) {
        tensor_axis_range(a, r, n, &lo, &hi);
        if (lo % block && lo < extent) return true;
    }
    return false;
}

uint64_t tensor_axis_present(const struct tensor_axis *a, int n) {
    uint64_t mask = 0;
    for (int r = 0; r < n; r++) {
        int64_t lo, hi;
        tensor_axis_range(a, r, n, &lo, &hi);
        if (hi > lo) mask |= 1ull << r;
    }
    return mask;
}
