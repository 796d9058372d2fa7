/* A pass: recording, memory, inputs and transfers of one model's pipeline stage. */
#include "train/pass.h"

#include <math.h>

#include "base/mem.h"
#include "base/size.h"

/* All logits of a chunk take at most about this many floats, whatever the grid. Each chunk packs the head's weight again where it is not packed
 * already, so few large ones are better. Whole blocks of a bf16 sum over tokens: so the chunk does not change results. Where there is room
 * for it they begin where packed hidden states can be read. */
enum { CHUNK_FLOATS = 32 << 20, CHUNK_BLOCK = 32 };

/* Even chunks of at most `most` of n tokens, in whole blocks. */
static int64_t chunk_rows(int64_t n, int64_t most) {
    const int64_t block = most < OPS_PACKED_ROWS ? CHUNK_BLOCK : OPS_PACKED_ROWS, blocks = size_max(1, most / block),
                  chunks = size_ceil_div(n, blocks * block);
    return size_min(n, size_ceil_div(size_ceil_div(n, chunks), block) * block);
}

static enum status record_head(struct train_pass *p) {
    const struct train_pass_options *o = &p->o;
    int64_t n = o->shape->b * o->shape->t;
    const struct tape_weight *head = model_head(o->model);
    if (o->head == TRAIN_HEAD_LOGITS) return tape_logits(p->t, p->io.final, head, &p->logits);
    TM_TRY(tape_input(p->t, "labels", n, 1, false, &p->labels));
    if (o->training && o->with_ce) TM_TRY(tape_input(p->t, "ce weight", n, 1, false, &p->ce_weight));
    if (o->training && o->with_kl) TM_TRY(tape_input(p->t, "kl weight", n, 1, false, &p->kl_weight));
    struct tape_head h = {.w = head,
                          .axis = o->model->axis_vocab,
                          .teacher = TAPE_NONE,
                          .labels = p->labels,
                          .ce_weight = p->ce_weight,
                          .kl_weight = p->kl_weight,
                          .inv_temperature = (float)(1 / o->temperature)};
    int64_t copies = 1 + (o->teacher != NULL) + (o->with_ce && o->with_kl); /* of a chunk's logits */
    h.chunk = chunk_rows(n, CHUNK_FLOATS / (copies * o->model->config.vocab));
    if (o->teacher) {
        TM_TRY(tape_input(p->t, "teacher", n, o->teacher->o.model->config.hidden, false, &p->teacher_hidden));
        h.teacher = p->teacher_hidden;
        h.teacher_w = model_head(o->teacher->o.model);
    }
    return tape_head(p->t, p->io.final, &h, &p->result);
}

static enum status record(struct train_pass *p, tape_val *layer_out) {
    const struct train_pass_options *o = &p->o;
    const struct model_shape *s = o->shape;
    p->io.layer_out = layer_out;
    TM_TRY(tape_create(&(struct tape_options){.name = o->name,
                                              .dev = p->dev,
                                              .grid = p->grid,
                                              .tokens = s->b * s->t,
                                              .slots = o->slots,
                                              .training = o->training,
                                              .invariant = o->invariant},
                       &p->t));
    TM_TRY(model_record(o->model, p->t, s, o->hook, &p->io));
    if (o->model->last && o->head != TRAIN_HEAD_NONE)
        TM_TRY(record_head(p));
    else if (o->model->last)
        TM_TRY(tape_pin(p->t, p->io.final, false));
    return tape_finish(p->t);
}

enum status train_pass_create(const struct train_pass_options *o, tape_val *layer_out, struct train_pass **out) {
    if (o->slots < 1 || o->slots > TRAIN_MAX_SLOTS)
        return TM_FAIL(TM_ERR_UNSUPPORTED, "%d micro-batches in flight: at most %d", o->slots, TRAIN_MAX_SLOTS);
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    struct train_pass *p = *out;
    p->o = *o;
    p->dev = o->model->o.dev;
    p->grid = o->model->o.grid;
    p->labels = p->ce_weight = p->kl_weight = p->teacher_hidden = p->logits = TAPE_NONE;
    for (int i = 0; i < TRAIN_MAX_SLOTS; i++) p->send_forward[i] = p->send_backward[i] = -1;
    enum status st = mem_alloc(&p->host, (size_t)(o->shape->b * o->shape->t) * TRAIN_RESULTS, sizeof *p->host);
    if (st == TM_OK) st = record(p, layer_out);
    p->o.shape = NULL; /* was borrowed */
    if (st != TM_OK) train_pass_destroy(out);
    return st;
}

void train_pass_destroy(struct train_pass **pass) {
    struct train_pass *p = *pass;
    if (!p) return;
    dev_free(p->dev, &p->kept);
    if (p->owns_scratch) dev_free(p->dev, &p->scratch);
    tape_destroy(&p->t);
    mem_free(&p->host);
    mem_free(pass);
}

size_t train_pass_bytes(const struct train_pass *p, size_t *scratch) {
    if (scratch) *scratch = tape_scratch_bytes(p->t);
    return tape_kept_bytes(p->t) * (size_t)p->o.slots;
}

enum status train_pass_bind(struct train_pass *const *passes, int n) {
    size_t most = 0, bytes;
    dptr scratch;
    for (int i = 0; i < n; i++) {
        train_pass_bytes(passes[i], &bytes);
        if (bytes > most) most = bytes;
    }
    TM_TRY(dev_alloc(passes[0]->dev, "scratch", most, &scratch));
    for (int i = 0; i < n; i++) {
        passes[i]->scratch = scratch;
        passes[i]->owns_scratch = i == 0;
        TM_TRY(dev_alloc(passes[i]->dev, "activations", train_pass_bytes(passes[i], NULL), &passes[i]->kept));
        tape_bind(passes[i]->t, passes[i]->kept, scratch);
    }
    return TM_OK;
}

/* --- one micro-batch ------------------------------------------------------------------------------------------------------ */
static enum status upload(struct train_pass *p, int slot, tape_val v, const void *host, int64_t n) {
    return v == TAPE_NONE ? TM_OK : dev_upload(p->dev, tape_address(p->t, slot, v), host, (size_t)n * 4);
}

static enum status upload_weight(struct train_pass *p, int slot, tape_val v, const struct data_batch *b,
                                 double weight) {
    if (v == TAPE_NONE) return TM_OK;
    for (int64_t i = 0; i < b->b * b->t; i++) p->host[i] = b->labels[i] >= 0 ? (float)weight : 0;
    return upload(p, slot, v, p->host, b->b * b->t);
}

static enum status upload_inputs(struct train_pass *p, int slot, const struct data_batch *b, double ce, double kl) {
    int64_t n = b->b * b->t;
    TM_TRY(upload(p, slot, p->io.ids, b->tokens, n));
    TM_TRY(upload(p, slot, p->io.positions, b->positions, n));
    TM_TRY(upload(p, slot, p->io.first, b->first, n));
    TM_TRY(upload(p, slot, p->labels, b->labels, n));
    TM_TRY(upload_weight(p, slot, p->ce_weight, b, ce));
    return upload_weight(p, slot, p->kl_weight, b, kl);
}

static enum status finish_send(struct train_pass *p, int *request) {
    int r = *request;
    *request = -1;
    return r < 0 ? TM_OK : par_wait(p->grid->pp_group, r);
}

static enum status receive(struct train_pass *p, dptr x, int from, int tag) {
    int request;
    int64_t bytes = (int64_t)p->o.model->config.hidden * 4;
    TM_TRY(par_recv_start(p->grid->pp_group, p->dev, x, bytes * tape_tokens(p->t), from, tag, &request));
    return par_wait(p->grid->pp_group, request);
}

static enum status send(struct train_pass *p, dptr x, int to, int tag, int *request) {
    int64_t bytes = (int64_t)p->o.model->config.hidden * 4;
    return par_send_start(p->grid->pp_group, p->dev, x, bytes * tape_tokens(p->t), to, tag, request);
}

enum status train_pass_forward(struct train_pass *p, int slot, const struct data_batch *b, double ce, double kl) {
    int stage = p->grid->pp_rank;
    if (p->o.teacher) TM_TRY(train_pass_forward(p->o.teacher, slot % p->o.teacher->o.slots, b, 0, 0));
    TM_TRY(finish_send(p, &p->send_forward[slot]));
    TM_TRY(upload_inputs(p, slot, b, ce, kl));
    if (p->io.hidden_in != TAPE_NONE)
        TM_TRY(receive(p, tape_address(p->t, slot, p->io.hidden_in), stage - 1, p->o.tag));
    if (p->teacher_hidden != TAPE_NONE) {
        const struct train_pass *t = p->o.teacher;
        size_t bytes = (size_t)(tape_tokens(p->t) * t->o.model->config.hidden) * 4;
        TM_TRY(dev_copy(p->dev, &(struct copy_args){.x = tape_address(t->t, slot % t->o.slots, t->io.final),
                                                    .y = tape_address(p->t, slot, p->teacher_hidden),
                                                    .bytes = bytes}));
    }
    TM_TRY(tape_run(p->t, slot, TAPE_FORWARD));
    if (p->io.hidden_out == TAPE_NONE) return TM_OK;
    return send(p, tape_address(p->t, slot, p->io.hidden_out), stage + 1, p->o.tag, &p->send_forward[slot]);
}

enum status train_pass_backward(struct train_pass *p, int slot, const struct tape_told *told) {
    int stage = p->grid->pp_rank;
    TM_TRY(finish_send(p, &p->send_backward[slot]));
    if (p->io.hidden_out != TAPE_NONE)
        TM_TRY(receive(p, tape_grad_address(p->t, slot, p->io.hidden_out), stage + 1, p->o.tag + 1));
    TM_TRY(tape_run_told(p->t, slot, told));
    if (p->io.hidden_in == TAPE_NONE) return TM_OK;
    return send(p, tape_grad_address(p->t, slot, p->io.hidden_in), stage - 1, p->o.tag + 1, &p->send_backward[slot]);
}

enum status train_pass_drain(struct train_pass *p) {
    if (p->o.teacher) TM_TRY(train_pass_drain(p->o.teacher));
    for (int i = 0; i < p->o.slots; i++) {
        TM_TRY(finish_send(p, &p->send_forward[i]));
        TM_TRY(finish_send(p, &p->send_backward[i]));
    }
    return TM_OK;
}

static bool has_results(const struct train_pass *p) {
    return p->o.model->last && p->o.head == TRAIN_HEAD_LOSS && dev_backend(p->dev) != DEV_PLAN;
}

enum status train_pass_fetch(struct train_pass *p, int slot, float *results) {
    const tape_val v[TRAIN_RESULTS] = {p->result.max, p->result.sum,  p->result.target,
                                       p->result.kl,  p->result.best, p->result.teacher_best};
    const int64_t n = tape_tokens(p->t);
    for (int i = 0; i < TRAIN_RESULTS && has_results(p); i++)
        if (v[i] != TAPE_NONE)
            TM_TRY(dev_fetch(p->dev, results + i * n, tape_address(p->t, slot, v[i]), (size_t)n * 4));
    return TM_OK;
}

void train_pass_tally(const struct train_pass *p, const float *results, const struct data_batch *b,
                      struct train_tally *out) {
    const int64_t n = tape_tokens(p->t);
    *out = (struct train_tally){0};
    if (!has_results(p)) return;
    const float *max = results, *sum = max + n, *target = sum + n, *kl = target + n;
    const int32_t *best = (const int32_t *)(kl + n), *teacher = best + n;
    for (int64_t i = 0; i < n; i++) {
        if (b->labels[i] < 0) continue;
        out->tokens += 1;
        out->nll += (double)max[i] + log((double)sum[i]) - (double)target[i];
        if (!p->o.teacher) continue;
        out->kl += (double)kl[i];
        out->agree += best[i] == teacher[i];
    }
}
