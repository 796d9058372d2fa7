/* The JSON that tells inference engines how an export is quantized. All functions are Local. */
#pragma once

#include "base/json.h"
#include "quant/pack.h"

/* hf_quant_config.json of these linears (and embeddings) in the model's order, and of the KV caches; keys in ModelOpt's order. One
 * format: its quant_algo and exclude_modules; several: MIXED_PRECISION and quantized_layers. The caller frees with json_decref.
 * Errors: of quant_check; MEMORY. */
enum status quant_config(const struct quant_linear *l, size_t n, const struct quant_kv *kv, size_t nkv,
                         const char *producer, const char *version, json_t **out);
/* The "quantization_config" of config.json from hf_quant_config.json's object. The caller frees with json_decref. Errors: MEMORY. */
enum status quant_config_hf(const json_t *hf_quant, json_t **out);
