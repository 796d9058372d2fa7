/* XXH3-64 hashes (libxxhash). */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed);
/* The same of bytes that come in pieces: begin, add them in order, end. Allocates nothing. */
struct hash_stream {
    _Alignas(64) unsigned char state[576]; /* of libxxhash */
};
void hash_begin(struct hash_stream *h, uint64_t seed);
void hash_add(struct hash_stream *h, const void *bytes, size_t n);
uint64_t hash_end(const struct hash_stream *h);
/* One term of the order-free content hash of a tensor set: hash(name, element index, bit pattern). Terms are added
 * modulo 2^64, so any partition of the elements over ranks and any order give the same sum. */
uint64_t hash_element(uint64_t name_hash, uint64_t index, uint64_t bits);
