/* The quantized formats (format.def) and their look-up by name. */
#pragma once

#include <stdbool.h>

#include "dev/ops.h"
#include "tensor/dtype.h"

enum quant_format {
    QUANT_NONE, /* not quantized */
#define FORMAT(name, ...) QUANT_##name,
#include "quant/format.def" // IWYU pragma: keep
#undef FORMAT
    QUANT_FORMATS
};

enum quant_axis { QUANT_TENSOR, QUANT_ROW, QUANT_BLOCK };

struct quant_format_info {
    const char *name;
    int bits, block;
    enum dtype dtype; /* of the exported weight */
    int per_byte;
    enum quant_axis axis;
    enum dtype scale_dtype;
    int levels;
    bool shared_weight, shared_input;
    enum fq_kind weight_kind, input_kind;
    const char *algo, *algo_weight_only;
    bool groups;
    const char *number, *strategy;
    const char *kv_algo;
};

/* The row of a format; that of QUANT_NONE has the name "none", 16 bits and nothing else. */
const struct quant_format_info *quant_format(enum quant_format f);
/* By name ("none" too); false when unknown. */
bool quant_format_find(const char *name, enum quant_format *out);
/* The fp32 scale of a maximum: of a tensor, of a row, or (nvfp4) the second level; see numfmt/scale.h. 1 for QUANT_NONE. */
float quant_scale(enum quant_format f, float amax);
/* Stored bits per weight, scales included, of a [rows, cols] weight (bf16 when not quantized). */
double quant_bits_per_weight(enum quant_format f, int64_t rows, int64_t cols);
