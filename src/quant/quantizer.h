/* The quantizers of a model on a grid: which are on, their maxima, observation and fake quantization.
 *
 * Maxima are global facts, held whole on every rank (they are small): one per activation site, one per linear weight, and one per output
 * row or tile for formats with scales of these. Maxima of blocks are taken from the weights or activations as they are, over the tensor
 * group where it cuts a block. Weights are replaced by fake-quantized copies (exactly the values that the export dequantizes
 * to); the masters stay. Activation sites become operations on the tape. */
#pragma once

#include "base/json.h"
#include "model/model.h"
#include "quant/pack.h"
#include "quant/policy.h"

enum quant_mode {
    QUANT_OBSERVE, /* sites record their maxima, nothing is quantized */
    QUANT_FAKE,    /* sites and weights are fake-quantized */
    QUANT_CODES,   /* the same, but linears whose weights and inputs have E4M3 codes multiply these (fp8.c) */
};

struct quant_model {
    struct model *m;
    enum quant_mode mode;
    struct quant_linear *linears; /* of the whole model, in registry order; maxima as on the host */
    struct model_param **param;   /* of each linear */
    char (*names)[TENSOR_NAME_MAX];
    int *site; /* input site of each linear */
    int n_linears;
    struct quant_kv *kv; /* per layer */
    char (*kv_names)[TENSOR_NAME_MAX];
    int n_kv, n_sites;
    int64_t n_amax;           /* sites, then linears, then the rows or tiles of linears with scales of these */
    int64_t *first;           /* first row or tile maximum of each linear, -1 none */
    float *amax;              /* [n_amax], host */
    dptr device_amax, copies; /* device: the same; fake-quantized weights */
    dptr maxima;              /* device: of the blocks of one weight that the tensor group cuts inside a block */
    size_t copy_bytes;
    struct tape_fp8 *fp8; /* of each linear; made by the first quant_model_apply_fp8 */
    dptr codes;           /* device: their codes and scales */
    size_t code_bytes;
    bool any;    /* something is quantized */
    bool loaded; /* the weights are decoded codes: not rounded to bf16 before they are encoded again */
};

/* Resolve the policy for every linear and KV cache of the model and check that the combination has an export form. Local; the caller
 * destroys (before the model). Errors: DECK, UNSUPPORTED, SHAPE (also a block that is no part of a cached head), MEMORY. */
enum status quant_model_create(struct model *m, const struct quant_policy *p, struct quant_model **out);
/* The same from what quant_model_formats gave. Errors: FORMAT. */
enum status quant_model_restore(struct model *m, const json_t *formats, struct quant_model **out);
void quant_model_destroy(struct quant_model **q);
/* {"<module>.<site>": "<format>"} of what is on; the caller frees. */
enum status quant_model_formats(const struct quant_model *q, json_t **out);

/* The hook that puts the quantizers of activations on a tape, in the present mode. */
struct model_hook quant_model_hook(struct quant_model *q);

/* Observation: begin clears all maxima and measures the weights; after the forward passes finish takes the maximum over all ranks and shares it
 * within fused groups. finish is collective over the world. Errors: NUMERIC (a maximum that is not finite). */
enum status quant_observe_begin(struct quant_model *q);
enum status quant_observe_finish_all(struct quant_model *q);
/* The host's maxima onto the device (after loading a checkpoint). Local. */
enum status quant_model_upload(struct quant_model *q);
/* Renew the fake-quantized copies from the masters and let the model read them; the first call allocates them. Collective over the tensor
 * group. Errors: MEMORY. */
enum status quant_model_apply(struct quant_model *q);

/* In place of quant_model_apply: weights and inputs of linears in fp8, fp8_row or fp8_tile become codes with the same values, and so do the products
 * of what is recorded from here on; the rest, and the head, is fake-quantized. Tiles without a format of inputs get fp8_group, as inference engines
 * do it. Not for training. Collective over the tensor group. Errors: UNSUPPORTED (no linear has such formats), MEMORY. */
enum status quant_model_apply_fp8(struct quant_model *q);

/* Whether an activation has a maximum to be measured: if not, calibration needs no data. */
bool quant_model_measures(const struct quant_model *q);
/* One quantizer's maxima, for checkpoints and statistics: "<module>.<site>.amax" is values[n]. i from 0; false behind the last. */
bool quant_model_stat(const struct quant_model *q, int i, char name[TENSOR_NAME_MAX], float **values, int64_t *n);
/* Mean stored bits per weight of the linears (scales included), and the share of weights in linears that are quantized. */
void quant_model_bits(const struct quant_model *q, double *bits, double *share);
