/* A tape: a recorded program of differentiable operations over values whose addresses are planned once.
 *
 * Record the forward pass once (tape_linear, tape_attention, ...), then tape_finish() plans memory and tape_run() executes forward and
 * backward as often as wanted, with other data in the same places: no allocation inside a step. Collectives over the tensor group are part
 * of the operations, so a layer is written once for every grid, and every sum over a dimension that a grid may cut is a fixed tree.
 *
 * Memory. Each value lives in a buffer from its first write to its last use on the time line "forward, then backward"; buffers that cross
 * from forward to backward are kept once per slot (a micro-batch in flight), the rest is scratch shared by all slots. Operations recorded
 * between tape_segment_begin/end with recompute = true keep nothing inside: they run again before their backward. Elsewhere only what is
 * cheap to make (normalized values, activations) is made again, with the same bits.
 *
 * Packed factors. What only bf16 products (and what comes with them) read is written by the operation that makes it as those products want it
 * (dev/ops.h, packed_factor), and in fp32 only where something else reads it.
 *
 * Gradients. A value is read by at most one operation that takes its gradient (the recorder refuses a second one: say tape_fork).
 * Weight gradients are added to tape_weight.grad, so they accumulate over micro-batches in the order of the runs.
 *
 * All functions are Local except those that run, which are collective over the grid's tensor group. Matrices are [rows, cols] fp32 unless said. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "dev/dev.h"
#include "par/par.h"
#include "tensor/tensor.h"

struct tape;
typedef int tape_val; /* an index; TAPE_NONE = absent */
enum { TAPE_NONE = -1, TAPE_MAX_LINEAR = 3 };

/* How an activation is quantized. Where the tensor group cuts a block (a whole row too), its maximum is that over the group. */
struct tape_quantizer {
    int kind;                       /* enum fq_kind */
    dptr amax;                      /* device address of one fp32, for the kinds with a scale of the tensor */
    int64_t block;                  /* elements of a row with a scale of their own; 0: whole rows */
    const struct tensor_axis *axis; /* how x's columns are cut over the tensor group; NULL: they are not */
};

/* E4M3 codes of a weight: its products are of codes, and its input is quantized for them (dev/ops.h, quant_fp8 and gemm_fp8). */
struct tape_fp8 {
    dptr codes, scales;          /* [rows, cols] of the box; fp32, one for each block of the grid */
    struct block_grid grid;      /* of the scales, as the box sees them */
    struct tape_quantizer input; /* FQ_FP8 or FQ_FP8_BLOCK */
};

/* A parameter as operations see it: this rank's box, row-major. value may be a quantized copy of the master weight. */
struct tape_weight {
    dptr value;
    dptr grad;          /* 0: frozen. Matrices: like value. Vectors: leaves, see tape_norm and tape_linear */
    int64_t rows, cols; /* of the box (a vector has rows = 1) */
    bool bf16;          /* products with it, and of its gradient, have bf16 factors (gemm_args.bf16) */
    dptr packed;   /* 0, or the factor B of its forward products, packed by the segments of tape_cut: as value is */
    bool *written; /* whether grad holds something: the first product writes, the others add. NULL: all add. Borrowed */
    const struct tape_fp8 *
        fp8; /* NULL: value serves. Else codes do: in all weights of a tape_linear or none, not for training. Borrowed; as when recorded */
};

struct tape_options {
    const char *name; /* borrowed; for messages */
    struct dev *dev;
    const struct par_grid *grid;
    int64_t tokens; /* N: rows of a micro-batch */
    int slots;      /* micro-batches in flight, >= 1 */
    bool training;  /* plan and run backward */
    bool invariant; /* segmented sums (see par_grid.invariant); false: one segment */
};

/* How this rank's part of an axis is cut into the segments of a sum: k [OPS_MAX_SEGMENTS + 1], elements of the part. Returns their number. */
int tape_cut(const struct par_grid *g, bool invariant, const struct tensor_axis *a, int64_t *k);

enum status tape_create(const struct tape_options *o, struct tape **out);
void tape_destroy(struct tape **t);

/* --- recording. Every function raises INTERNAL on misuse; *out values belong to the tape. ------------------------------- */
/* Data from outside, [rows, cols] of 4-byte elements; pinned: the caller finds the place with tape_address. `grad`: its gradient is wanted
 * (then it is pinned too). */
enum status tape_input(struct tape *t, const char *name, int64_t rows, int64_t cols, bool grad, tape_val *out);
/* Keep the value (and, when training and grad, its gradient) at a fixed place in the slot. The gradient of a pinned value without reader is
 * input from outside (a later pipeline stage). */
enum status tape_pin(struct tape *t, tape_val v, bool grad);

/* x = table[ids]; the vocabulary axis is cut over the tensor group: row0 = first row of the box. */
enum status tape_embed(struct tape *t, tape_val ids, const struct tape_weight *table, int64_t row0, tape_val *x);
/* h = x + delta (delta may be TAPE_NONE: h = x), y = rmsnorm(h) * gain. gain.grad holds 8 row-segment leaves [8, C]. h may be NULL. */
enum status tape_norm(struct tape *t, tape_val x, tape_val delta, const struct tape_weight *gain, float eps,
                      tape_val *h, tape_val *y);
/* The same with a layer norm: y = (h - mean) * rstd * (gain + offset) + bias (dev/ops.h). gain.grad and bias.grad hold 8 row-segment leaves [8, C]. */
enum status tape_layernorm(struct tape *t, tape_val x, tape_val delta, const struct tape_weight *gain,
                           const struct tape_weight *bias, float offset, float eps, tape_val *h, tape_val *y);
/* RMS norm of each head of x [N, heads * D], gain [D]. gain.grad holds leaves [KV groups of the whole model, 8, D]; this rank fills those of its
 * groups, group0 first. */
enum status tape_head_norm(struct tape *t, tape_val x, int64_t heads, int64_t group_heads, int64_t group0,
                           const struct tape_weight *gain, float eps, tape_val *y);
/* Column-parallel: y[i] = x w[i]' + b[i] for up to three weights that share x. axis[i] says how w[i]'s rows are cut; their input gradients are one
 * tree (a leaf is the chain over i). b[i] may be NULL; bias gradients are 8 row-segment leaves [8, rows]. */
enum status tape_linear(struct tape *t, tape_val x, int n, const struct tape_weight *const w[],
                        const struct tape_weight *const b[], const struct tensor_axis axis[], tape_val y[]);
/* Row-parallel: y = tree over the tensor group of x w' (+ bias): axis says how w's columns are cut. */
enum status tape_linear_row(struct tape *t, tape_val x, const struct tape_weight *w, const struct tape_weight *bias,
                            const struct tensor_axis *axis, tape_val *y);
/* Rotary embedding in place (the input value must not be used afterwards). positions: input [N,1]; table: see rope_args. */
enum status tape_rope(struct tape *t, tape_val x, tape_val positions, dptr table, int64_t heads, int64_t d, int64_t rot,
                      tape_val *y);
/* Keys and values of the tokens before this micro-batch, [b, capacity, kv_heads * d] each. The owner may change what `at` points to
 * between runs: the position in its sequence of the first token of a run. */
struct tape_cache {
    dptr k, v;
    int64_t capacity; /* tokens per sequence */
    const int64_t *at;
};
struct tape_attention {
    int64_t b, t, heads, kv_heads, d, window; /* heads of this rank */
    float scale;
    const struct tape_cache
        *cache; /* borrowed; NULL: none. Else k and v are first put into it, and positions 0 .. *at + t - 1 are seen as
                                     * far as `first` and the window allow. Not for training */
    bool bf16;  /* attn_fwd_args.bf16 */
};
enum status tape_attention(struct tape *t, tape_val q, tape_val k, tape_val v, tape_val first,
                           const struct tape_attention *a, tape_val *o);
enum status tape_swiglu(struct tape *t, tape_val gate, tape_val up, tape_val *y);
/* y = f(x), an activation without a gate. */
enum status tape_act(struct tape *t, tape_val x, enum act_kind kind, tape_val *y);
enum status tape_add(struct tape *t, tape_val x, tape_val delta, tape_val *y);
/* Fake quantization with a straight-through gradient (passed on unchanged). */
enum status tape_fake_quant(struct tape *t, tape_val x, const struct tape_quantizer *q, tape_val *y);
/* amax[0] = max(amax[0], max|x|); no output. */
enum status tape_observe(struct tape *t, tape_val x, dptr amax);

/* The loss head, straight from hidden states in chunks of tokens: never a [tokens, vocabulary] array.
 * Per token i: ce_weight[i] * NLL(i) + kl_weight[i] * KL(teacher || student)(i) at the temperature (the factor is in the weight). When training,
 * the gradient is computed during the forward pass. teacher = TAPE_NONE: no KL. weights: inputs [N,1] or TAPE_NONE (no gradient part). */
struct tape_head {
    const struct tape_weight *w; /* lm head box [rows = vocabulary part, C] */
    struct tensor_axis axis;     /* of the vocabulary */
    tape_val teacher;            /* final hidden of the teacher [N, C_teacher], no gradient */
    const struct tape_weight *teacher_w;
    tape_val labels; /* int32 [N], < 0: not scored */
    tape_val ce_weight, kl_weight;
    float inv_temperature;
    int64_t chunk; /* tokens per chunk; does not change results */
};
/* Pinned results, [N,1]: NLL(i) = max + log(sum) - target; kl at the temperature; best: argmax (int32). */
struct tape_head_out {
    tape_val max, sum, target, kl, best, teacher_best;
};
enum status tape_head(struct tape *t, tape_val hidden, const struct tape_head *h, struct tape_head_out *out);
/* All logits of this rank's vocabulary part, pinned [N, rows of w]: for probes and sampling. */
enum status tape_logits(struct tape *t, tape_val hidden, const struct tape_weight *w, tape_val *logits);

enum status tape_segment_begin(struct tape *t, bool recompute);
enum status tape_segment_end(struct tape *t);

/* --- planning and running ------------------------------------------------------------------------------------------------ */
enum status tape_finish(struct tape *t);      /* plan; no memory yet */
size_t tape_kept_bytes(const struct tape *t); /* per slot */
size_t tape_scratch_bytes(
    const struct tape *t); /* shared by the slots, and shareable by tapes that never run at the same time */
/* Give the memory: slots * kept bytes at `kept`, scratch bytes at `scratch`. */
void tape_bind(struct tape *t, dptr kept, dptr scratch);
dptr tape_address(const struct tape *t, int slot, tape_val v);      /* of a pinned value */
dptr tape_grad_address(const struct tape *t, int slot, tape_val v); /* of its gradient */

int64_t tape_tokens(const struct tape *t);

enum tape_what { TAPE_FORWARD, TAPE_BACKWARD };
enum status tape_run(struct tape *t, int slot, enum tape_what what);
/* Who is told how far a backward pass has come: weight gradients of segment `first` and of all that was recorded after it have what this run adds to
 * them. Between operations, `first` falling. */
struct tape_told {
    enum status (*passed)(void *context, int first);
    void *context;
};
/* tape_run(t, slot, TAPE_BACKWARD), told. The same operations in the same order. */
enum status tape_run_told(struct tape *t, int slot, const struct tape_told *told);
