/* Boxes of global tensors over the ranks: a table of who holds what, and bringing any box to one rank in bounded pieces. */
#include "par/boxes.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/size.h"
#include "par/room.h"

struct par_boxes {
    struct dev *dev; /* borrowed */
    int n, ranks;
    struct tensor_desc *tensor; /* [n], a copy */
    dptr *data;                 /* [n] */
    struct boxes_held *held;    /* [ranks][n]: 80 bytes each */
    struct boxes_plan *plan;    /* scratch */
};

static bool holds(const struct tensor_desc *t, dptr data) {
    return t->rank == 0 ? data.a != 0 : tensor_box_elems(&t->box) > 0;
}

static enum status check_box(const struct tensor_desc *t, const struct tensor_box *b) {
    char text[192];
    bool fits = b->rank == t->rank;
    for (int k = 0; fits && k < t->rank; k++) fits = b->lo[k] >= 0 && b->hi[k] <= t->shape[k] && b->lo[k] <= b->hi[k];
    if (fits) return TM_OK;
    boxes_print(b, text, sizeof text);
    return TM_FAIL(TM_ERR_SHAPE, "%s: box %s lies outside the tensor", t->name, text);
}

/* What every rank must agree on: one number over names, types and shapes. */
static uint64_t list_hash(const struct tensor_desc *t, int n) {
    uint64_t h = (uint64_t)n;
    for (int i = 0; i < n; i++) {
        int64_t head[2] = {(int64_t)t[i].dtype, t[i].rank};
        h = hash_bytes(t[i].name, strnlen(t[i].name, TENSOR_NAME_MAX), h);
        h = hash_bytes(head, sizeof head, h);
        h = hash_bytes(t[i].shape, (size_t)t[i].rank * sizeof *t[i].shape, h);
    }
    return h;
}

static enum status copy_list(struct par_boxes *b, const struct tensor_desc *t, const dptr *data) {
    size_t n = (size_t)b->n;
    TM_TRY(mem_alloc(&b->tensor, n, sizeof *b->tensor));
    TM_TRY(mem_alloc(&b->data, n, sizeof *b->data));
    TM_TRY(mem_alloc(&b->held, n * (size_t)b->ranks, sizeof *b->held));
    TM_TRY(mem_alloc(&b->plan, 1, sizeof *b->plan));
    if (n == 0) return TM_OK;
    memcpy(b->tensor, t, n * sizeof *t);
    memcpy(b->data, data, n * sizeof *data);
    for (int i = 0; i < b->n; i++) {
        if (!holds(&t[i], data[i])) continue;
        TM_TRY(check_box(&t[i], &t[i].box));
        if (data[i].a == 0) return TM_FAIL(TM_ERR_INTERNAL, "%s: a box without memory", t[i].name);
    }
    return TM_OK;
}

/* One record per tensor and rank travels; ranks share their whole lists in one collective each. */
static enum status exchange_all(struct par_boxes *b) {
    struct par_group *w = group_world();
    uint64_t own = list_hash(b->tensor, b->n), *hash = NULL;
    struct boxes_held *mine = NULL;
    size_t n = (size_t)b->n;
    enum status st = mem_alloc(&hash, (size_t)b->ranks, sizeof *hash);
    if (st == TM_OK) st = mem_alloc(&mine, n, sizeof *mine);
    TM_GOTO(st, cleanup, par_agree_all(st));
    TM_GOTO(st, cleanup, par_allgather_bytes(w, &own, sizeof own, hash));
    for (int r = 0; r < b->ranks; r++)
        if (hash[r] != own) st = TM_ERR_INTERNAL;
    if (st != TM_OK) {
        st = TM_FAIL(st, "the ranks pass different lists of tensors (names, types or shapes)");
        goto cleanup;
    }
    for (int i = 0; i < b->n; i++) {
        mine[i].box = b->tensor[i].box;
        mine[i].has = holds(&b->tensor[i], b->data[i]);
    }
    st = par_allgather_bytes(w, mine, (int64_t)(n * sizeof *mine), b->held);
cleanup:
    mem_free(&hash);
    mem_free(&mine);
    return st;
}

enum status par_boxes_create_all(struct dev *d, const struct tensor_desc *tensors, const dptr *data, int n,
                                 struct par_boxes **out) {
    struct par_boxes *b = NULL;
    enum status st = mem_alloc(&b, 1, sizeof *b);
    *out = NULL;
    if (st == TM_OK) {
        *b = (struct par_boxes){.dev = d, .n = n, .ranks = par_size()};
        st = copy_list(b, tensors, data);
    }
    st = par_agree_all(st);
    if (st == TM_OK) st = exchange_all(b);
    if (st == TM_OK) {
        *out = b;
    } else {
        par_boxes_destroy(&b);
    }
    return st;
}

void par_boxes_destroy(struct par_boxes **p) {
    struct par_boxes *b = *p;
    if (!b) return;
    mem_free(&b->tensor);
    mem_free(&b->data);
    mem_free(&b->held);
    mem_free(&b->plan);
    mem_free(p);
}

/* ---- fetching ---- */

/* Copy `part` out of this rank's box of tensor i to a row-major array of box `to`. Maps only the rows that hold it. */
static enum status copy_own(struct par_boxes *b, int i, const struct tensor_box *part, void *dst,
                            const struct tensor_box *to) {
    const struct tensor_desc *t = &b->tensor[i];
    size_t size = dtype_bytes(t->dtype);
    int64_t offset;
    void *host;
    struct tensor_box rows = boxes_rows(&t->box, part, &offset);
    size_t bytes = (size_t)tensor_box_elems(&rows) * size;
    dptr at = dptr_add(b->data[i], offset * (int64_t)size);
    TM_TRY(dev_map(b->dev, at, bytes, &host));
    tensor_copy_box(dst, to, host, &rows, part, size);
    return dev_unmap(b->dev, at, bytes, host);
}

/* One piece from its holder to root, part by part; the scratch of the world's group carries a part. */
static enum status move_piece(struct par_boxes *b, int i, const struct boxes_piece *piece, int root, void *out,
                              const struct tensor_box *want) {
    struct par_group *w = group_world();
    size_t size = dtype_bytes(b->tensor[i].dtype);
    struct tensor_box part = {.rank = -1};
    enum status st = TM_OK;
    while (boxes_next_part(&piece->box, CHUNK_BYTES / (int64_t)size, &part)) {
        size_t bytes = (size_t)tensor_box_elems(&part) * size;
        if (piece->holder == root) {
            TM_TRY(copy_own(b, i, &part, out, want));
        } else if (par_rank() == root) {
            TM_TRY(p2p_recv(w, w->scratch, (int64_t)bytes, piece->holder, TAG_BOX));
            tensor_copy_box(out, want, w->scratch, &part, &part, size);
        } else {
            if (st == TM_OK) st = copy_own(b, i, &part, w->scratch, &part);
            if (st != TM_OK) memset(w->scratch, 0, bytes); /* root waits for a message all the same */
            TM_TRY(p2p_send(w, w->scratch, (int64_t)bytes, root, TAG_BOX));
        }
    }
    return st;
}

static enum status fetch(struct par_boxes *b, int i, const struct tensor_box *want, int root, void *out) {
    enum status st = TM_OK;
    struct boxes_table held = {&b->held[i], (size_t)b->n, b->ranks};
    TM_TRY(boxes_plan(&b->tensor[i], i, want, &held, root, b->plan));
    for (int k = 0; k < b->plan->pieces; k++) {
        const struct boxes_piece *piece = &b->plan->piece[k];
        if (par_rank() != root && par_rank() != piece->holder) continue;
        watch_enter(KIND_boxes, group_world(), par_rank() == root ? piece->holder : root);
        enum status s = move_piece(b, i, piece, root, out, want);
        if (s == TM_ERR_COMM) return s;
        if (st == TM_OK) st = s;
    }
    return st;
}

enum status par_boxes_fetch_all(struct par_boxes *b, int i, const struct tensor_box *want, int root, void *out) {
    if (i < 0 || i >= b->n || root < 0 || root >= b->ranks)
        return TM_FAIL(TM_ERR_INTERNAL, "tensor %d of %d to rank %d of %d", i, b->n, root, b->ranks);
    TM_TRY(check_box(&b->tensor[i], want));
    int64_t bytes = par_rank() == root ? tensor_box_elems(want) * (int64_t)dtype_bytes(b->tensor[i].dtype) : 0;
    struct call c = call_begin(KIND_boxes, group_world(), -1, bytes);
    return call_end(&c, fetch(b, i, want, root, out));
}
