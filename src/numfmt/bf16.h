/* bfloat16: 1 sign, 8 exponent, 7 fraction bits: the upper half of an fp32, rounded to nearest, ties to even. */
#pragma once

#include "numfmt/bits.h"

/* The nearest bf16 as an fp32. Magnitudes above the largest finite bf16 by half a unit or more become infinity; NaN stays NaN. */
TM_HD float bf16_round(float x) {
    uint32_t u = bits_of(x), r = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
    return x == x ? bits_float(r) : x;
}
/* Stochastic rounding: away from zero with the probability that the bits below are of a unit, so that the mean is x (Gupta et al., ICML 2015). The
 * upper 16 bits of `random` count. Infinities and NaN stay. */
TM_HD float bf16_round_stochastic(float x, uint32_t random) {
    uint32_t u = bits_of(x), r = (u + (random >> 16)) & 0xffff0000u;
    return (u & 0x7f800000u) == 0x7f800000u ? x : bits_float(r);
}
/* One more number of a hash: random bits that depend on values alone (the multipliers are MurmurHash3's). */
TM_HD uint32_t bf16_hash(uint32_t h, float x) {
    h = (h ^ bits_of(x)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return h ^ (h >> 16);
}
/* The code; every NaN becomes 0x7fc0, as PyTorch's cast does. */
TM_HD uint16_t bf16_encode(float x) { return x == x ? (uint16_t)(bits_of(bf16_round(x)) >> 16) : (uint16_t)0x7fc0; }
TM_HD float bf16_decode(uint16_t code) { return bits_float((uint32_t)code << 16); }
/* The code that matrix instructions of a CPU (VCVTNE2PS2BF16) and their stand-ins make: denormals become zero, a NaN stays the one it is, quiet. */
TM_HD uint16_t bf16_encode_flushed(float x) {
    const uint32_t u = bits_of(x), round = (u + 0x7fffu + (u >> 16 & 1u)) >> 16, top = u >> 16;
    return (uint16_t)((u & 0x7f800000u) == 0 ? top & 0x8000u : (u & 0x7fffffffu) > 0x7f800000u ? top | 0x40u : round);
}
