/* The scales of the quantized formats, and one element quantized and dequantized with its scale.
 *
 * The rules are those of the exported tensors of NVIDIA ModelOpt (0.47, on a CPU), for weights and activations alike. Divisions are IEEE
 * fp32: amax/448 computed in double and rounded is the same number (53 >= 2*24 + 2 bits). Where the peer writes a zero or NaN scale
 * (nothing but zeros to quantize, or a scale that underflows) ours is 1. A NaN or infinite amax gives a scale that is not finite:
 * whoever writes scales refuses it, and in training it reaches the step's guard. */
#pragma once

#include "numfmt/bf16.h"
#include "numfmt/e2m1.h"
#include "numfmt/e4m3.h"
#include "numfmt/e8m0.h"
#include "numfmt/integer.h"

TM_HD float scale_or_one(float s) { return s == 0.0f ? 1.0f : s; }
TM_HD float scale_fp8(float amax) { return scale_or_one(amax / E4M3_MAX); }
TM_HD float scale_int8(float amax) { return scale_or_one(amax / INT8_LARGEST); }
TM_HD float scale_int4(float amax) { return scale_or_one(amax / INT4_LARGEST); }

/* NVFP4, second level: one fp32 per tensor (or group of tensors that share it). */
TM_HD float scale_nvfp4_tensor(float amax) { return scale_or_one(amax / (E2M1_MAX * E4M3_MAX)); }
/* NVFP4 beside FP8 inputs: block scales reach 448/6 only, so that a decoded weight times its block scale stays inside E4M3. */
TM_HD float scale_nvfp4_a8_tensor(float amax) { return scale_fp8(amax); }
/* NVFP4, first level: the value (an E4M3) of a block's scale from the largest magnitude in the block. A block of zeros gets 1. */
TM_HD float scale_nvfp4_block(float block_amax, float tensor_scale) {
    float s = scale_or_one(block_amax / (E2M1_MAX * tensor_scale));
    s = s < E4M3_MIN ? E4M3_MIN : s;
    return e4m3_round(s); /* saturates at 448 */
}
/* What the elements of a block are divided by. The product underflows only where a block has nothing to say (then codes are 0). */
TM_HD float scale_nvfp4_step(float block_scale, float tensor_scale) { return scale_or_one(block_scale * tensor_scale); }

/* MX formats: the E8M0 code of a block's scale from the largest magnitude in the block; an infinite one gives the largest scale. A block of
 * zeros has the smallest, 2^-127, as the peer writes it. */
TM_HD uint8_t scale_mx(float block_amax, float largest) {
    uint8_t code = e8m0_encode_up(block_amax / largest);
    return code == 255 ? (uint8_t)254 : code;
}
TM_HD uint8_t scale_mxfp4(float block_amax) { return scale_mx(block_amax, E2M1_MAX); }
TM_HD uint8_t scale_mxfp8(float block_amax) { return scale_mx(block_amax, E4M3_MAX); }

/* What is encoded: w over its scale. FP8 with one scale of a bf16 weight: the quotient is rounded to bf16 before the cast, because the peer divides bf16
 * tensors by a scalar; activations, fp32 weights and scales of rows or blocks skip that. */
TM_HD float scale_divide_fp8(float x, float scale, int round_bf16) {
    float v = x / scale;
    return round_bf16 ? bf16_round(v) : v;
}

/* One element through its format: exactly what decoding the exported code and multiplying by the exported scale gives. NaN stays NaN. */
TM_HD float fake_fp8(float x, float scale, int round_bf16) {
    return e4m3_round(scale_divide_fp8(x, scale, round_bf16)) * scale;
}
TM_HD float fake_int8(float x, float scale) { return int8_round(x / scale) * scale; }
TM_HD float fake_int4(float x, float scale) { return int4_round(x / scale) * scale; }
TM_HD float fake_mxfp8(float x, float step) { return e4m3_round(x / step) * step; }
TM_HD float fake_mxfp4(float x, float step) {
    float y = e2m1_down(x / step) * step;
    return x == x ? y : x;
}
TM_HD float fake_nvfp4(float x, float step) {
    float y = e2m1_round(x / step) * step;
    return x == x ? y : x;
}
