/* Inside of the tape: operations, values and buffers. Only src/tape includes this. */
#pragma once

#include "tape/tape.h"

enum { TAPE_MAX_IN = 6, TAPE_MAX_OUT = 8, TAPE_NAME = 24 };

enum tape_mode { MODE_FORWARD, MODE_RECOMPUTE, MODE_REMAKE, MODE_BACKWARD };

struct tape_op;

/* A kind of operation. Bit i of a mask is input or output i. */
struct tape_kind {
    const char *name;
    enum status (*forward)(struct tape *t, const struct tape_op *op);
    enum status (*backward)(struct tape *t, const struct tape_op *op); /* NULL: no gradient passes */
    enum status (*remake)(struct tape *t, const struct tape_op *op);   /* see made_again */
    unsigned saved_in, saved_out;                                      /* what backward and remake read */
    unsigned
        made_again; /* outputs that are too cheap to be kept for backward: remake writes them again when they are wanted */
    unsigned grad_in;   /* inputs that get a gradient */
    bool grad_through;  /* all those gradients are the gradient of output 0, in place */
    bool grad_joint;    /* all those gradients are one array */
    int grad_in_output; /* > 0: the gradient of input 0 is this output (written by forward) */
    bool in_place;      /* output 0 is input 0's memory */
    bool once;          /* not repeated by recomputation (has side effects: observers, losses) */
};

/* The blocks of an activation, as this rank sees them, and whether their maxima are agreed upon over the tensor group. */
struct tape_blocks {
    struct block_grid grid;
    bool agreed;
};

struct tape_op {
    const struct tape_kind *kind;
    int n_in, n_out, segment;
    tape_val in[TAPE_MAX_IN], out[TAPE_MAX_OUT];
    const struct tape_weight *w[TAPE_MAX_LINEAR], *b[TAPE_MAX_LINEAR];
    struct tensor_axis axis[TAPE_MAX_LINEAR];
    int n_w;
    unsigned packs;                           /* outputs that its forward can leave packed */
    unsigned factors;                         /* inputs that its forward reads only as a factor A of bf16 products, */
    struct packed_factor cut;                 /* by these segments (at is not used) */
    bool varies;                              /* what it does depends on more than the values: no graph */
    size_t scratch_forward, scratch_backward; /* bytes */
    union {
        struct {
            int64_t row0;
        } embed;
        struct {
            float eps;
            int64_t heads, group_heads, group0, d;
        } norm;
        struct {
            float eps, offset;
        } layernorm;
        enum act_kind act;
        struct {
            dptr table;
            int64_t heads, d, rot;
        } rope;
        struct tape_attention attention;
        struct {
            int kind;
            dptr amax;
            struct tape_blocks blocks;
        } quant;
        struct tape_head head;
    } u;
};

struct tape_value {
    char name[TAPE_NAME];
    int64_t rows, cols;
    int producer;       /* op, or -1 for an input */
    int grad_reader;    /* op that takes its gradient, or -1 */
    tape_val memory_of; /* shares the memory of this value, or TAPE_NONE */
    bool wants_grad, pinned, grad_pinned;
    bool remade;   /* its producer's remake writes it for the backward pass */
    int packed[2]; /* buffers of it as a packed factor: in the forward pass, when recomputed; -1 none */
    const struct packed_factor *cut; /* how */
    int buffer[2];                   /* for the forward pass, and what is recomputed or remade for the backward pass */
    int grad_buffer;
};

struct tape_buffer {
    size_t bytes, offset;
    int from, to; /* on the time line; to < 0: never used */
    bool kept;
    bool read; /* by somebody, in fp32 */
};

struct tape_event {
    int op;
    enum tape_mode mode;
    int scratch; /* buffer or -1 */
};

/* A part of a run: the forward pass; of the backward pass what belongs to one segment, or lies outside of all. */
struct tape_stretch {
    int from, to; /* events */
    int first;    /* tape_told.passed, when it begins */
};

struct tape {
    struct tape_options o;
    struct tape_op *op;
    struct tape_value *value;
    struct tape_buffer *buffer;
    struct tape_event *event;
    size_t n_op, n_value, n_buffer, n_event, cap_op, cap_value, cap_buffer, cap_event;
    bool *recompute; /* per segment */
    size_t n_segment, cap_segment;
    struct tape_stretch *stretch; /* [0]: forward */
    size_t n_stretch, cap_stretch;
    int segment; /* being recorded; -1 none */
    bool finished;
    size_t kept_bytes, scratch_bytes;
    int backward_event; /* first event of the backward part */
    dptr kept, scratch;
    struct dev_graph **graph; /* [slots][n_stretch]; NULL: runs differ, or wait for other ranks */
    int slot;                 /* of the run in progress */
    const struct tape_event *now;
};

/* Recording, for the op files. */
enum status tape_value_new(struct tape *t, const char *name, int64_t rows, int64_t cols, tape_val *out);
enum status tape_op_add(struct tape *t, const struct tape_op *op);
/* Addresses during a run: of a value and of its gradient as the operation that runs sees them (0: no gradient is wanted), of its scratch. */
dptr tape_at(struct tape *t, const struct tape_op *op, tape_val v);
dptr tape_grad_at(struct tape *t, const struct tape_op *op, tape_val v);
/* v as a packed factor, to be written or read by op now; at.a = 0: it is not. */
struct packed_factor tape_packed_at(struct tape *t, const struct tape_op *op, tape_val v);
dptr tape_scratch_at(struct tape *t);
/* The blocks of an x [N, cols]. */
struct tape_blocks tape_blocks_of(const struct tape *t, int64_t cols, const struct tape_quantizer *q);
/* Where blocks are agreed upon: their maxima [N, grid.ld] of x [N, cols] over the tensor group, at `maxima`. Collective over it. */
enum status tape_agree_maxima(struct tape *t, const struct tape_blocks *b, dptr x, int64_t cols, dptr maxima);

/* fp8.c: forward products by codes. Bytes of scratch for an input of `cols` columns; quantize it there, once for all weights that read it
 * (collective over the tensor group); then y [N, w->rows] = x w' + bias by segments of k. */
size_t tape_fp8_scratch(const struct tape *t, int64_t cols, const struct tape_fp8 *f);
enum status tape_fp8_input(struct tape *t, dptr x, int64_t cols, const struct tape_fp8 *f, struct fp8_factor *out);
enum status tape_fp8_product(struct tape *t, const struct fp8_factor *x, const struct tape_weight *w, int segments,
                             const int64_t *k, dptr bias, dptr y);

/* gemm_args.accumulate of a product that goes to the gradient of w. */
static inline int tape_grad_adds(const struct tape_weight *w) {
    const bool adds = !w->written || *w->written;
    if (w->written) *w->written = true;
    return adds;
}

/* The buffer of v as read or written by op in a mode. */
/* The buffer of v as a packed factor in a mode, where op writes it or reads it so; else -1. */
int tape_packed_of(const struct tape *t, const struct tape_op *op, tape_val v, enum tape_mode mode);
int tape_buffer_of(const struct tape *t, const struct tape_op *op, tape_val v, enum tape_mode mode);
enum status tape_plan(struct tape *t);

static inline const struct tape_value *tape_value_at(const struct tape *t, tape_val v) { return &t->value[v]; }
static inline size_t tape_value_bytes(const struct tape_value *v) { return (size_t)v->rows * (size_t)v->cols * 4; }
