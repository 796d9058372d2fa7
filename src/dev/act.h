/* Activations without a gate and their slopes: one definition for the kernels of host and device, so that they have the same bits.
 * relu2 is max(0, x)^2 (So et al. 2021, Primer); gelu x Phi(x), with the error function or with tanh (Hendrycks & Gimpel 2016). NaN passes. */
#pragma once

#include "base/vmath.h"

VMATH_FN float act_relu2(float x) {
    float r = x < 0 ? 0 : x;
    return r * r;
}
VMATH_FN float act_relu2_slope(float x) { return x < 0 ? 0 : 2 * x; }

VMATH_FN float act_normal_cdf(float x) { return 0.5f * (1.0f + vmath_erf(x * 0.707106781186547524f)); }
VMATH_FN float act_gelu(float x) { return x * act_normal_cdf(x); }
VMATH_FN float act_gelu_slope(float x) {
    return act_normal_cdf(x) + x * (0.398942280401432678f * vmath_exp(-0.5f * x * x));
}

/* tanh(sqrt(2 / pi) (x + 0.044715 x^3)) */
VMATH_FN float act_gelu_bend(float x) { return vmath_tanh(0.797884560802865356f * (x + 0.044715f * x * x * x)); }
VMATH_FN float act_gelu_tanh(float x) { return 0.5f * x * (1.0f + act_gelu_bend(x)); }
VMATH_FN float act_gelu_tanh_slope(float x) {
    float t = act_gelu_bend(x), inner = 0.797884560802865356f * (1.0f + 0.134145f * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
}
