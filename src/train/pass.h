/* A pass: one model's pipeline stage recorded on a tape, its inputs, its transfers to the neighbouring stages, its loss head.
 * Training, distillation, calibration and evaluation are loops over passes. */
#pragma once

#include "data/set.h"
#include "model/model.h"

enum train_head {
    TRAIN_HEAD_NONE,   /* stop at the final norm: calibration, a teacher */
    TRAIN_HEAD_LOSS,   /* per-token NLL (and KL when there is a teacher) */
    TRAIN_HEAD_LOGITS, /* all logits, pinned */
};

struct train_pass_options {
    const char *name; /* borrowed; for messages */
    struct model *model;
    const struct model_shape *shape;
    const struct model_hook *hook; /* NULL: none */
    enum train_head head;
    int slots; /* micro-batches in flight */
    bool training, invariant;
    struct train_pass *teacher; /* its final hidden states feed the KL; its forward runs right before; NULL: none */
    bool with_ce, with_kl;      /* gradient parts, when training */
    double temperature;         /* of the KL, > 0 */
    int tag;                    /* message tags tag .. tag + 1 are this pass's */
};

enum { TRAIN_MAX_SLOTS = 64 };

struct train_pass {
    struct train_pass_options o;
    struct dev *dev;
    const struct par_grid *grid;
    struct tape *t;
    struct model_io io;
    tape_val labels, ce_weight, kl_weight, teacher_hidden, logits;
    struct tape_head_out result;
    dptr kept, scratch;
    bool owns_scratch;
    int send_forward[TRAIN_MAX_SLOTS], send_backward[TRAIN_MAX_SLOTS]; /* requests under way, -1 none */
    float *host;                                                       /* [6, N]: what goes up and comes down */
};

/* Record and plan. shape->keep_layers needs layer_out ([layers + 1], caller's), else NULL. Local; the caller destroys. */
enum status train_pass_create(const struct train_pass_options *o, tape_val *layer_out, struct train_pass **out);
void train_pass_destroy(struct train_pass **p);
/* Allocate the activations of passes that never run at the same moment: kept memory each, one scratch for all. Local. */
enum status train_pass_bind(struct train_pass *const *passes, int n);
size_t train_pass_bytes(const struct train_pass *p, size_t *scratch);

/* One micro-batch forward in a slot: inputs, receive, run, send. ce and kl: gradient weight per scored token (used when recorded).
 * The teacher, when there is one, runs first. Collective over the tensor group; talks to the neighbouring stages. */
enum status train_pass_forward(struct train_pass *p, int slot, const struct data_batch *b, double ce, double kl);
enum status train_pass_backward(struct train_pass *p, int slot, const struct tape_told *told); /* told: may be NULL */
/* Wait for all transfers under way. */
enum status train_pass_drain(struct train_pass *p);

/* What the loss head says of a micro-batch: sums over scored tokens in token order, fp64. Only on the last stage. */
struct train_tally {
    double nll, kl;
    double tokens, agree; /* counts: scored tokens, those with the teacher's top-1 */
};
/* Queue the fetch of what that takes: TRAIN_RESULTS numbers a token, in `results` after the next dev_sync or dev_download. The tally reads them. */
enum { TRAIN_RESULTS = 6 };
enum status train_pass_fetch(struct train_pass *p, int slot, float *results);
void train_pass_tally(const struct train_pass *p, const float *results, const struct data_batch *b,
                      struct train_tally *out);

/* Order of work of this rank for n micro-batches: one forward, one backward (PipeDream-Flush, Narayanan et al. 2021). */
int train_slots(const struct par_grid *g, int n);
struct train_work {
    void *context;
    enum status (*forward)(void *context, int micro_batch, int slot);
    enum status (*backward)(void *context, int micro_batch, int slot);
};
/* Forward passes alone, of n micro-batches on all replicas together: how many a replica runs between two agreements of the world, at least 1. In a
 * pipeline so many that its stages work at the same time for four fifths of them. */
int64_t train_wave(const struct par_grid *g, int64_t n);
enum status train_1f1b(const struct par_grid *g, int n, int slots, const struct train_work *w);
