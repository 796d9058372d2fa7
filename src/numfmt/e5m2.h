/* FP8 E5M2 (IEEE-like): 1 sign, 5 exponent (bias 15), 2 fraction bits; largest finite 57344, smallest 2^-16; infinity 0x7c, NaN above it.
 * Source: Micikevicius et al. 2022, "FP8 formats for deep learning", table 1. Rounding is to nearest, ties to even. */
#pragma once

#include "numfmt/bits.h"

#define E5M2_MAX 57344.0f
#define E5M2_MIN 1.52587890625e-05f /* 2^-16 */

/* The code of the nearest value; from 61440 (half a unit above the largest) on, infinity. NaN becomes 0x7f with its sign. */
TM_HD uint8_t e5m2_encode(float x) {
    float a = bits_abs(x);
    uint32_t u = bits_of(a), sign = (bits_of(x) >> 24) & 0x80u;
    uint32_t normal = ((u + 0xfffffu + ((u >> 21) & 1u)) >> 21) - ((127u - 15u) << 2);
    uint32_t code = a < 6.103515625e-05f ? (uint32_t)(bits_round(a, E5M2_MIN) * 65536.0f) /* below 2^-14 */
                    : a >= 61440.0f      ? 0x7cu
                                         : normal;
    return (uint8_t)(x == x ? sign | code : sign | 0x7fu);
}
/* The same, but no infinities: larger magnitudes become 57344. */
TM_HD uint8_t e5m2_encode_sat(float x) { return e5m2_encode(bits_abs(x) > E5M2_MAX ? bits_sign(E5M2_MAX, x) : x); }
TM_HD float e5m2_decode(uint8_t code) {
    uint32_t exponent = (code >> 2) & 31u, fraction = code & 3u;
    float a = exponent ? bits_float(((exponent + 112u) << 23) | (fraction << 21)) : (float)fraction * E5M2_MIN;
    if (exponent == 31u) a = bits_float(fraction ? 0x7fc00000u : 0x7f800000u);
    return bits_float(bits_of(a) | (uint32_t)(code & 0x80u) << 24);
}
