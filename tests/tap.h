/* TAP output for one test program: ok(), is_*() and a plan at the end. Under MPI only rank 0 prints; see tap_mpi.h. */
#pragma once

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

static int tap_count_, tap_failed_, tap_quiet_;

/* One assertion; the text says what holds when it passes. Returns `pass`. */
static inline bool tap_ok(bool pass, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static inline bool tap_ok(bool pass, const char *file, int line, const char *fmt, ...) {
    char text[1024];
    __builtin_va_list ap;
    __builtin_va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    __builtin_va_end(ap);
    tap_count_++;
    tap_failed_ += !pass;
    if (!tap_quiet_) printf("%s %d - %s\n", pass ? "ok" : "not ok", tap_count_, text);
    if (!pass)
        fprintf(stderr, "#   failed at %s:%d: %s%s%s\n", file, line, text, *status_message() ? " | " : "",
                status_message());
    return pass;
}
#define ok(pass, ...) tap_ok((pass), __FILE__, __LINE__, __VA_ARGS__)

/* Equality of integers, strings, bits; a value within a relative bound. */
#define is_int(got, want, what)                                               \
    do {                                                                      \
        int64_t g_ = (int64_t)(got), w_ = (int64_t)(want);                    \
        ok(g_ == w_, "%s (got %" PRId64 ", want %" PRId64 ")", what, g_, w_); \
    } while (0)
#define is_str(got, want, what) ok(!strcmp((got), (want)), "%s (got \"%s\", want \"%s\")", what, (got), (want))
#define is_near(got, want, rel, what)                                                                \
    do {                                                                                             \
        double g_ = (got), w_ = (want);                                                              \
        ok(fabs(g_ - w_) <= (rel)*fmax(fabs(w_), 1e-300), "%s (got %.9g, want %.9g)", what, g_, w_); \
    } while (0)
/* The call returned this status; on failure its message is shown. */
#define is_status(expr, want)                                                             \
    do {                                                                                  \
        enum status s_ = (expr);                                                          \
        ok(s_ == (want), "%s is %s (got %s)", #expr, status_name(want), status_name(s_)); \
    } while (0)
#define must(expr)                                               \
    do {                                                         \
        if (!ok((expr) == TM_OK, "%s", #expr)) exit(tap_done()); \
    } while (0)

/* Skip the whole program (before any assertion). */
static inline int tap_skip_all(const char *why) {
    if (!tap_quiet_) printf("1..0 # SKIP %s\n", why);
    return 0;
}

static inline int tap_done(void) {
    if (!tap_quiet_) printf("1..%d\n", tap_count_);
    return tap_failed_ ? 1 : 0;
}

/* sum((x - ref)^2) / sum(ref^2) in fp64. */
static inline double tap_nmse(const float *x, const float *ref, size_t n) {
    double num = 0, den = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)ref[i];
        num += d * d;
        den += (double)ref[i] * (double)ref[i];
    }
    return den > 0 ? num / den : num;
}
