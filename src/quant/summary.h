/* A table for people: what is quantized, how, and with which scales. */
#pragma once

#include "base/str.h"
#include "quant/pack.h"

/* Append one line per quantized site (module, site, format, amax, scale, where the maximum comes from) and a last line with the share of
 * quantized weights and the bits per weight. Linears are as quant_share left them; scales of rows or tiles show their range when their
 * maxima are given. Local. Errors: MEMORY. */
enum status quant_summary(const struct quant_linear *l, size_t n, const struct quant_kv *kv, size_t nkv,
                          struct str *out);
