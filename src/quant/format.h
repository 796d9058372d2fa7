/* The quantized formats (format.def), their look-up by name, and which of them go together (algo.def). */
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

enum quant_axis { QUANT_TENSOR, QUANT_ROW, QUANT_TILE, QUANT_BLOCK };
enum quant_per_byte { QUANT_ONE, QUANT_COLUMNS, QUANT_ROWS };
enum quant_inputs { QUANT_STATIC, QUANT_DYNAMIC, QUANT_CONSTANT };

struct quant_format_info {
    const char *name;
    int bits, block;
    enum dtype dtype; /* of the exported weight */
    enum quant_per_byte per_byte;
    enum quant_axis axis;
    enum dtype scale_dtype;
    int levels;
    bool shared_weight, shared_input;
    enum fq_kind weight_kind, input_kind;
    enum quant_inputs inputs;
    const char *number, *kv_algo, *doc;
};

/* The row of a format; that of QUANT_NONE has the name "none", 16 bits and nothing else. */
const struct quant_format_info *quant_format(enum quant_format f);
/* By name ("none" too); false when unknown. */
bool quant_format_find(const char *name, enum quant_format *out);
/* The fp32 scale of a maximum: of a tensor, row, tile or (int4) block, or (nvfp4) the second level; see numfmt/scale.h. 1 for the formats
 * whose blocks have E8M0 scales, and for QUANT_NONE. */
float quant_scale(enum quant_format f, float amax);
/* Whether a format on the input (or cache) site has a maximum that calibration measures. */
bool quant_measures_input(enum quant_format f);
/* Elements of a [rows, cols] weight with a scale of their own, along both axes; whole rows and tensors as they are. */
void quant_block_shape(enum quant_format f, int64_t rows, int64_t cols, int64_t *block_rows, int64_t *block_cols);
/* How many maxima of rows or tiles a [rows, cols] weight has; 0 for the formats that keep one of the tensor, or none. */
int64_t quant_maxima(enum quant_format f, int64_t rows, int64_t cols);
/* Stored bits per weight, scales included, of a [rows, cols] weight (bf16 when not quantized). */
double quant_bits_per_weight(enum quant_format f, int64_t rows, int64_t cols);

enum quant_groups { QUANT_NEVER, QUANT_MIXED, QUANT_ALWAYS };

struct quant_algo {
    enum quant_format weight, input;
    const char *name; /* ModelOpt's quant_algo */
    enum quant_groups groups;
    bool group_size, awq;
};

/* The row of a pair of formats; NULL: it has no export form. */
const struct quant_algo *quant_algo(enum quant_format weight, enum quant_format input);
/* The rows one by one; NULL behind the last. */
const struct quant_algo *quant_algo_at(int i);
