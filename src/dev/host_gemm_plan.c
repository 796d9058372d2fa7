/* The planner of the host GEMM: the tree of leaves, and k cut into superblocks with the steps of a tile. */
#include <string.h>

#include "base/size.h"
#include "dev/host_gemm_kernel.h"

static int64_t piece_len(const struct gemm_args *a, int term, int segment) {
    return a->term[term].k[segment + 1] - a->term[term].k[segment];
}

static int64_t round_up(int64_t k, int64_t unit) { return size_ceil_div(k, unit) * unit; }

void gemm_plan_tree(const struct gemm_kernel *kn, const struct gemm_args *a, struct gemm_plan *p) {
    memset(p, 0, sizeof *p);
    for (int j = 0, leaf = 0; j < a->segments; j++) {
        int64_t k = 0;
        for (int t = 0; t < a->terms; t++) k += piece_len(a, t, j);
        if (k > 0) {
            p->segment[leaf] = j;
            p->k[leaf++] = k;
        }
        p->all += round_up(k, kn->block);
    }
    p->leaves = ops_gemm_tree(a, p->merges);
}

/* Take `len` more k of the leaf at the cursor into the superblock. */
static void superblock_take(const struct gemm_args *a, int segment, struct gemm_cursor *c, int64_t len,
                            struct gemm_superblock *s) {
    c->done += len;
    while (len > 0) {
        const int64_t left = piece_len(a, c->term, segment) - c->k;
        const int take = (int)size_min(left, len);
        if (take > 0) {
            s->piece[s->pieces].term = c->term;
            s->piece[s->pieces].at = s->len;
            s->piece[s->pieces].len = take;
            s->piece[s->pieces++].k = a->term[c->term].k[segment] + c->k;
        }
        s->len += take;
        len -= take;
        c->k += take;
        if (take == left) c->term++, c->k = 0;
    }
}

/* The slots of the sums of a superblock that began with `depth` waiting: what is added in this superblock waits hot. */
static void superblock_slots(struct gemm_superblock *s, int depth) {
    int owner[GEMM_DEPTH + 1]; /* step that left the sum at this depth; -1 = a superblock before */
    for (int d = 0; d < depth; d++) owner[d] = -1;
    for (int i = 0; i < s->steps; i++) {
        struct gemm_step *step = &s->step[i];
        for (int j = 0; j < step->adds; j++) {
            const int from = owner[--depth];
            step->add[j] = from < 0 ? SLOT_KEPT + depth : SLOT_HOT + depth;
            if (from >= 0) s->step[from].to = SLOT_HOT + depth;
        }
        if (step->to == SLOT_C) continue;
        step->to = SLOT_KEPT + depth; /* until a later step adds it */
        owner[depth++] = i;
    }
}

bool gemm_superblock_next(const struct gemm_kernel *kn, const struct gemm_args *a, const struct gemm_plan *p, int kc,
                          struct gemm_cursor *c, struct gemm_superblock *s) {
    const int depth = c->depth;
    s->len = s->pieces = s->steps = 0;
    s->k0 = c->at;
    while (c->leaf < p->leaves) {
        const int64_t whole = p->k[c->leaf], parts = size_ceil_div(whole, kc);
        const int64_t share = round_up(size_ceil_div(whole, parts), kn->block > 4 ? kn->block : 4),
                      len = size_min(size_min(share, kc), whole - c->done);
        if (s->len + len > kc) break;
        struct gemm_step *step = &s->step[s->steps++];
        *step = (struct gemm_step){.k0 = s->len, .load = c->done > 0 || a->accumulate, .to = SLOT_C};
        superblock_take(a, p->segment[c->leaf], c, len, s);
        step->k1 = s->len = (int)round_up(s->len, kn->block);
        if (c->done < whole) break; /* the chain is kept in C */
        step->adds = p->merges[c->leaf];
        step->last = ++c->leaf == p->leaves;
        c->term = 0;
        c->k = c->done = 0;
        c->depth -= step->adds;
        if (!step->last) step->to = SLOT_HOT, c->depth++;
    }
    superblock_slots(s, depth);
    c->at += s->len;
    return s->steps > 0;
}
