/* Who writes what: from every rank's boxes of a list of tensors to disjoint pieces, each with one writer. */
#include "ckpt/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/size.h"

enum dtype ckpt_plan_stored_dtype(const struct ckpt_tensor *t) { return t->as_bf16 ? DTYPE_bf16 : t->desc.dtype; }

bool ckpt_plan_holds(const struct ckpt_tensor *t) {
    return tensor_box_elems(&t->desc.box) > 0 && (t->desc.rank > 0 || t->host || t->data.a);
}

/* --- the list ------------------------------------------------------------------------------------------------------------------ */

static enum status check_tensor(const struct ckpt_tensor *t, bool have_device) {
    const struct tensor_desc *d = &t->desc;
    if (!memchr(d->name, 0, sizeof d->name) || !ckpt_table_good_name(d->name))
        return TM_FAIL(TM_ERR_INTERNAL, "\"%.100s\" cannot be the name of a stored tensor", d->name);
    if (d->rank < 0 || d->rank > TENSOR_MAX_RANK || d->box.rank != d->rank || (unsigned)d->dtype >= DTYPE_COUNT)
        return TM_FAIL(TM_ERR_INTERNAL, "%s: rank %d, box of rank %d, dtype %d", d->name, d->rank, d->box.rank,
                       (int)d->dtype);
    if (t->as_bf16 && d->dtype != DTYPE_f32)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%s: %s cannot be stored as bf16, f32 can", d->name, dtype_name(d->dtype));
    int64_t bytes = (int64_t)dtype_bytes(d->dtype);
    for (int i = 0; i < d->rank; i++)
        if (!size_mul_i64(bytes, d->shape[i], &bytes))
            return TM_FAIL(TM_ERR_INTERNAL, "%s: extent %lld on axis %d", d->name, (long long)d->shape[i], i);
    if (tensor_box_elems(&d->box) == 0) return TM_OK;
    for (int i = 0; i < d->rank; i++)
        if (d->box.lo[i] < 0 || d->box.hi[i] > d->shape[i])
            return TM_FAIL(TM_ERR_SHAPE, "%s: box [%lld, %lld) on axis %d of extent %lld", d->name,
                           (long long)d->box.lo[i], (long long)d->box.hi[i], i, (long long)d->shape[i]);
    if (d->rank > 0 && !t->host && !t->data.a) return TM_FAIL(TM_ERR_INTERNAL, "%s: a box without data", d->name);
    if (!t->host && t->data.a && !have_device)
        return TM_FAIL(TM_ERR_INTERNAL, "%s: device memory without a device", d->name);
    return TM_OK;
}

/* What must be equal on every rank. */
static uint64_t list_hash(const struct ckpt_tensor *t, int n) {
    uint64_t h = (uint64_t)n;
    for (int i = 0; i < n; i++) {
        h = hash_bytes(t[i].desc.name, strlen(t[i].desc.name), h);
        h = hash_bytes(t[i].desc.shape, sizeof t[i].desc.shape[0] * (size_t)t[i].desc.rank, h);
        int kind[2] = {t[i].desc.rank, (int)ckpt_plan_stored_dtype(&t[i])};
        h = hash_bytes(kind, sizeof kind, h);
    }
    return h;
}

/* --- boxes to pieces ------------------------------------------------------------------------------------------------------------- */

static int by_box(const void *a, const void *b) {
    const struct held_box *x = a, *y = b;
    if (x->tensor != y->tensor) return x->tensor < y->tensor ? -1 : 1;
    for (int i = 0; i < TENSOR_MAX_RANK; i++)
        if (x->lo[i] != y->lo[i]) return x->lo[i] < y->lo[i] ? -1 : 1;
    for (int i = 0; i < TENSOR_MAX_RANK; i++)
        if (x->hi[i] != y->hi[i]) return x->hi[i] < y->hi[i] ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static bool same_box(const struct held_box *x, const struct held_box *y) {
    return x->tensor == y->tensor && !memcmp(x->lo, y->lo, sizeof x->lo) && !memcmp(x->hi, y->hi, sizeof x->hi);
}

struct box_list {
    struct tensor_box *p;
    size_t n, cap;
};

static enum status push(struct box_list *l, const struct tensor_box *b) {
    TM_TRY(mem_grow(&l->p, &l->cap, l->n + 1, sizeof *l->p));
    l->p[l->n++] = *b;
    return TM_OK;
}

/* Append the parts of `a` that lie outside `b`: at most two slabs per axis. */
static enum status push_outside(struct box_list *l, const struct tensor_box *a, const struct tensor_box *b) {
    struct tensor_box both, rest = *a;
    if (!tensor_box_intersect(a, b, &both)) return push(l, a);
    for (int i = 0; i < a->rank; i++) {
        struct tensor_box slab = rest;
        slab.hi[i] = both.lo[i];
        if (slab.lo[i] < slab.hi[i]) TM_TRY(push(l, &slab));
        slab.lo[i] = both.hi[i];
        slab.hi[i] = rest.hi[i];
        if (slab.lo[i] < slab.hi[i]) TM_TRY(push(l, &slab));
        rest.lo[i] = both.lo[i];
        rest.hi[i] = both.hi[i];
    }
    return TM_OK;
}

/* Work space of ckpt_plan_make. `near` are the pieces of this tensor that may still overlap a later box: boxes come sorted by lo[0], so a piece
 * that ends at or before the present lo[0] is done with. That keeps 10^5 disjoint boxes from costing 10^10 comparisons. */
struct plan {
    struct ckpt_table *t;
    struct box_list near, now, next;
    int64_t *load; /* bytes by rank */
};

static enum status add_pieces(struct plan *w, const struct tensor_box *box, int writer) {
    struct ckpt_table *t = w->t;
    struct ckpt_entry *e = &t->tensors[t->n];
    w->now.n = 0;
    TM_TRY(push(&w->now, box));
    size_t kept = 0;
    for (size_t i = 0; i < w->near.n; i++) {
        struct tensor_box *old = &w->near.p[i];
        if (box->rank > 0 && old->hi[0] <= box->lo[0]) continue;
        if (i != kept) w->near.p[kept] = *old;
        old = &w->near.p[kept++];
        w->next.n = 0;
        for (size_t k = 0; k < w->now.n; k++) TM_TRY(push_outside(&w->next, &w->now.p[k], old));
        struct box_list swap = w->now;
        w->now = w->next;
        w->next = swap;
    }
    w->near.n = kept;
    for (size_t k = 0; k < w->now.n; k++) {
        TM_TRY(mem_grow(&t->pieces, &t->cap_pieces, (size_t)t->n_pieces + 1, sizeof *t->pieces));
        struct ckpt_piece *p = &t->pieces[t->n_pieces++];
        int64_t bytes = tensor_box_elems(&w->now.p[k]) * (int64_t)dtype_bytes(e->desc.dtype);
        *p = (struct ckpt_piece){
            .box = w->now.p[k], .tensor = t->n, .file = writer, .bytes = bytes, .hash = t->n_hashes};
        t->n_hashes += ckpt_table_blocks(bytes);
        t->bytes += bytes;
        w->load[writer] += bytes;
        e->pieces++;
        TM_TRY(push(&w->near, &p->box));
    }
    return TM_OK;
}

/* The pieces of tensor t->n from its boxes held[0..n). */
static enum status add_tensor(struct plan *w, const struct ckpt_tensor *src, const struct held_box *held, size_t n) {
    struct ckpt_table *t = w->t;
    struct ckpt_entry *e = &t->tensors[t->n];
    int64_t before = t->bytes, want;
    e->desc = src->desc;
    e->desc.dtype = ckpt_plan_stored_dtype(src);
    e->desc.box = tensor_box_whole(src->desc.rank, src->desc.shape);
    e->piece = t->n_pieces;
    snprintf(e->units, sizeof e->units, "%s", src->units ? src->units : "1");
    w->near.n = 0;
    for (size_t i = 0, end; i < n; i = end) {
        int writer = held[i].rank;
        for (end = i + 1; end < n && same_box(&held[i], &held[end]); end++)
            if (w->load[held[end].rank] < w->load[writer]) writer = held[end].rank;
        struct tensor_box box = {.rank = src->desc.rank};
        memcpy(box.lo, held[i].lo, sizeof box.lo);
        memcpy(box.hi, held[i].hi, sizeof box.hi);
        TM_TRY(add_pieces(w, &box, writer));
    }
    want = tensor_elems(&e->desc) * (int64_t)dtype_bytes(e->desc.dtype);
    if (t->bytes - before != want)
        return TM_FAIL(TM_ERR_SHAPE, "%s: all ranks together hold %lld of its %lld bytes", e->desc.name,
                       (long long)(t->bytes - before), (long long)want);
    t->n++;
    return TM_OK;
}

enum status ckpt_plan_make(const struct ckpt_tensor *tensors, int n, struct held_box *held, size_t n_held, int world,
                           struct ckpt_table *out) {
    struct plan w = {.t = out};
    *out = (struct ckpt_table){0};
    if (n_held) qsort(held, n_held, sizeof *held, by_box);
    enum status st = mem_alloc(&w.load, (size_t)world, sizeof *w.load);
    if (st == TM_OK) st = mem_alloc(&out->tensors, (size_t)n, sizeof *out->tensors);
    size_t at = 0, end;
    for (int i = 0; st == TM_OK && i < n; i++, at = end) {
        for (end = at; end < n_held && held[end].tensor == i;) end++;
        st = add_tensor(&w, &tensors[i], held + at, end - at);
    }
    if (st == TM_OK) st = ckpt_table_sort_names(out);
    if (st == TM_OK) st = mem_alloc(&out->hashes, (size_t)out->n_hashes, sizeof *out->hashes);
    mem_free(&w.load);
    mem_free(&w.near.p);
    mem_free(&w.now.p);
    mem_free(&w.next.p);
    if (st != TM_OK) ckpt_table_free(out);
    return st;
}

enum status ckpt_plan_name_files(struct ckpt_table *t, int world, int rank, int *mine) {
    int *file;
    *mine = -1;
    TM_TRY(mem_alloc(&file, (size_t)world, sizeof *file));
    for (int64_t i = 0; i < t->n_pieces; i++) file[t->pieces[i].file] = 1;
    int n = 0;
    for (int r = 0; r < world; r++) n += file[r];
    enum status st = mem_alloc(&t->files, (size_t)n + 1, sizeof *t->files);
    for (int r = 0; st == TM_OK && r < world; r++) {
        if (!file[r]) continue;
        file[r] = t->n_files++;
        snprintf(t->files[file[r]].name, CKPT_FILE_MAX, "rank_%05d.h5", r);
        if (r == rank) *mine = file[r];
    }
    if (st == TM_OK) {
        snprintf(t->files[t->n_files++].name, CKPT_FILE_MAX, "%s", CKPT_INDEX);
        for (int64_t i = 0; i < t->n_pieces; i++) t->pieces[i].file = file[t->pieces[i].file];
    }
    mem_free(&file);
    return st;
}

/* --- everyone's boxes ------------------------------------------------------------------------------------------------------------ */

static size_t my_boxes(const struct ckpt_tensor *t, int n, int rank, struct held_box *out) {
    size_t count = 0;
    for (int i = 0; i < n; i++) {
        if (!ckpt_plan_holds(&t[i])) continue;
        if (out) {
            out[count] = (struct held_box){.tensor = i, .rank = rank};
            memcpy(out[count].lo, t[i].desc.box.lo, sizeof t[i].desc.box.lo[0] * (size_t)t[i].desc.rank);
            memcpy(out[count].hi, t[i].desc.box.hi, sizeof t[i].desc.box.hi[0] * (size_t)t[i].desc.rank);
        }
        count++;
    }
    return count;
}

/* Everyone's numbers of boxes; refuses lists that differ. heads: [world] {hash, count}; *most = the largest count. */
static enum status compare_lists(const int64_t (*heads)[2], int world, int64_t *most) {
    *most = 0;
    for (int r = 0; r < world; r++) {
        if (heads[r][0] != heads[0][0]) return TM_FAIL(TM_ERR_INTERNAL, "rank %d passed other tensors than rank 0", r);
        *most = size_max(*most, heads[r][1]);
    }
    return TM_OK;
}

enum status ckpt_plan_gather_all(const struct ckpt_tensor *tensors, int n, bool have_device, struct par_group *world,
                                 struct ckpt_table *out) {
    int size = par_group_size(world), rank = par_group_rank(world);
    int64_t(*heads)[2] = NULL, most = 0;
    struct held_box *mine = NULL, *all = NULL;
    enum status st = TM_OK;
    *out = (struct ckpt_table){0};
    for (int i = 0; st == TM_OK && i < n; i++) st = check_tensor(&tensors[i], have_device);
    if (st == TM_OK) st = mem_alloc(&heads, (size_t)size, sizeof *heads);
    TM_GOTO(st, done, par_agree_all(st));
    int64_t head[2] = {(int64_t)list_hash(tensors, n), (int64_t)my_boxes(tensors, n, rank, NULL)};
    TM_GOTO(st, done, par_allgather_bytes(world, head, sizeof head, heads));
    TM_GOTO(st, done, compare_lists((const int64_t(*)[2])heads, size, &most)); /* the same answer everywhere */
    st = mem_alloc(&mine, (size_t)most, sizeof *mine);
    if (st == TM_OK) st = mem_alloc(&all, (size_t)most * (size_t)size, sizeof *all);
    TM_GOTO(st, done, par_agree_all(st));
    if (most) {
        my_boxes(tensors, n, rank, mine);
        TM_GOTO(st, done, par_allgather_bytes(world, mine, most * (int64_t)sizeof *mine, all));
    }
    size_t n_held = 0;
    for (int r = 0; r < size; r++) /* close the gaps of ranks with fewer boxes */
        for (int64_t i = 0; i < heads[r][1]; i++) all[n_held++] = all[r * most + i];
    st = ckpt_plan_make(tensors, n, all, n_held, size, out);
    TM_GOTO(st, done, par_agree_all(st));
done:
    mem_free(&heads);
    mem_free(&mine);
    mem_free(&all);
    if (st != TM_OK) ckpt_table_free(out);
    return st;
}
