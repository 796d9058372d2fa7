/* Checked arithmetic for sizes that come from files and decks: every function returns false on overflow. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool size_mul_i64(int64_t a, int64_t b, int64_t *out) {
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out);
}
/* Round up to a multiple of `align` (a power of two). */
static inline size_t size_align(size_t n, size_t align) { return (n + align - 1) & ~(align - 1); }
static inline int64_t size_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t size_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t size_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t size_gcd(int64_t a, int64_t b) {
    while (b) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}
