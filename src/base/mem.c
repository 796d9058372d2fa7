/* Set-up memory: aligned, zeroed, counted. A 64-byte header keeps the size, so that freeing can count too.
 *
 * calloc has fresh pages for what is large: they are zero already, and are not touched before they are used. Huge ones save most of the
 * page faults of weights and activations. */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/size.h"

enum { HEADER = 64, PAGE = 4096, LARGE = 32 << 20 /* glibc maps such blocks afresh, whatever was freed before */ };

/* Before the block: what calloc gave, and how much was asked for. */
struct header {
    void *raw;
    size_t bytes;
};
_Static_assert(sizeof(struct header) <= HEADER, "the header fits");
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
    void *raw = calloc(1, bytes + 2 * HEADER);
    if (!raw) return TM_FAIL(TM_ERR_MEMORY, "out of memory: %zu bytes wanted, %zu in use", bytes, mem_bytes());
    char *block = (char *)raw + HEADER;
    block += (HEADER - (uintptr_t)block % HEADER) % HEADER;
    if (bytes >= LARGE) { /* advice: without it all is the same, but slower */
        char *page = block + (PAGE - (uintptr_t)block % PAGE) % PAGE;
        (void)madvise(page, (size_t)(block + bytes - page), MADV_HUGEPAGE);
    }
    struct header h = {raw, bytes};
    memcpy(block - HEADER, &h, sizeof h);
    count_up(bytes);
    *p = block;
    return TM_OK;
}

void mem_free(void *pointer) {
    void **p = pointer;
    if (!*p) return;
    struct header h;
    memcpy(&h, (char *)*p - HEADER, sizeof h);
    atomic_fetch_sub(&now_, h.bytes);
    free(h.raw);
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
