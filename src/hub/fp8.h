/* The scales of FP8 weights as engines store them beside their E4M3 codes: of a tensor, of rows, or of 128 x 128 tiles. */
#pragma once

#include "hub/safetensors.h"

enum { HUB_FP8_TILE = 128 };

/* Element (r, c) of the weight is its code times scale[r / rows * ld + c / cols]. */
struct hub_fp8 {
    float *scale; /* [n] */
    int64_t n, rows, cols, ld;
};

/* Read the scales of an F8_E4M3 weight [rows, cols] named "<module>.weight": "<module>.weight_scale" (ModelOpt, compressed-tensors) or
 * "<module>.weight_scale_inv" (DeepSeek, Qwen) with one element, one for each row, or one for each tile; axes of one element are passed over. The caller frees
 * with hub_fp8_free. Local. Errors: FORMAT (no such tensor), SHAPE (another number of scales), NUMERIC (a scale that is not finite and positive),
 * those of hub_read_box. */
enum status hub_fp8_read(const struct hub_model *m, const struct hub_entry *weight, struct hub_fp8 *out);
void hub_fp8_free(struct hub_fp8 *f);
/* x[rows, cols], the values of codes of a box of the weight that begins at (row0, col0), times their scales. */
void hub_fp8_apply(const struct hub_fp8 *f, int64_t row0, int64_t rows, int64_t col0, int64_t cols, float *x);
/* One scale beside a weight: "<module>.<suffix>". *found false and *out untouched where there is none. Errors as above. */
enum status hub_fp8_scalar(const struct hub_model *m, const char *module, const char *suffix, bool *found, float *out);
