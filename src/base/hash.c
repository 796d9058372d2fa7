/* XXH3-64 hashes. */
#include "base/hash.h"

#define XXH_INLINE_ALL /* header-only: element hashes are called a billion times */
#include <xxhash.h>

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed) { return XXH3_64bits_withSeed(bytes, n, seed); }

uint64_t hash_element(uint64_t name_hash, uint64_t index, uint64_t bits) {
    uint64_t key[3] = {name_hash, index, bits};
    return XXH3_64bits(key, sizeof key);
}
