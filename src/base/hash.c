/* XXH3-64 hashes. */
#include "base/hash.h"

#define XXH_INLINE_ALL /* header-only: element hashes are called a billion times */
#include <xxhash.h>

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed) { return XXH3_64bits_withSeed(bytes, n, seed); }

_Static_assert(sizeof(XXH3_state_t) <= sizeof(struct hash_stream), "hash_stream holds libxxhash's state");
void hash_begin(struct hash_stream *h, uint64_t seed) { XXH3_64bits_reset_withSeed((XXH3_state_t *)h->state, seed); }
void hash_add(struct hash_stream *h, const void *bytes, size_t n) {
    XXH3_64bits_update((XXH3_state_t *)h->state, bytes, n);
}
uint64_t hash_end(const struct hash_stream *h) { return XXH3_64bits_digest((const XXH3_state_t *)h->state); }

uint64_t hash_element(uint64_t name_hash, uint64_t index, uint64_t bits) {
    uint64_t key[3] = {name_hash, index, bits};
    return XXH3_64bits(key, sizeof key);
}
