/* A large read-only array that is computed once and shared by the processes of a machine. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* With a directory: the array lies in a file of it that every process maps, so a machine holds it once, in its page cache, and
 * another start finds it again. Whoever comes first computes it under a lock of the file while the others wait; a trailer written
 * last says that it is whole, and for which key. Arrays below DATA_MAP_PRIVATE bytes, and all without a directory, are private memory. */
enum { DATA_MAP_PRIVATE = 1 << 22 };

struct data_map {
    void *bytes; /* read-only once made; 64-byte aligned */
    size_t n;
    size_t mapped; /* bytes of the mapping; 0 = private memory */
};

typedef enum status data_map_fn(void *ctx, void *bytes);

/* key: whatever the contents depend on, hashed; it also names the file. fill writes all n bytes (they come zeroed) and is not called
 * when the file has them. dir NULL or "": private. Local; it waits for another process that computes the same.
 * Errors: MEMORY, IO (no space, no locks on this file system), those of fill. */
enum status data_map_open(const char *dir, uint64_t key, size_t n, data_map_fn *fill, void *ctx, struct data_map *out);
void data_map_close(struct data_map *m); /* a zeroed one is fine */
