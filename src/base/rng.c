/* Philox4x32-10 and the distributions made from it. */
#include "base/rng.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"

__extension__ typedef unsigned __int128 u128;

void rng_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    /* the stream fills the upper half of the counter, the seed is the key */
    uint32_t c[4] = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t n[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a};
        memcpy(c, n, sizeof n);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

uint64_t rng_stream(const char *name) { return hash_bytes(name, strlen(name), 0); }

uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t r[4];
    rng_philox(seed, stream, index, r);
    return (uint64_t)r[1] << 32 | r[0];
}

float rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t r[4];
    rng_philox(seed, stream, index, r);
    return (float)(r[0] >> 8) * 0x1p-24f;
}

uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n) {
    return (uint64_t)((u128)rng_u64(seed, stream, index) * n >> 64);
}

float rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t r[4];
    rng_philox(seed, stream, index, r);
    double u = ((double)r[0] + 1.0) * 0x1p-32, v = (double)r[1] * 0x1p-32;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}
