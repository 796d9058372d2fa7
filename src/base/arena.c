/* An arena: one block, carved from the front. */
#include "base/arena.h"

#include "base/size.h"

void arena_init(struct arena *a, const char *name, uint64_t base, size_t size) {
    *a = (struct arena){.name = name, .base = base, .size = size};
}

enum status arena_take(struct arena *a, size_t n, uint64_t *out) {
    size_t bytes = size_align(n, ARENA_ALIGN);
    if (a->base && bytes > a->size - a->used)
        return TM_FAIL(TM_ERR_MEMORY, "arena %s: %zu bytes wanted, %zu of %zu left", a->name, bytes, a->size - a->used,
                       a->size);
    *out = a->base + a->used;
    a->used += bytes;
    if (a->used > a->high) a->high = a->used;
    return TM_OK;
}

size_t arena_mark(const struct arena *a) { return a->used; }
void arena_release(struct arena *a, size_t mark) { a->used = mark; }
