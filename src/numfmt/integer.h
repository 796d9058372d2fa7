/* INT8 and INT4 codes: round to nearest, ties to even, then clamp to the full two's complement range (-128..127, -8..7). */
#pragma once

#include "numfmt/bits.h"

#define INT8_LARGEST 127.0f
#define INT4_LARGEST 7.0f

/* x is already divided by its scale. The bounds are integers, so clamping first gives the same. NaN stays NaN; zero is +0. */
TM_HD float integer_round(float x, float low, float high) {
    float c = x > high ? high : x;
    return bits_round(c < low ? low : c, 1.0f);
}
TM_HD float int8_round(float x) { return integer_round(x, -128.0f, 127.0f); }
TM_HD float int4_round(float x) { return integer_round(x, -8.0f, 7.0f); }
/* NaN has no code: 0. */
TM_HD int8_t int8_encode(float x) { return (int8_t)(x == x ? (int)int8_round(x) : 0); }
TM_HD int8_t int4_encode(float x) { return (int8_t)(x == x ? (int)int4_round(x) : 0); }
