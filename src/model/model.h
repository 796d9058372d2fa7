/* A decoder-only transformer on a grid: its parameters (global tensors and this rank's boxes) and its forward pass on a tape.
 *
 * Cuts over the tensor group (DESIGN §2.3): attention by KV groups (a group's q heads, its k, its v), the FFN by blocks of gcd(ffn, 32)
 * columns, the vocabulary by rows; boundaries at ceil(units * i / 8), so boxes may be uneven or empty. Pipeline stage p owns layers
 * [layers * p / pp, layers * (p + 1) / pp), the first also the embedding, the last the final norm and the head. */
#pragma once

#include "model/config.h"
#include "model/hook.h"
#include "par/par.h"
#include "tape/tape.h"

enum model_role {
    MODEL_EMBED,
    MODEL_INPUT_NORM,
    MODEL_INPUT_NORM_BIAS,
    MODEL_Q,
    MODEL_K,
    MODEL_V,
    MODEL_Q_BIAS,
    MODEL_K_BIAS,
    MODEL_V_BIAS,
    MODEL_Q_NORM,
    MODEL_K_NORM,
    MODEL_O,
    MODEL_O_BIAS,
    MODEL_POST_NORM,
    MODEL_POST_NORM_BIAS,
    MODEL_GATE,
    MODEL_UP,
    MODEL_GATE_BIAS,
    MODEL_UP_BIAS,
    MODEL_DOWN,
    MODEL_DOWN_BIAS,
    MODEL_FINAL_NORM,
    MODEL_FINAL_NORM_BIAS,
    MODEL_HEAD,
    MODEL_ROLES,
};

struct model_param {
    struct tensor_desc desc; /* fp32; box of this rank, empty where it holds nothing */
    struct tape_weight w;    /* value: what operations read (== master unless a quantizer replaced it) */
    dptr master;
    enum model_role role;
    int layer; /* -1 outside of layers */
    int cut;   /* axis of desc that the tensor group cuts, -1 none */
    struct tensor_axis axis;
    int64_t grad_parts; /* gradient leaves: 1, 8 row segments, or kv_heads * 8 */
    bool linear;        /* a weight of a linear layer: may be quantized */
    bool frozen;        /* not trained: set by the optimizer */
    bool grad_written;  /* w.written, of matrices that products alone add to */
};

struct model_options {
    struct dev *dev;
    const struct par_grid *grid;
    bool training;         /* gradients are wanted */
    bool bf16;             /* products, attention's too, have bf16 factors; all values stay fp32 */
    int64_t max_positions; /* longest sequence */
};

struct model {
    struct model_config config;
    struct model_options o;
    struct model_param *param; /* all of the model, in a fixed order; the same list on every rank */
    int n_params, per_layer;
    int role_at
        [MODEL_ROLES];  /* index of the first parameter with a role, -1 none; layers follow at distance per_layer */
    int layer0, layer1; /* layers of this stage */
    bool first, last;
    struct tensor_axis axis_attention_q, axis_attention_kv, axis_ffn, axis_vocab;
    struct tape_weight tied; /* the embedding as the head reads it when tied: a gradient buffer of its own */
    bool tied_written;
    dptr weights, grads, rope, packed;
    size_t weight_bytes, grad_bytes, rope_bytes, packed_bytes;
    size_t added_bytes; /* gradients that begin with zeros come first in grads */
};

/* Build the registry, allocate weights (zero), gradients and the rotary table. Takes over *config (also on failure). Local.
 * Errors: UNSUPPORTED, DECK (more stages than layers), MEMORY. */
enum status model_create(struct model_config *config, const struct model_options *o, struct model **out);
void model_destroy(struct model **m);
/* The parameter with this role in this layer, or NULL when the model has none. */
struct model_param *model_find(const struct model *m, enum model_role role, int layer);
/* Pack the weights of bf16 products once for all forward passes that follow (tape_weight.packed): 2 bytes an element more, at the first call. For
 * a model whose weights stay as they are from here on, or until this is called again; not for training. Without bf16 it does nothing. Local.
 * Errors: MEMORY. */
enum status model_pack(struct model *m, bool invariant);
/* What the head reads: lm_head, or the tied embedding. Only on the last stage. */
const struct tape_weight *model_head(const struct model *m);
/* "model.layers.3.mlp.down_proj.weight" -> "model.layers.3.mlp.down_proj" */
void model_module_name(const struct model_param *p, char out[TENSOR_NAME_MAX]);

/* Values of a recorded chunk; TAPE_NONE where this stage has none. */
struct model_io {
    tape_val ids, positions, first; /* inputs, int32 [N,1] */
    tape_val hidden_in, hidden_out; /* stage boundaries; their gradients are pinned when training */
    tape_val final;                 /* after the final norm (and the head's input site): feed it to tape_head */
    tape_val *layer_out;            /* [layers] pinned outputs of this stage's layers when wanted, else NULL */
};
struct model_shape {
    int64_t b, t;     /* sequences, their length */
    bool recompute;   /* keep only layer inputs for backward */
    bool keep_layers; /* pin every layer's input and output: for probes */
    const struct tape_cache
        *cache; /* [layers of the model]: this run goes on after what is in it; borrowed by the tape; NULL: none */
};
/* Record the forward pass of this stage. io->layer_out (when keep_layers) is owned by the caller: [layers + 1] values, TAPE_NONE-filled here
 * where not of this stage; entry 0 is the embedding, entry i + 1 the output of layer i. Local. */
enum status model_record(struct model *m, struct tape *t, const struct model_shape *shape,
                         const struct model_hook *hook, struct model_io *io);

/* Deterministic random initialisation: normal(0, std) keyed by seed, name and global element; norms 1 (layer norms: with the offset), biases 0. */
enum status model_init(struct model *m, uint64_t seed, float std);
/* Begin sums of gradients: zeros, or nothing yet where the first product writes. */
enum status model_begin_grads(struct model *m);
/* The byte of `grads` from which on there are only gradients of matrices of layers >= layer, and of the head; grad_bytes where there is none. */
int64_t model_grads_from(const struct model *m, int layer);
/* Before the gradients from byte `from` of `grads` on are read: zeros where nothing was written. */
enum status model_settle_grads(struct model *m, int64_t from);
