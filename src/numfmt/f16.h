/* IEEE half precision (binary16): conversion from and to fp32. */
#pragma once

#include <stdint.h>
#include <string.h>

/* Exact for every code; a NaN keeps its sign and the upper bits of its payload. */
static inline float f16_to_f32(uint16_t code) {
    uint32_t sign = (uint32_t)(code & 0x8000) << 16, exponent = code >> 10 & 31, fraction = code & 1023, bits;
    float x = (float)fraction * 0x1p-24f; /* subnormals: multiples of 2^-24 */
    memcpy(&bits, &x, sizeof bits);
    if (exponent == 31)
        bits = 0x7f800000 | fraction << 13;
    else if (exponent > 0)
        bits = (exponent + 112) << 23 | fraction << 13;
    bits |= sign;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Round to nearest, ties to even; 65520 and above become Inf, a NaN becomes a quiet NaN. */
static inline uint16_t f16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, a = bits & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x1ff));
    if (a >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) { /* below 2^-14: one ulp of 0.5 is 2^-24, so this sum rounds to the subnormal grid */
        float y;
        memcpy(&y, &a, sizeof y);
        y += 0.5f;
        memcpy(&a, &y, sizeof a);
        return (uint16_t)(sign | (a - 0x3f000000));
    }
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000) >> 13);
}
