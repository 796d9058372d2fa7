/* The tables of quantized formats and of what goes together. */
#include "quant/format.h"

#include <string.h>

#include "base/size.h"
#include "numfmt/scale.h"

static const struct quant_format_info table[QUANT_FORMATS] = {
    [QUANT_NONE] = {.name = "none", .bits = 16, .dtype = DTYPE_bf16, .doc = "as it is"},
#define FORMAT(name, bits, block, dtype, per, axis, sdtype, levels, sw, si, wk, ik, inputs, number, kv, doc)   \
    [QUANT_##name] = {                                                                                         \
        #name, bits, block,          DTYPE_##dtype, QUANT_##per, QUANT_##axis, DTYPE_##sdtype, levels, sw, si, \
        wk,    ik,   QUANT_##inputs, number,        kv,          doc},
#include "quant/format.def"
#undef FORMAT
};

static const struct quant_algo algos[] = {
#define ALGO(weight, input, name, groups, group_size, awq) \
    {QUANT_##weight, QUANT_##input, name, QUANT_##groups, group_size, awq},
#include "quant/algo.def"
#undef ALGO
};
enum { ALGOS = sizeof algos / sizeof *algos };

const struct quant_format_info *quant_format(enum quant_format f) { return &table[f]; }

bool quant_format_find(const char *name, enum quant_format *out) {
    for (int i = 0; i < QUANT_FORMATS; i++)
        if (!strcmp(table[i].name, name)) {
            *out = (enum quant_format)i;
            return true;
        }
    return false;
}

const struct quant_algo *quant_algo_at(int i) { return i < ALGOS ? &algos[i] : NULL; }

const struct quant_algo *quant_algo(enum quant_format weight, enum quant_format input) {
    for (int i = 0; i < ALGOS; i++)
        if (algos[i].weight == weight && algos[i].input == input) return &algos[i];
    return NULL;
}

float quant_scale(enum quant_format f, float amax) {
    static float (*const rules[FQ_KINDS])(float) = {[FQ_FP8] = scale_fp8,
                                                    [FQ_FP8_BLOCK] = scale_fp8,
                                                    [FQ_INT8] = scale_int8,
                                                    [FQ_INT8_BLOCK] = scale_int8,
                                                    [FQ_INT4_BLOCK] = scale_int4,
                                                    [FQ_NVFP4] = scale_nvfp4_tensor,
                                                    [FQ_NVFP4_A8] = scale_nvfp4_a8_tensor};
    enum fq_kind k = table[f].weight_kind;
    return rules[k] ? rules[k](amax) : 1.0f;
}

bool quant_measures_input(enum quant_format f) { return f != QUANT_NONE && table[f].inputs == QUANT_STATIC; }

void quant_block_shape(enum quant_format f, int64_t rows, int64_t cols, int64_t *block_rows, int64_t *block_cols) {
    const struct quant_format_info *i = &table[f];
    *block_rows = i->axis == QUANT_TENSOR ? size_max(rows, 1) : i->axis == QUANT_TILE ? i->block : 1;
    *block_cols = i->block ? i->block : size_max(cols, 1);
}

int64_t quant_maxima(enum quant_format f, int64_t rows, int64_t cols) {
    int64_t block = table[f].block;
    if (table[f].axis == QUANT_ROW) return rows;
    return table[f].axis == QUANT_TILE ? size_ceil_div(rows, block) * size_ceil_div(cols, block) : 0;
}

double quant_bits_per_weight(enum quant_format f, int64_t rows, int64_t cols) {
    const struct quant_format_info *i = &table[f];
    double n = (double)rows * (double)cols, bits = i->bits * n;
    if (f == QUANT_NONE) return i->bits;
    double scales = i->axis == QUANT_BLOCK    ? n / i->block
                    : i->axis == QUANT_TENSOR ? 1.0
                                              : (double)quant_maxima(f, rows, cols);
    bits += scales * 8.0 * (double)dtype_bytes(i->scale_dtype) + (i->levels > 1 ? 32.0 : 0.0);
    return n > 0 ? bits / n : i->bits;
}
