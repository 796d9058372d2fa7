/* FP4 E2M1: 1 sign, 2 exponent, 1 fraction bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6 for codes 0..7; bit 3 is the sign.
 * Source: OCP Microscaling Formats v1.0, table 5. Two roundings, both to nearest and saturating at 6: NVFP4's takes ties to even codes,
 * MXFP4's (as ModelOpt exports it) takes ties to the smaller magnitude. */
#pragma once

#include "numfmt/bits.h"

#define E2M1_MAX 6.0f

/* The nearest E2M1 magnitude of a >= 0; NaN gives 6 (as the searching quantizers of the field do). */
TM_HD float e2m1_round_abs(float a) {
    float clipped = a < E2M1_MAX ? a : E2M1_MAX;
    return bits_round(clipped, clipped < 2.0f ? 0.5f : clipped < 4.0f ? 1.0f : 2.0f);
}
/* The value with its sign: a negative number that rounds to zero gives -0 (code 8), -0 itself gives +0 (code 0). */
TM_HD float e2m1_round(float x) {
    float r = e2m1_round_abs(bits_abs(x));
    return x < 0.0f ? -r : r;
}
/* NVFP4's code: the sign bit is x < 0, so -0 gives 0 and -0.1 gives 8. NaN gives 7. */
TM_HD uint8_t e2m1_encode(float x) {
    float r = e2m1_round_abs(bits_abs(x));
    int code = (int)(r < 2.0f ? 2.0f * r : r < 4.0f ? r + 2.0f : 0.5f * r + 4.0f);
    return (uint8_t)(code | (x < 0.0f ? 8 : 0));
}
TM_HD float e2m1_decode(uint8_t code) {
    int m = code & 7;
    float a = m < 4 ? 0.5f * (float)m : m < 6 ? (float)(m - 2) : (float)(2 * (m - 4));
    return code & 8 ? -a : a;
}

/* MXFP4: the nearest magnitude, ties to the smaller one; NaN gives 0. Three steps of 0.5 and so on: a sum of comparisons. */
TM_HD float e2m1_down_abs(float a) {
    float small = 0.5f * (float)((a > 0.25f) + (a > 0.75f) + (a > 1.25f) + (a > 1.75f));
    return small + (float)((a > 2.5f) + (a > 3.5f)) + (a > 5.0f ? 2.0f : 0.0f);
}
/* With MXFP4's sign, x <= 0: both zeros give -0. */
TM_HD float e2m1_down(float x) {
    float r = e2m1_down_abs(bits_abs(x));
    return x <= 0.0f ? -r : r;
}
/* MXFP4's code: both zeros give 8. */
TM_HD uint8_t e2m1_encode_down(float x) {
    float a = bits_abs(x);
    int code = (a > 0.25f) + (a > 0.75f) + (a > 1.25f) + (a > 1.75f) + (a > 2.5f) + (a > 3.5f) + (a > 5.0f);
    return (uint8_t)(code | (x <= 0.0f ? 8 : 0));
}
