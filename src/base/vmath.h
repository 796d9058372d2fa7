/* exp, log, tanh and erf of floats from plain IEEE additions, multiplications and divisions: the same bits on every
 * instruction set and compiler, which the C library does not promise. Branch-free, so that a loop over them vectorises.
 * Needs -ffp-contract=off and round to nearest. exp is fp32 throughout; the rarer ones are rounded once from fp64.
 * Bounds (tests/t201): exp 1 ulp over all floats, log, tanh and erf 0.501 ulp, denormals included. Infinities and NaN as in C. */
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define VMATH_FN static __device__ __forceinline__
#else
#define VMATH_FN static inline __attribute__((always_inline))
#endif

VMATH_FN uint32_t vmath_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
VMATH_FN float vmath_from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
VMATH_FN double vmath_double_from_bits(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* e^x: x = n ln2 + r, |r| <= ln2 / 2, polynomial of Cephes' expf (Moshier); 2^n in two factors, so that results below the normal
 * range are rounded once. */
VMATH_FN float vmath_exp(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    float c = x > 89.0f ? 89.0f : x; /* beyond: infinity and 0 come out of the scaling; NaN passes */
    c = c < -104.0f ? -104.0f : c;
    float t = c * 1.44269504088896341f + magic;
    float n = t - magic;
    int32_t k = (int32_t)(vmath_bits(t) - 0x4b400000u), h = k >> 1;
    float r = (c - n * 0.693359375f) - n * -2.12194440e-4f; /* the first product is exact */
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    return p * vmath_from_bits((uint32_t)(h + 127) << 23) * vmath_from_bits((uint32_t)(k - h + 127) << 23);
}

/* e^x in fp64 for |x| <= 700, relative error below 1e-14 (Taylor after the same reduction). */
VMATH_FN double vmath_exp_wide(double x) {
    const double magic = 6755399441055744.0; /* 1.5 * 2^52 */
    double t = x * 1.4426950408889634074 + magic, n = t - magic;
    double r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
    uint64_t u;
    memcpy(&u, &t, sizeof u);
    double p = 1.0 / 479001600;
    p = p * r + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = (p * (r * r) + r) + 1.0;
    return p * vmath_double_from_bits((u - 0x4338000000000000u + 1023) << 52);
}

/* Natural logarithm of a float in fp64, relative error below 1e-13: x = 2^e m, m in [0.707, 1.414], the atanh series. */
VMATH_FN double vmath_log_wide(float x) {
    int tiny = x < 1.17549435e-38f;
    uint32_t u = vmath_bits(tiny ? x * 8388608.0f : x); /* denormals: times 2^23 */
    int32_t e = (int32_t)(u - 0x3f3504f3u) >> 23;       /* 0x3f3504f3: sqrt(1/2) */
    double m = (double)vmath_from_bits(u - ((uint32_t)e << 23));
    double s = (m - 1) / (m + 1), z = s * s, p = 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    double y = (double)(e - (tiny ? 23 : 0)) * 0.693147180559945309417 + 2 * (p * z * s + s);
    y = x > 3.40282347e38f ? (double)x : y;
    y = x == 0 ? -(double)__builtin_inff() : y;
    return x >= 0 ? y : (double)__builtin_nanf("");
}
VMATH_FN float vmath_log(float x) { return (float)vmath_log_wide(x); }

/* tanh: its series near 0, else (e^2a - 1) / (e^2a + 1). */
VMATH_FN float vmath_tanh(float x) {
    double a = (double)x, z = a * a;
    double small = a * (1 + z * (-1.0 / 3 + z * (2.0 / 15 + z * (-17.0 / 315))));
    double c = a > 20 ? 20 : a < -20 ? -20 : a;
    double e = vmath_exp_wide(2 * c), big = (e - 1) / (e + 1);
    return (float)(z < 0.0036 ? small : big);
}

/* erf: its Maclaurin series for |x| < 1, else 1 - e^(-x^2) P(1 / (1 + |x|/2)), P a Chebyshev fit of erfc(x) e^(x^2) (error 3e-13). */
VMATH_FN float vmath_erf(float x) {
    double a = (double)x, z = a * a;
    double s = -1.0 / (1307674368000.0 * 31); /* (-1)^n / (n! (2n + 1)), n = 15 .. 0 */
    s = s * z + 1.0 / (87178291200.0 * 29);
    s = s * z - 1.0 / (6227020800.0 * 27);
    s = s * z + 1.0 / (479001600.0 * 25);
    s = s * z - 1.0 / (39916800.0 * 23);
    s = s * z + 1.0 / (3628800.0 * 21);
    s = s * z - 1.0 / (362880.0 * 19);
    s = s * z + 1.0 / (40320.0 * 17);
    s = s * z - 1.0 / (5040.0 * 15);
    s = s * z + 1.0 / (720.0 * 13);
    s = s * z - 1.0 / (120.0 * 11);
    s = s * z + 1.0 / (24.0 * 9);
    s = s * z - 1.0 / (6.0 * 7);
    s = s * z + 1.0 / (2.0 * 5);
    s = s * z - 1.0 / 3;
    double small = a * (z * s + 1) * 1.12837916709551257390;
    double b = a < 0 ? -a : a;
    b = b > 4 ? 4 : b; /* erf(4) = 1 - 1.5e-8 rounds to 1 */
    double t = 1 / (1 + 0.5 * b), p = 0.0253793910468340771;
    p = p * t - 0.211519383193097455;
    p = p * t + 0.677486470766408548;
    p = p * t - 1.06140974238657661;
    p = p * t + 0.806161672943448482;
    p = p * t - 0.346553641029782834;
    p = p * t + 0.332249848097823553;
    p = p * t + 0.208367361005342865;
    p = p * t + 0.288300864212931128;
    p = p * t + 0.281502408206977443;
    p = p * t + 0.0000254169840902160708;
    double big = 1 - vmath_exp_wide(-b * b) * p;
    big = a < 0 ? -big : big;
    return (float)(z > 1 ? big : a == a ? small : a);
}
