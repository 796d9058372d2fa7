/* Counter-based random numbers (Philox4x32-10; Salmon et al., SC'11): a value depends on (seed, stream, index) alone, so it
 * is the same on every backend, grid and rank count. */
#pragma once

#include <stdint.h>

/* The four 32-bit outputs of counter (index) under key (seed, stream). */
void rng_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
/* A stream number from a name, e.g. a tensor's global name. */
uint64_t rng_stream(const char *name);
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, 1), 24 bits. */
float rng_uniform(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform integer in [0, n), n >= 1, by rejection-free 64-bit multiply (bias < n / 2^64). */
uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);
/* Standard normal by Box-Muller in fp64, rounded once to fp32. */
float rng_normal(uint64_t seed, uint64_t stream, uint64_t index);
