/* Inside the quantizers of a model: what quantizer.c and fp8.c share. */
#pragma once

#include "quant/quantizer.h"

dptr quantizer_amax_at(const struct quant_model *q, int64_t i); /* of q->amax, on the device */
/* The blocks of a weight, as this rank's box sees them. A whole row is one block. */
struct block_grid quantizer_weight_grid(const struct quant_model *q, int j);
/* How the columns of a site's value are cut over the tensor group; NULL: not, or between heads. */
const struct tensor_axis *quantizer_site_axis(const struct quant_model *q, int site);
/* What fake_quant takes for weight j (its maxima are agreed upon where the tensor group cuts blocks: collective over it). */
enum status quantizer_fake_args(struct quant_model *q, int j, dptr y, struct fake_quant_args *a);
/* Copies of all quantized weights but those that have codes. Collective over the tensor group. */
enum status quantizer_fake_weights(struct quant_model *q);
/* fp8.c: whether the linears that read a site multiply codes in the mode QUANT_CODES: all of them do, or none. */
bool quantizer_by_codes(const struct quant_model *q, int site);
