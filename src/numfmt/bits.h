/* What every number format is built from: the bits of a float and rounding to an integer, for C, C++ and device code alike. */
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define TM_HD static __host__ __device__ inline
#else
#define TM_HD static inline
#endif

TM_HD uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
TM_HD float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
TM_HD float bits_abs(float x) { return bits_float(bits_of(x) & 0x7fffffffu); }
/* The magnitude as an integer, for maxima: non-negative floats order as their bits do. NaN gives 0: it is passed over. */
TM_HD int32_t bits_magnitude(float x) {
    int32_t u = (int32_t)(bits_of(x) & 0x7fffffffu);
    return u > 0x7f800000 ? 0 : u;
}
/* |magnitude| with the sign bit of `sign`. */
TM_HD float bits_sign(float magnitude, float sign) {
    return bits_float((bits_of(magnitude) & 0x7fffffffu) | (bits_of(sign) & 0x80000000u));
}

/* Round to a multiple of `step`, a power of two, ties to even multiples, for |x| <= 2^22 step: the sum has no bits below `step` left.
 * Needs plain fp32 addition (no fast-math). The sign of a zero result is +. */
TM_HD float bits_round(float x, float step) {
    float shift = 12582912.0f * step; /* 1.5 * 2^23 */
    return (x + shift) - shift;
}
