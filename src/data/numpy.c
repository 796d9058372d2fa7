/* NumPy's legacy generator: MT19937 and the Fisher-Yates shuffle over it. */
#include "data/numpy.h"

enum { N = 624, M = 397 };

void data_numpy_seed(struct data_numpy *g, uint32_t seed) {
    g->word[0] = seed;
    for (uint32_t i = 1; i < N; i++) g->word[i] = 1812433253u * (g->word[i - 1] ^ g->word[i - 1] >> 30) + i;
    g->next = N;
}

static void refill(struct data_numpy *g) {
    uint32_t *w = g->word;
    for (int i = 0; i < N; i++) {
        uint32_t y = (w[i] & 0x80000000u) | (w[(i + 1) % N] & 0x7fffffffu);
        w[i] = w[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    g->next = 0;
}

uint32_t data_numpy_u32(struct data_numpy *g) {
    if (g->next == N) refill(g);
    uint32_t y = g->word[g->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* Uniform in [0, most], most >= 1. */
static uint32_t up_to(struct data_numpy *g, uint32_t most) {
    uint32_t mask = UINT32_MAX >> __builtin_clz(most), v;
    do v = data_numpy_u32(g) & mask;
    while (v > most);
    return v;
}

void data_numpy_shuffle(struct data_numpy *g, uint32_t *x, int64_t n) {
    for (int64_t i = n - 1; i > 0; i--) {
        uint32_t j = up_to(g, (uint32_t)i), t = x[i];
        x[i] = x[j];
        x[j] = t;
    }
}
