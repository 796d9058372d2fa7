/* From fp32 master weights to the tensors of a quantized export: names, types and shapes first, then bytes by blocks of rows.
 *
 * The bytes are those of ModelOpt's unified Hugging Face export (reference: 0.47 on a CPU); where that writes zero or NaN scales ours are
 * 1. They depend on the weights and maxima alone, so any rank may pack any rows. All functions are Local. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "quant/format.h"
#include "tensor/tensor.h"

/* Where a maximum comes from. MEASURED: on this very tensor. SHARED: a member of its fused group has a larger one. DEFAULT: nothing but
 * zeros was seen, so the scale is 1. */
enum quant_origin { QUANT_MEASURED, QUANT_SHARED, QUANT_DEFAULT };

/* A linear (or an embedding, with both formats none: configurations list it). Strings and arrays are borrowed. */
struct quant_linear {
    const char *name; /* of the module; its weight [out, in] is the parameter "<name>.weight" */
    int64_t out, in;
    int group; /* linears of one group >= 0 are fused by inference engines (q/k/v; gate/up): quant_share; -1 = alone */
    enum quant_format weight, input;
    float weight_amax; /* largest |weight|, for formats with a scale per tensor; of the fp32 master or of its bf16 */
    const float *
        maxima; /* of rows [out] or tiles [ceil(out/block), ceil(in/block)], for formats with a scale of these. NULL: rows are
                          * measured as they are packed; a weight that is a single tile has weight_amax */
    float input_amax;
    enum quant_origin weight_from, input_from; /* set by quant_share */
};

/* An attention's KV cache: k after its rotary embedding, and v. Scales are named after the projections. */
struct quant_kv {
    const char *name; /* of the module: "model.layers.0.self_attn" */
    enum quant_format k, v;
    float k_amax, v_amax;
};

/* Refuse what has no export form, before anything is calibrated or written. Errors: UNSUPPORTED (formats of weight and input that are no
 * row of algo.def; a KV cache quantized in part), SHAPE (a row that is no multiple of the block; rows that do not pair up). */
enum status quant_check(const struct quant_linear *l, size_t n, const struct quant_kv *kv, size_t nkv);
/* Give the members of each group with the same format their largest maxima, as the format's row says, and set weight_from, input_from.
 * Done before fake quantization and before packing alike; doing it twice changes nothing. Errors: MEMORY, NUMERIC (a maximum that is
 * negative, NaN or infinite; the message names module and value). */
enum status quant_share(struct quant_linear *l, size_t n);

/* A parameter of the model, as the hub names it. */
struct quant_param {
    const char *name;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
};

enum quant_pack_kind {
    PACK_PLAIN,       /* the parameter in the source type */
    PACK_WEIGHT,      /* codes, one row for each weight row */
    PACK_ROW_SCALE,   /* one scale for each weight row */
    PACK_BLOCK_SCALE, /* scales of the blocks of each weight row */
    PACK_TILE_SCALE,  /* scales of the tiles, known from the maxima */
    PACK_SCALAR       /* one number, known from the maxima */
};

/* One exported tensor. */
struct quant_tensor {
    char name[TENSOR_NAME_MAX];
    enum dtype dtype;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    enum quant_pack_kind kind;
    int param;                          /* the parameter whose rows it is made from; -1: known from the maxima */
    int64_t rows, row_elems, row_bytes; /* rows; fp32 values per row that go in; bytes per row that come out */
    int span;    /* parameter rows that go into a row: 1, or 2 where a byte holds codes of two rows */
    int linear;  /* of the pack's copy of the linears; -1 for plain parameters and caches */
    float value; /* PACK_SCALAR */
};

struct quant_pack {
    struct quant_tensor *tensors; /* by parameter, each followed by its scales; then the KV scales */
    size_t n, cap;
    struct quant_linear *linears; /* shared; names and maxima still borrowed */
    bool round_bf16;
};

/* `source`: the type of unquantized tensors, bf16 or f32; with bf16, weights are rounded to bf16 before they are quantized. Linears are
 * checked and shared here. Strings and maxima must outlive the pack. The caller frees with quant_pack_destroy.
 * Errors: of quant_check and quant_share; SHAPE (a linear without a parameter of its shape), UNSUPPORTED (source), MEMORY, INTERNAL (name too long). */
enum status quant_pack_create(const struct quant_param *params, size_t nparams, const struct quant_linear *linears,
                              size_t nlinears, const struct quant_kv *kv, size_t nkv, enum dtype source,
                              struct quant_pack **out);
void quant_pack_destroy(struct quant_pack **p);

/* Bytes of rows [row0, row0 + nrows) of tensor i into out[nrows * row_bytes], from `rows`, the fp32 values [nrows, row_elems] of its
 * parameter (its rows from row0 * span on; NULL when it has none). May be called by several threads. Errors: SHAPE (rows outside the tensor), NUMERIC (a weight or scale
 * that is NaN or infinite in the exported type; names tensor and row). */
enum status quant_pack_rows(const struct quant_pack *p, size_t i, int64_t row0, int64_t nrows, const float *rows,
                            void *out);
