/* An arena: one block, sized at plan time, carved from the front; nothing inside a step allocates otherwise. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Addresses are plain 64-bit numbers, so the same arena serves host and device memory. base = 0 counts without memory: that is
 * how a plan measures (sizes are then the only result). */
struct arena {
    const char *name; /* borrowed; for messages */
    uint64_t base;
    size_t size, used, high;
};

enum { ARENA_ALIGN = 64 };

void arena_init(struct arena *a, const char *name, uint64_t base, size_t size);
/* Carve n bytes (rounded up to ARENA_ALIGN). Errors: MEMORY, when a block with memory is full (a plan error, so INTERNAL in
 * spirit; the message names arena and sizes). */
enum status arena_take(struct arena *a, size_t n, uint64_t *out);
size_t arena_mark(const struct arena *a);
void arena_release(struct arena *a, size_t mark); /* give back everything taken since the mark */
