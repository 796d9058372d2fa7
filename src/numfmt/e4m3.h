/* FP8 E4M3 (the "fn" variant: no infinity, NaN = 0x7f and 0xff): 1 sign, 4 exponent (bias 7), 3 fraction bits; largest 448, smallest 2^-9.
 * Source: Micikevicius et al. 2022, "FP8 formats for deep learning", table 1. Rounding is to nearest, ties to even, and saturates
 * (infinity too becomes 448), as PyTorch's and CUDA's saturating casts do. */
#pragma once

#include "numfmt/bits.h"

#define E4M3_MAX 448.0f
#define E4M3_MIN 0.001953125f /* 2^-9, the smallest above zero */

/* The nearest E4M3 value as an fp32; keeps the sign of zero; NaN stays NaN. */
TM_HD float e4m3_round(float x) {
    float a = bits_abs(x), clipped = a > E4M3_MAX ? E4M3_MAX : a;
    uint32_t u = bits_of(clipped);
    float normal = bits_float((u + 0x7ffffu + ((u >> 20) & 1u)) & 0xfff00000u);
    float r = clipped < 0.015625f ? bits_round(clipped, E4M3_MIN) : normal; /* below 2^-6 the step is constant */
    return x == x ? bits_sign(r, x) : x;
}
TM_HD uint8_t e4m3_encode(float x) {
    float r = e4m3_round(x), a = bits_abs(r);
    uint32_t u = bits_of(r), sign = (u >> 24) & 0x80u;
    uint32_t normal = (((u & 0x7fffffffu) >> 20) - ((127u - 7u) << 3)) & 0x7fu;
    uint32_t code = a < 0.015625f ? (uint32_t)(a * 512.0f) : normal;
    return (uint8_t)(x == x ? sign | code : 0x7fu | sign);
}
TM_HD float e4m3_decode(uint8_t code) {
    uint32_t exponent = (code >> 3) & 15u, fraction = code & 7u;
    float a = exponent ? bits_float(((exponent + 120u) << 23) | (fraction << 20)) : (float)fraction * E4M3_MIN;
    if ((code & 0x7fu) == 0x7fu) a = bits_float(0x7fc00000u);
    return bits_float(bits_of(a) | (uint32_t)(code & 0x80u) << 24);
}
