/* The table of quantized formats. */
#include "quant/format.h"

#include <string.h>

#include "numfmt/scale.h"

static const struct quant_format_info table[QUANT_FORMATS] = {
    [QUANT_NONE] = {.name = "none", .bits = 16, .dtype = DTYPE_bf16, .per_byte = 1},
#define FORMAT(name, bits, block, dtype, per, axis, sdtype, levels, sw, si, wk, ik, algo, wo, groups, num, strategy,   \
               kv)                                                                                                     \
    [QUANT_##                                                                                                          \
        name] = {#name, bits,   block, DTYPE_##dtype, per, QUANT_##axis, DTYPE_##sdtype, levels, sw, si, wk, ik, algo, \
                 wo,    groups, num,   strategy,      kv},
#include "quant/format.def"
#undef FORMAT
};

const struct quant_format_info *quant_format(enum quant_format f) { return &table[f]; }

bool quant_format_find(const char *name, enum quant_format *out) {
    for (int i = 0; i < QUANT_FORMATS; i++)
        if (!strcmp(table[i].name, name)) {
            *out = (enum quant_format)i;
            return true;
        }
    return false;
}

float quant_scale(enum quant_format f, float amax) {
    static float (*const rules[QUANT_FORMATS])(
        float) = {[QUANT_fp8] = scale_fp8, [QUANT_int8] = scale_int8, [QUANT_nvfp4] = scale_nvfp4_tensor};
    return rules[f] ? rules[f](amax) : 1.0f;
}

double quant_bits_per_weight(enum quant_format f, int64_t rows, int64_t cols) {
    const struct quant_format_info *i = &table[f];
    double n = (double)rows * (double)cols, bits = i->bits * n;
    if (f == QUANT_NONE) return i->bits;
    double scales = i->axis == QUANT_BLOCK ? n / i->block : i->axis == QUANT_ROW ? (double)rows : 1.0;
    bits += scales * 8.0 * (double)dtype_bytes(i->scale_dtype) + (i->levels > 1 ? 32.0 : 0.0);
    return n > 0 ? bits / n : i->bits;
}
