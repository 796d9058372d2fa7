/* Which rank serves which part of a wanted box (boxes.h). */
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "par/boxes.h"

void boxes_print(const struct tensor_box *b, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "[");
    for (int i = 0; i < b->rank && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%lld:%lld", i ? ", " : "", (long long)b->lo[i], (long long)b->hi[i]);
    if (n < cap) snprintf(out + n, cap - n, "]");
}

static enum status too_many(const struct tensor_desc *t) {
    return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: the ranks hold it in more than %d pieces", t->name, BOXES_MAX_PIECES);
}

/* Replace left[i] by what remains of it beside `part`: up to two slabs per axis. */
static enum status subtract(const struct tensor_desc *t, struct boxes_plan *p, int i, const struct tensor_box *part) {
    struct tensor_box rest = p->left[i];
    p->left[i] = p->left[--p->open];
    for (int k = 0; k < rest.rank; k++) {
        struct tensor_box slab = rest;
        slab.hi[k] = part->lo[k];
        if (p->open + 2 > BOXES_MAX_PIECES) return too_many(t);
        if (slab.lo[k] < slab.hi[k]) p->left[p->open++] = slab;
        slab = rest;
        slab.lo[k] = part->hi[k];
        if (slab.lo[k] < slab.hi[k]) p->left[p->open++] = slab;
        rest.lo[k] = part->lo[k];
        rest.hi[k] = part->hi[k];
    }
    return TM_OK;
}

/* Among the ranks whose box equals that of `rank`: number turn % count. */
static int choose_replica(const struct boxes_table *h, int rank, int turn) {
    const struct tensor_box *box = &boxes_held_by(h, rank)->box;
    int count = 0, chosen = rank;
    for (int pass = 0, at = 0; pass < 2; pass++, at = turn % count)
        for (int r = 0; r < h->ranks; r++) {
            const struct boxes_held *other = boxes_held_by(h, r);
            if (!other->has || !tensor_box_equal(&other->box, box)) continue;
            if (pass == 0) {
                count++;
            } else if (at-- == 0) {
                chosen = r;
            }
        }
    return chosen;
}

/* Give what `rank` holds of the open boxes to `holder` (< 0: to the replica whose turn it is). */
static enum status take(const struct tensor_desc *t, struct boxes_plan *p, const struct boxes_table *h, int rank,
                        int holder, int turn) {
    struct tensor_box part;
    if (!boxes_held_by(h, rank)->has) return TM_OK;
    for (int i = 0; i < p->open;) {
        if (!tensor_box_intersect(&p->left[i], &boxes_held_by(h, rank)->box, &part)) {
            i++;
            continue;
        }
        if (holder < 0) holder = choose_replica(h, rank, turn);
        if (p->pieces == BOXES_MAX_PIECES) return too_many(t);
        p->piece[p->pieces++] = (struct boxes_piece){part, holder};
        TM_TRY(subtract(t, p, i, &part));
    }
    return TM_OK;
}

enum status boxes_plan(const struct tensor_desc *t, int turn, const struct tensor_box *want,
                       const struct boxes_table *h, int root, struct boxes_plan *p) {
    p->pieces = p->open = 0;
    if (tensor_box_elems(want) == 0) return TM_OK;
    p->left[p->open++] = *want;
    TM_TRY(take(t, p, h, root, root, turn));
    for (int r = 0; r < h->ranks && p->open > 0; r++) TM_TRY(take(t, p, h, r, -1, turn));
    if (p->open == 0) return TM_OK;
    char missing[192], whole[192];
    boxes_print(&p->left[0], missing, sizeof missing);
    boxes_print(want, whole, sizeof whole);
    return TM_FAIL(TM_ERR_SHAPE, "%s: no rank holds %s of the wanted %s", t->name, missing, whole);
}

/* The axis that is cut: inside it everything fits the limit, before it one index at a time. *rows = how many of its indices fit. */
static int cut_axis(const struct tensor_box *box, int64_t limit, int64_t *rows) {
    int64_t inner = 1;
    for (int k = box->rank - 1; k > 0; k--) {
        int64_t extent = box->hi[k] - box->lo[k];
        if (inner * extent > limit) {
            *rows = size_max(1, limit / inner);
            return k;
        }
        inner *= extent;
    }
    *rows = size_max(1, limit / inner);
    return 0;
}

bool boxes_next_part(const struct tensor_box *box, int64_t limit, struct tensor_box *part) {
    bool first = part->rank < 0;
    int64_t rows;
    if (tensor_box_elems(box) == 0) return false;
    if (first) *part = *box;
    if (box->rank == 0) return first;
    int axis = cut_axis(box, limit, &rows);
    if (first) {
        for (int k = 0; k < axis; k++) part->hi[k] = part->lo[k] + 1;
    } else {
        part->lo[axis] = part->hi[axis];
        for (int k = axis; part->lo[k] >= box->hi[k]; k--) {
            if (k == 0) return false;
            part->lo[k] = box->lo[k];
            if (k < axis) part->hi[k] = part->lo[k] + 1;
            part->lo[k - 1]++;
            part->hi[k - 1]++;
        }
    }
    part->hi[axis] = size_min(box->hi[axis], part->lo[axis] + rows);
    return true;
}

struct tensor_box boxes_rows(const struct tensor_box *box, const struct tensor_box *part, int64_t *offset) {
    struct tensor_box rows = *box;
    int64_t at = 0;
    for (int k = 0; k < box->rank; k++) {
        rows.lo[k] = part->lo[k];
        rows.hi[k] = part->hi[k];
        if (part->hi[k] - part->lo[k] > 1) break;
    }
    for (int j = 0; j < box->rank; j++) at = at * (box->hi[j] - box->lo[j]) + rows.lo[j] - box->lo[j];
    *offset = at;
    return rows;
}
