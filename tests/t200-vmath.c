/* TEST ranks=1 tier=1 */
/* base/vmath.h against the C library's fp64 functions over all exponents and both signs: error in units of the last place. */
#include "base/vmath.h"
#include "tap.h"

/* Distance of adjacent floats at `r`, denormals included. */
static double ulp_at(float r) {
    int e;
    float a = fabsf(r);
    if (a < 1.17549435e-38f) return ldexp(1, -149);
    frexpf(a, &e);
    return ldexp(1, e - 24);
}

static void sweep(const char *name, float (*f)(float), double (*ref)(double), uint64_t step, double bound) {
    double worst = 0;
    float at = 0;
    int wrong = 0;
    for (uint64_t i = 0; i < UINT64_C(1) << 32; i += step) {
        float x = vmath_from_bits((uint32_t)i), y = f(x);
        double w = ref((double)x);
        float rounded = (float)w;
        if (isnan(x) || isnan(w)) {
            wrong += !isnan(y);
        } else if (isinf(rounded) || isinf(y)) {
            wrong += y != rounded;
        } else {
            double e = fabs((double)y - w) / ulp_at(rounded);
            if (e > worst) worst = e, at = x;
        }
    }
    ok(worst <= bound, "%s: %.4f ulp at %a, at most %.3f", name, worst, (double)at, bound);
    is_int(wrong, 0, "infinities and NaN where the C library has them");
}

static float f_exp(float x) { return vmath_exp(x); }
static float f_log(float x) { return vmath_log(x); }
static float f_tanh(float x) { return vmath_tanh(x); }
static float f_erf(float x) { return vmath_erf(x); }

int main(void) {
    sweep("exp", f_exp, exp, 1009, 1.0);
    sweep("log", f_log, log, 1009, 0.501);
    sweep("tanh", f_tanh, tanh, 1009, 0.501);
    sweep("erf", f_erf, erf, 1009, 0.501);
    double worst = 0;
    for (float x = -104; x < 89; x += 1.0f / 8192) { /* the range that matters, densely */
        double w = exp((double)x), e = fabs((double)vmath_exp(x) - w) / ulp_at((float)w);
        if (e > worst && w < 3.4e38) worst = e;
    }
    ok(worst <= 1.0, "exp on [-104, 89): %.4f ulp", worst);
    ok(vmath_exp(0.0f) == 1.0f && vmath_exp(-0.0f) == 1.0f, "exp(0) is exactly 1");
    ok(signbit(vmath_tanh(-0.0f)) && signbit(vmath_erf(-0.0f)), "odd functions keep the sign of zero");
    ok(vmath_exp(-INFINITY) == 0 && vmath_exp(INFINITY) == INFINITY && vmath_log(0) == -INFINITY, "limits");
    ok(vmath_log(1.0f) == 0 && isnan(vmath_log(-1.0f)) && vmath_erf(INFINITY) == 1 && vmath_tanh(-INFINITY) == -1,
       "more limits");
    double wide = 0;
    for (float x = 0x1p-149f; x < INFINITY; x *= 1.0009f) {
        double w = log((double)x), e = fabs(vmath_log_wide(x) - w) / fmax(fabs(w), 1e-30);
        if (e > wide && x != 1.0f) wide = e;
        x += 0x1p-149f;
    }
    ok(wide < 1e-13, "log_wide: relative error %.2g", wide);
    /* Known bits, so that a compiler that contracts or reorders is found out. Origin: this code, gcc 12, baseline x86-64. */
    uint32_t sum = 0;
    for (int i = 0; i < 100000; i++) {
        float x = (float)(i - 50000) * 0.0017f;
        sum = sum * 31 + (vmath_bits(vmath_exp(x)) ^ vmath_bits(vmath_tanh(x)) ^ vmath_bits(vmath_erf(x)));
        sum = sum * 31 + vmath_bits(vmath_log((float)(i + 1)));
    }
    is_int(sum, 0x687005d5, "known bits");
    return tap_done();
}
