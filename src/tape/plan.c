/* Planning of a tape: the time line of events and its stretches, the life of every buffer on it, and offsets by first fit, largest first. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "tape/impl.h"

static bool recomputed(const struct tape *t, int segment) { return segment >= 0 && t->recompute[segment]; }

int tape_buffer_of(const struct tape *t, const struct tape_op *op, tape_val v, enum tape_mode mode) {
    /* What a recomputed segment makes is read again from its second copy, by the operations of the segment only. */
    int pass = mode != MODE_FORWARD;
    int segment = op->segment;
    if (pass && t->value[v].remade) return t->value[v].buffer[1];
    for (;;) {
        const struct tape_value *x = &t->value[v];
        int made_in = x->producer >= 0 ? t->op[x->producer].segment : -1;
        if (made_in != segment || !recomputed(t, segment)) pass = 0;
        if (x->memory_of == TAPE_NONE) return x->buffer[pass];
        segment = made_in;
        v = x->memory_of;
    }
}

static enum status new_buffer(struct tape *t, size_t bytes, int *out) {
    TM_TRY(mem_grow(&t->buffer, &t->cap_buffer, t->n_buffer + 1, sizeof *t->buffer));
    t->buffer[t->n_buffer] = (struct tape_buffer){.bytes = size_align(bytes, 64), .to = -1};
    *out = (int)t->n_buffer++;
    return TM_OK;
}

static bool has_backward(const struct tape *t, const struct tape_op *op) {
    for (int i = 0; i < op->n_out; i++)
        if (op->out[i] != TAPE_NONE && t->value[op->out[i]].wants_grad) return true;
    return false;
}

/* Does the backward pass of the operation read its input j? */
static bool reads_back(const struct tape *t, const struct tape_op *op, int j) {
    return op->in[j] != TAPE_NONE && (op->kind->saved_in >> j & 1) && has_backward(t, op);
}

/* Which values are made again: read by backward, in memory of their own that nothing changes, in a segment that keeps things. */
static void find_remade(struct tape *t) {
    for (size_t i = 0; t->o.training && i < t->n_op; i++)
        for (int j = 0; j < t->op[i].n_in; j++) {
            if (!reads_back(t, &t->op[i], j)) continue;
            struct tape_value *v = &t->value[t->op[i].in[j]];
            if (v->producer < 0 || v->pinned || v->memory_of != TAPE_NONE) continue;
            const struct tape_op *maker = &t->op[v->producer];
            for (int k = 0; k < maker->n_out && !recomputed(t, maker->segment); k++)
                if (maker->out[k] == t->op[i].in[j]) v->remade = maker->kind->made_again >> k & 1;
        }
    for (size_t i = 0; i < t->n_value; i++)
        if (t->value[i].memory_of != TAPE_NONE) t->value[t->value[i].memory_of].remade = false;
}

static bool same_cut(const struct packed_factor *a, const struct packed_factor *b) {
    bool same = a->segments == b->segments;
    for (int j = 0; same && j <= a->segments; j++) same = a->k[j] == b->k[j];
    return same;
}

/* Which values are left packed: made by an operation that can, read by products of its segment. */
static void find_packed(struct tape *t) {
    for (size_t i = 0; i < t->n_op; i++)
        for (int j = 0; j < t->op[i].n_in; j++) {
            struct tape_value *v = t->op[i].factors >> j & 1 ? &t->value[t->op[i].in[j]] : NULL;
            if (!v || v->producer < 0 || v->memory_of != TAPE_NONE || v->cut) continue;
            const struct tape_op *maker = &t->op[v->producer];
            for (int k = 0; k < maker->n_out && maker->segment == t->op[i].segment; k++)
                if (maker->out[k] == t->op[i].in[j] && (maker->packs >> k & 1)) v->cut = &t->op[i].cut;
        }
    for (size_t i = 0; i < t->n_value; i++)
        if (t->value[i].memory_of != TAPE_NONE) t->value[t->value[i].memory_of].cut = NULL;
}

int tape_packed_of(const struct tape *t, const struct tape_op *op, tape_val v, enum tape_mode mode) {
    const struct tape_value *x = v == TAPE_NONE ? NULL : &t->value[v];
    if (!x || !x->cut || mode == MODE_BACKWARD || mode == MODE_REMAKE) return -1;
    const struct tape_op *maker = &t->op[x->producer];
    bool packed = op == maker;
    for (int i = 0; i < op->n_in && op->segment == maker->segment && !packed; i++)
        packed = op->in[i] == v && (op->factors >> i & 1) && same_cut(&op->cut, x->cut);
    return packed ? x->packed[mode == MODE_RECOMPUTE] : -1;
}

static enum status add_event(struct tape *t, int op, enum tape_mode mode) {
    const struct tape_op *o = &t->op[op];
    TM_TRY(mem_grow(&t->event, &t->cap_event, t->n_event + 1, sizeof *t->event));
    struct tape_event *e = &t->event[t->n_event++];
    *e = (struct tape_event){.op = op, .mode = mode, .scratch = -1};
    size_t scratch = mode == MODE_BACKWARD ? o->scratch_backward : mode == MODE_REMAKE ? 0 : o->scratch_forward;
    return scratch ? new_buffer(t, scratch, &e->scratch) : TM_OK;
}

/* Where the next event begins another stretch. */
static enum status begin_stretch(struct tape *t, int first) {
    TM_TRY(mem_grow(&t->stretch, &t->cap_stretch, t->n_stretch + 1, sizeof *t->stretch));
    t->stretch[t->n_stretch++] = (struct tape_stretch){(int)t->n_event, (int)t->n_event, first};
    return TM_OK;
}

static enum status make_events(struct tape *t) {
    int lowest = (int)t->n_segment, before = -1; /* segment that has begun; of the events before */
    TM_TRY(begin_stretch(t, lowest));
    for (size_t i = 0; i < t->n_op; i++) TM_TRY(add_event(t, (int)i, MODE_FORWARD));
    t->backward_event = (int)t->n_event;
    TM_TRY(begin_stretch(t, lowest));
    for (int last = t->o.training ? (int)t->n_op - 1 : -1; last >= 0;) {
        int first = last, segment = t->op[last].segment;
        while (first > 0 && segment >= 0 && t->op[first - 1].segment == segment) first--;
        if (segment != before && t->o.grid->dp > 1) TM_TRY(begin_stretch(t, lowest));
        if (segment >= 0) lowest = segment;
        before = segment;
        if (recomputed(t, segment))
            for (int i = first; i <= last; i++)
                if (!t->op[i].kind->once) TM_TRY(add_event(t, i, MODE_RECOMPUTE));
        for (int i = last; i >= first; i--) {
            for (int j = 0; j < t->op[i].n_in; j++)
                if (reads_back(t, &t->op[i], j) && t->value[t->op[i].in[j]].remade)
                    TM_TRY(add_event(t, t->value[t->op[i].in[j]].producer, MODE_REMAKE));
            if (has_backward(t, &t->op[i])) TM_TRY(add_event(t, i, MODE_BACKWARD));
        }
        last = first - 1;
    }
    for (size_t i = 0; i < t->n_stretch; i++)
        t->stretch[i].to = i + 1 < t->n_stretch ? t->stretch[i + 1].from : (int)t->n_event;
    return TM_OK;
}

static enum status make_value_buffers(struct tape *t) {
    for (size_t i = 0; i < t->n_value; i++) {
        struct tape_value *v = &t->value[i];
        if (v->memory_of != TAPE_NONE) continue;
        TM_TRY(new_buffer(t, tape_value_bytes(v), &v->buffer[0]));
        v->buffer[1] = v->buffer[0];
        const bool again = v->producer >= 0 && recomputed(t, t->op[v->producer].segment);
        const size_t packed = v->cut ? (size_t)ops_packed_bytes(v->rows, v->cut->segments, v->cut->k) : 0;
        if (v->cut) TM_TRY(new_buffer(t, packed, &v->packed[0]));
        if (v->cut && again) TM_TRY(new_buffer(t, packed, &v->packed[1]));
        if (v->remade || again) TM_TRY(new_buffer(t, tape_value_bytes(v), &v->buffer[1]));
    }
    return TM_OK;
}

/* Gradient buffers, from the last operation to the first: a reader makes the gradients of its inputs. */
static enum status make_grad_buffers(struct tape *t) {
    for (size_t i = 0; i < t->n_value; i++)
        if (t->value[i].grad_pinned && t->value[i].grad_reader < 0)
            TM_TRY(new_buffer(t, tape_value_bytes(&t->value[i]), &t->value[i].grad_buffer));
    for (int i = (int)t->n_op - 1; t->o.training && i >= 0; i--) {
        const struct tape_op *op = &t->op[i];
        int joint = -1;
        for (int j = 0; j < op->n_in; j++) {
            struct tape_value *v = op->in[j] == TAPE_NONE ? NULL : &t->value[op->in[j]];
            if (!v || v->grad_reader != i) continue;
            if (op->kind->grad_in_output > 0) {
                v->grad_buffer = t->value[op->out[op->kind->grad_in_output]].buffer[1];
            } else if (op->kind->grad_through) {
                v->grad_buffer = t->value[op->out[0]].grad_buffer;
            } else {
                if (joint < 0) TM_TRY(new_buffer(t, tape_value_bytes(v), &joint));
                v->grad_buffer = joint;
                if (!op->kind->grad_joint) joint = -1;
            }
            if (v->grad_buffer < 0)
                return TM_FAIL(TM_ERR_INTERNAL, "tape %s: nothing gives the gradient of %s", t->o.name, v->name);
        }
    }
    return TM_OK;
}

static void touch(struct tape *t, int buffer, int when) {
    if (buffer < 0) return;
    struct tape_buffer *b = &t->buffer[buffer];
    if (b->to < 0) b->from = when;
    b->to = when;
}

/* Which buffers are read in fp32, by an operation or from outside. */
static void find_read(struct tape *t) {
    for (size_t e = 0; e < t->n_event; e++) {
        const enum tape_mode mode = t->event[e].mode;
        const struct tape_op *op = &t->op[t->event[e].op];
        const bool saved = mode == MODE_BACKWARD || mode == MODE_REMAKE;
        for (int i = 0; i < op->n_in; i++)
            if (op->in[i] != TAPE_NONE && (!saved || (op->kind->saved_in >> i & 1)) &&
                tape_packed_of(t, op, op->in[i], mode) < 0)
                t->buffer[tape_buffer_of(t, op, op->in[i], mode)].read = true;
        for (int i = 0; i < op->n_out && saved; i++)
            if (op->out[i] != TAPE_NONE && (op->kind->saved_out >> i & 1))
                t->buffer[tape_buffer_of(t, op, op->out[i], mode)].read = true;
    }
    for (size_t i = 0; i < t->n_value; i++)
        if (t->value[i].pinned && t->value[i].buffer[0] >= 0) t->buffer[t->value[i].buffer[0]].read = true;
}

static void touch_event(struct tape *t, int when) {
    const struct tape_event *e = &t->event[when];
    const struct tape_op *op = &t->op[e->op];
    bool back = e->mode == MODE_BACKWARD, saved = back || e->mode == MODE_REMAKE;
    unsigned outs = op->kind->saved_out | (e->mode == MODE_REMAKE ? op->kind->made_again : 0);
    touch(t, e->scratch, when);
    for (int i = 0; i < op->n_in; i++) {
        if (op->in[i] == TAPE_NONE) continue;
        const int packed = tape_packed_of(t, op, op->in[i], e->mode);
        touch(t, packed, when);
        if (packed < 0 && (!saved || (op->kind->saved_in >> i & 1)))
            touch(t, tape_buffer_of(t, op, op->in[i], e->mode), when);
        if (back && t->value[op->in[i]].grad_reader == e->op) touch(t, t->value[op->in[i]].grad_buffer, when);
    }
    for (int i = 0; i < op->n_out; i++) {
        if (op->out[i] == TAPE_NONE) continue;
        const int packed = tape_packed_of(t, op, op->out[i], e->mode),
                  plain = tape_buffer_of(t, op, op->out[i], e->mode);
        touch(t, packed, when);
        if ((!saved || (outs >> i & 1)) && (packed < 0 || t->buffer[plain].read)) touch(t, plain, when);
        if (back) touch(t, t->value[op->out[i]].grad_buffer, when);
    }
}

static void find_lives(struct tape *t) {
    int end = (int)t->n_event;
    find_read(t);
    for (int i = 0; i < end; i++) touch_event(t, i);
    for (size_t i = 0; i < t->n_value; i++) {
        const struct tape_value *v = &t->value[i];
        if (v->pinned && v->memory_of == TAPE_NONE) {
            struct tape_buffer *b = &t->buffer[v->buffer[0]];
            *b = (struct tape_buffer){.bytes = b->bytes, .from = 0, .to = end, .kept = true};
        }
        if (v->grad_pinned && v->grad_buffer >= 0) {
            struct tape_buffer *b = &t->buffer[v->grad_buffer];
            *b = (struct tape_buffer){.bytes = b->bytes, .from = 0, .to = end, .kept = true};
        }
    }
    for (size_t i = 0; i < t->n_buffer; i++) {
        struct tape_buffer *b = &t->buffer[i];
        if (b->to >= t->backward_event && b->from < t->backward_event) b->kept = true;
    }
}

static const struct tape_buffer *sorted_; /* for qsort: planning is done by one thread at a time */
static int by_size(const void *a, const void *b) {
    const struct tape_buffer *x = &sorted_[*(const int *)a], *y = &sorted_[*(const int *)b];
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return *(const int *)a - *(const int *)b;
}

/* The buffers of one pool that have their place, by rising offset. */
struct placed {
    int *v;
    size_t n;
};

/* Lowest offset free of all placed buffers of the pool that live at the same time: one sweep. Returns the bytes the pool then needs. */
static size_t place(struct tape *t, struct placed *pool, int index) {
    struct tape_buffer *b = &t->buffer[index];
    size_t at = 0, i = 0;
    for (; i < pool->n; i++) {
        const struct tape_buffer *o = &t->buffer[pool->v[i]];
        if (o->offset >= at + b->bytes) break; /* the gap is large enough, and nothing behind it begins earlier */
        if (o->from <= b->to && o->to >= b->from && o->offset + o->bytes > at) at = o->offset + o->bytes;
    }
    b->offset = at;
    while (i > 0 && t->buffer[pool->v[i - 1]].offset > at) i--;
    memmove(pool->v + i + 1, pool->v + i, (pool->n - i) * sizeof *pool->v);
    pool->v[i] = index;
    pool->n++;
    return at + b->bytes;
}

static void place_buffers(struct tape *t, int *order, int *room) {
    struct placed kept = {.v = room}, scratch = {.v = room + t->n_buffer};
    for (size_t i = 0; i < t->n_buffer; i++) order[i] = (int)i;
    sorted_ = t->buffer;
    if (t->n_buffer) qsort(order, t->n_buffer, sizeof *order, by_size);
    for (size_t i = 0; i < t->n_buffer; i++) {
        const struct tape_buffer *b = &t->buffer[order[i]];
        if (b->to < 0) continue;
        size_t *bytes = b->kept ? &t->kept_bytes : &t->scratch_bytes;
        size_t need = place(t, b->kept ? &kept : &scratch, order[i]);
        if (need > *bytes) *bytes = need;
    }
}

enum status tape_plan(struct tape *t) {
    int *order;
    find_remade(t);
    find_packed(t);
    TM_TRY(make_events(t));
    TM_TRY(make_value_buffers(t));
    TM_TRY(make_grad_buffers(t));
    find_lives(t);
    TM_TRY(mem_alloc(&order, 3 * t->n_buffer, sizeof *order));
    place_buffers(t, order, order + t->n_buffer);
    mem_free(&order);
    return TM_OK;
}
