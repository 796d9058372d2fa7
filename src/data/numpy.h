/* NumPy's legacy generator, RandomState(seed), bit for bit: raw words and the shuffle of an array. */
#pragma once

#include <stdint.h>

/* MT19937 (Matsumoto and Nishimura 1998) seeded by init_genrand, as RandomState(integer) does. All functions are Local. */
struct data_numpy {
    uint32_t word[624];
    int next;
};
void data_numpy_seed(struct data_numpy *g, uint32_t seed);
uint32_t data_numpy_u32(struct data_numpy *g);
/* RandomState.shuffle of x[n], n <= 2^32: from the last element on, each is swapped with one of those up to it, drawn by masked
 * rejection. An array of one or none draws nothing. */
void data_numpy_shuffle(struct data_numpy *g, uint32_t *x, int64_t n);
