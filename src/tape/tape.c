/* Recording of operations and values, and running of the planned program. */
#include "tape/tape.h"

#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "tape/impl.h"

enum status tape_create(const struct tape_options *o, struct tape **out) {
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    struct tape *t = *out;
    t->o = *o;
    t->segment = -1;
    return TM_OK;
}

static void forget_graphs(struct tape *t) {
    for (size_t i = 0; t->graph && i < t->n_stretch * (size_t)t->o.slots; i++) dev_graph_free(&t->graph[i]);
}

void tape_destroy(struct tape **t) {
    if (!*t) return;
    mem_free(&(*t)->op);
    mem_free(&(*t)->value);
    mem_free(&(*t)->buffer);
    mem_free(&(*t)->event);
    mem_free(&(*t)->recompute);
    mem_free(&(*t)->stretch);
    forget_graphs(*t);
    mem_free(&(*t)->graph);
    mem_free(t);
}

enum status tape_value_new(struct tape *t, const char *name, int64_t rows, int64_t cols, tape_val *out) {
    TM_TRY(mem_grow(&t->value, &t->cap_value, t->n_value + 1, sizeof *t->value));
    struct tape_value *v = &t->value[t->n_value];
    *v = (struct tape_value){.rows = rows, .cols = cols, .producer = -1, .grad_reader = -1, .memory_of = TAPE_NONE};
    v->buffer[0] = v->buffer[1] = v->packed[0] = v->packed[1] = v->grad_buffer = -1;
    TM_TRY(str_copy(v->name, sizeof v->name, name));
    *out = (tape_val)t->n_value++;
    return TM_OK;
}

/* Does anything upstream of the operation want a gradient? */
static bool needs_backward(const struct tape *t, const struct tape_op *op) {
    if (!t->o.training || !op->kind->backward) return false;
    for (int i = 0; i < op->n_w; i++)
        if (op->w[i]->grad.a) return true;
    for (int i = 0; i < op->n_in; i++)
        if (op->in[i] != TAPE_NONE && (op->kind->grad_in >> i & 1) && t->value[op->in[i]].wants_grad) return true;
    return false;
}

enum status tape_op_add(struct tape *t, const struct tape_op *recorded) {
    const struct tape_kind *kind = recorded->kind;
    if (t->finished) return TM_FAIL(TM_ERR_INTERNAL, "tape %s: %s recorded after tape_finish", t->o.name, kind->name);
    TM_TRY(mem_grow(&t->op, &t->cap_op, t->n_op + 1, sizeof *t->op));
    struct tape_op *op = &t->op[t->n_op];
    int index = (int)t->n_op++;
    *op = *recorded;
    op->segment = t->segment;
    bool backward = needs_backward(t, op);
    for (int i = 0; i < op->n_in; i++) {
        if (op->in[i] == TAPE_NONE) continue;
        struct tape_value *v = &t->value[op->in[i]];
        if (!backward || !(kind->grad_in >> i & 1) || !v->wants_grad) continue;
        if (v->grad_reader >= 0)
            return TM_FAIL(TM_ERR_INTERNAL, "tape %s: the gradient of %s is taken by %s and by %s", t->o.name, v->name,
                           t->op[v->grad_reader].kind->name, kind->name);
        v->grad_reader = index;
    }
    for (int i = 0; i < op->n_out; i++) {
        if (op->out[i] == TAPE_NONE) continue;
        t->value[op->out[i]].producer = index;
        t->value[op->out[i]].wants_grad = backward;
    }
    if (kind->in_place) t->value[op->out[0]].memory_of = op->in[0];
    return TM_OK;
}

enum status tape_input(struct tape *t, const char *name, int64_t rows, int64_t cols, bool grad, tape_val *out) {
    TM_TRY(tape_value_new(t, name, rows, cols, out));
    t->value[*out].pinned = true;
    t->value[*out].wants_grad = t->value[*out].grad_pinned = grad && t->o.training;
    return TM_OK;
}

enum status tape_pin(struct tape *t, tape_val v, bool grad) {
    /* a value in another's memory is kept where that one lies */
    for (tape_val u = v; u != TAPE_NONE; u = t->value[u].memory_of) t->value[u].pinned = true;
    t->value[v].grad_pinned = grad && t->value[v].wants_grad;
    return TM_OK;
}

enum status tape_segment_begin(struct tape *t, bool recompute) {
    if (t->segment >= 0) return TM_FAIL(TM_ERR_INTERNAL, "tape %s: segments do not nest", t->o.name);
    TM_TRY(mem_grow(&t->recompute, &t->cap_segment, t->n_segment + 1, sizeof *t->recompute));
    t->recompute[t->n_segment] = recompute && t->o.training;
    t->segment = (int)t->n_segment++;
    return TM_OK;
}

enum status tape_segment_end(struct tape *t) {
    t->segment = -1;
    return TM_OK;
}

enum status tape_finish(struct tape *t) {
    bool differs = t->o.grid->tp > 1; /* transfers may go through the host */
    for (size_t i = 0; i < t->n_op; i++) differs = differs || t->op[i].varies;
    TM_TRY(tape_plan(t));
    t->finished = true;
    return differs ? TM_OK : mem_alloc(&t->graph, (size_t)t->o.slots * t->n_stretch, sizeof *t->graph);
}

size_t tape_kept_bytes(const struct tape *t) { return t->kept_bytes; }
size_t tape_scratch_bytes(const struct tape *t) { return t->scratch_bytes; }

int64_t tape_tokens(const struct tape *t) { return t->o.tokens; }

void tape_bind(struct tape *t, dptr kept, dptr scratch) {
    forget_graphs(t);
    t->kept = kept;
    t->scratch = scratch;
}

static dptr buffer_address(const struct tape *t, int slot, int buffer) {
    if (buffer < 0) return (dptr){0};
    const struct tape_buffer *b = &t->buffer[buffer];
    if (b->to < 0) return (dptr){0}; /* nobody wants it */
    if (!b->kept) return dptr_add(t->scratch, (int64_t)b->offset);
    return dptr_add(t->kept, (int64_t)((size_t)slot * t->kept_bytes + b->offset));
}

dptr tape_address(const struct tape *t, int slot, tape_val v) {
    while (t->value[v].memory_of != TAPE_NONE) v = t->value[v].memory_of;
    return buffer_address(t, slot, t->value[v].buffer[0]);
}

dptr tape_grad_address(const struct tape *t, int slot, tape_val v) {
    return buffer_address(t, slot, t->value[v].grad_buffer);
}

dptr tape_at(struct tape *t, const struct tape_op *op, tape_val v) {
    return v == TAPE_NONE ? (dptr){0} : buffer_address(t, t->slot, tape_buffer_of(t, op, v, t->now->mode));
}

dptr tape_grad_at(struct tape *t, const struct tape_op *op, tape_val v) {
    (void)op;
    return v == TAPE_NONE ? (dptr){0} : buffer_address(t, t->slot, t->value[v].grad_buffer);
}

struct packed_factor tape_packed_at(struct tape *t, const struct tape_op *op, tape_val v) {
    const int buffer = tape_packed_of(t, op, v, t->now->mode);
    struct packed_factor f = {.segments = 0};
    if (buffer < 0) return f;
    f = *t->value[v].cut;
    f.at = buffer_address(t, t->slot, buffer);
    return f;
}

dptr tape_scratch_at(struct tape *t) { return buffer_address(t, t->slot, t->now->scratch); }

static enum status run_events(struct tape *t, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        t->now = &t->event[i];
        const struct tape_op *op = &t->op[t->now->op];
        const struct tape_kind *kind = op->kind;
        enum tape_mode mode = t->now->mode;
        TM_TRY((mode == MODE_BACKWARD ? kind->backward : mode == MODE_REMAKE ? kind->remake : kind->forward)(t, op));
    }
    return TM_OK;
}

static enum status run_stretch(struct tape *t, size_t k) {
    const struct tape_stretch *s = &t->stretch[k];
    bool done;
    if (!t->graph) return run_events(t, (size_t)s->from, (size_t)s->to);
    struct dev_graph **graph = &t->graph[(size_t)t->slot * t->n_stretch + k];
    TM_TRY(dev_graph_begin(t->o.dev, graph, &done));
    return done ? TM_OK : dev_graph_end(t->o.dev, *graph, run_events(t, (size_t)s->from, (size_t)s->to));
}

static enum status run(struct tape *t, int slot, size_t from, size_t to, const struct tape_told *told) {
    if (!t->finished || slot < 0 || slot >= t->o.slots)
        return TM_FAIL(TM_ERR_INTERNAL, "tape %s: run of slot %d of %d", t->o.name, slot, t->o.slots);
    t->slot = slot;
    for (size_t k = from; k < to; k++) {
        if (told && k > from) TM_TRY(told->passed(told->context, t->stretch[k].first));
        TM_TRY(run_stretch(t, k));
    }
    return TM_OK;
}

enum status tape_run(struct tape *t, int slot, enum tape_what what) {
    return what == TAPE_FORWARD ? run(t, slot, 0, 1, NULL) : run(t, slot, 1, t->n_stretch, NULL);
}

enum status tape_run_told(struct tape *t, int slot, const struct tape_told *told) {
    return run(t, slot, 1, t->n_stretch, told);
}
