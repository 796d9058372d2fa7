/* The quantizers that an FP8 checkpoint comes with. */
#pragma once

#include "hub/safetensors.h"
#include "quant/quantizer.h"

/* From the tensors of h, whose weights m holds decoded: linears with F8_E4M3 codes are fp8 (an input_scale beside them), fp8_row or fp8_tile; k_scale and
 * v_scale (or kv_cache_scheme in config.json, without them) are an FP8 cache. Maxima are those that give the stored scales, to one unit in the
 * last place where a scale is no maximum / 448; encoding the decoded weights again gives the stored codes. *out is NULL where nothing has codes.
 * The caller destroys it before the model. Local. Errors: those of hub_fp8_read and quant_model_create; FORMAT (one scale for all of a weight, and
 * none for its input), NUMERIC (a scale whose maximum is no fp32). */
enum status quant_model_load(struct model *m, const struct hub_model *h, struct quant_model **out);
