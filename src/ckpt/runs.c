/* Runs of a box: stretches of elements that lie consecutively in two row-major arrays at once. */
#include "ckpt/runs.h"

void ckpt_runs_start(struct runs *r, const struct tensor_box *part, const struct tensor_box *a,
                     const struct tensor_box *b) {
    *r = (struct runs){.part = part, .a = a, .b = b, .axes = part->rank, .len = 1};
    r->done = tensor_box_elems(part) == 0;
    if (r->done) return; /* its other axes may be of any length */
    bool whole = true;   /* the axes after this one are taken full in both arrays, so this axis continues the run */
    while (r->axes > 0 && whole) {
        int i = --r->axes;
        int64_t n = part->hi[i] - part->lo[i];
        r->len *= n;
        whole = n == a->hi[i] - a->lo[i] && n == b->hi[i] - b->lo[i];
    }
    for (int i = 0; i < part->rank; i++) r->at[i] = part->lo[i];
}

static int64_t offset_in(const struct tensor_box *b, const int64_t *at) {
    int64_t o = 0;
    for (int i = 0; i < b->rank; i++) o = o * (b->hi[i] - b->lo[i]) + at[i] - b->lo[i];
    return o;
}

bool ckpt_runs_next(struct runs *r, int64_t *in_a, int64_t *in_b) {
    if (r->done) return false;
    *in_a = offset_in(r->a, r->at);
    *in_b = offset_in(r->b, r->at);
    int i = r->axes - 1;
    while (i >= 0 && ++r->at[i] == r->part->hi[i]) {
        r->at[i] = r->part->lo[i];
        i--;
    }
    r->done = i < 0;
    return true;
}
