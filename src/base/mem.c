/* Set-up memory: aligned, zeroed, counted. A 64-byte header keeps the size, so that freeing can count too. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

enum { HEADER = 64 };
static atomic_size_t now_, high_;

static void count_up(size_t bytes) {
    size_t n = atomic_fetch_add(&now_, bytes) + bytes, h = atomic_load(&high_);
    while (n > h && !atomic_compare_exchange_weak(&high_, &h, n)) {}
}

enum status mem_alloc(void *out, size_t n, size_t size) {
    void **p = out;
    size_t bytes;
    *p = NULL;
    if (!size_mul(n, size, &bytes) || bytes > SIZE_MAX - 2 * HEADER)
        return TM_FAIL(TM_ERR_MEMORY, "allocation of %zu x %zu bytes is too large", n, size);
    if (bytes == 0) return TM_OK;
    char *raw = aligned_alloc(HEADER, size_align(bytes, HEADER) + HEADER);
    if (!raw) return TM_FAIL(TM_ERR_MEMORY, "out of memory: %zu bytes wanted, %zu in use", bytes, mem_bytes());
    memcpy(raw, &bytes, sizeof bytes);
    memset(raw + HEADER, 0, bytes);
    count_up(bytes);
    *p = raw + HEADER;
    return TM_OK;
}

void mem_free(void *pointer) {
    void **p = pointer;
    if (!*p) return;
    char *raw = (char *)*p - HEADER;
    size_t bytes;
    memcpy(&bytes, raw, sizeof bytes);
    atomic_fetch_sub(&now_, bytes);
    free(raw);
    *p = NULL;
}

enum status mem_grow(void *array, size_t *cap, size_t need, size_t size) {
    void **p = array, *bigger;
    if (need <= *cap) return TM_OK;
    size_t want = *cap ? *cap : 16;
    while (want < need) want = want > SIZE_MAX / 2 ? need : 2 * want;
    TM_TRY(mem_alloc(&bigger, want, size));
    if (*p) memcpy(bigger, *p, *cap * size);
    mem_free(p);
    *p = bigger;
    *cap = want;
    return TM_OK;
}

size_t mem_bytes(void) { return atomic_load(&now_); }
size_t mem_high_water(void) { return atomic_load(&high_); }
void mem_high_reset(void) { atomic_store(&high_, atomic_load(&now_)); }
