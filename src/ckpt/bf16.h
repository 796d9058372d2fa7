/* bf16 beside f32 when tensors are stored narrow: round to nearest, ties to even; widening is exact. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* dst[n] bf16 <- src[n] f32 (any alignment). A NaN stays one (quiet, sign and upper payload kept). */
static inline void bf16_narrow(void *dst, const void *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, (const char *)src + 4 * i, 4);
        uint32_t nan = (u & 0x7fffffffu) > 0x7f800000u;
        uint16_t h = (uint16_t)(nan ? u >> 16 | 0x40u : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
        memcpy((char *)dst + 2 * i, &h, 2);
    }
}

/* dst[n] f32 <- src[n] bf16. */
static inline void bf16_widen(void *dst, const void *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, (const char *)src + 2 * i, 2);
        uint32_t u = (uint32_t)h << 16;
        memcpy((char *)dst + 4 * i, &u, 4);
    }
}
