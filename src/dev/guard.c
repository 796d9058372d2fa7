/* The guard backend: the host's maths over memory that is inaccessible outside an operation, a copy or a map.
 *
 * It stands in for a GPU where there is none: host code that touches device memory dies at once. Each block ends at an inaccessible
 * page (up to its 64-byte alignment) and begins after one, so that operations that run over an end die too. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/size.h"
#include "dev/host.h"

static enum status protect(const struct dev_block *b, int mode) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (mprotect((char *)b->base + page, b->base_bytes - 2 * page, mode))
        return TM_FAIL(TM_ERR_DEVICE, "mprotect of %zu bytes of %s: %s", b->bytes, b->what, strerror(errno));
    return TM_OK;
}
static enum status show(const struct dev_block *b) { return protect(b, PROT_READ | PROT_WRITE); }
static enum status hide(const struct dev_block *b) { return b->mapped ? TM_OK : protect(b, PROT_NONE); }

static enum status guard_alloc(struct dev *d, struct dev_block *b) {
    (void)d;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used, total;
    if (!size_add(b->bytes, page + 64, &used) || !size_add(used, 2 * page, &total))
        return TM_FAIL(TM_ERR_MEMORY, "too large");
    used = size_align(b->bytes, 64);
    b->base_bytes = size_align(used, page) + 2 * page;
    b->base = mmap(NULL, b->base_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->base == MAP_FAILED) return TM_FAIL(TM_ERR_MEMORY, "mmap of %zu bytes: %s", b->base_bytes, strerror(errno));
    b->at = (uint64_t)(uintptr_t)b->base + b->base_bytes - page - used;
    return TM_OK;
}
static void guard_release(struct dev *d, struct dev_block *b) {
    (void)d;
    munmap(b->base, b->base_bytes);
}
static enum status guard_upload(struct dev *d, struct dev_block *b, dptr dst, const void *src, size_t bytes) {
    (void)d;
    TM_TRY(show(b));
    memcpy(host_f32(dst), src, bytes);
    return hide(b);
}
static enum status guard_download(struct dev *d, struct dev_block *b, void *dst, dptr src, size_t bytes) {
    (void)d;
    TM_TRY(show(b));
    memcpy(dst, host_f32(src), bytes);
    return hide(b);
}
static enum status guard_map(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void **host) {
    (void)d, (void)bytes;
    TM_TRY(show(b));
    *host = host_f32(p);
    return TM_OK;
}

static enum status show_all(const struct dev *d) {
    for (size_t i = 0; i < d->blocks; i++) TM_TRY(show(&d->block[i]));
    return TM_OK;
}
static enum status hide_all(const struct dev *d, enum status st) {
    for (size_t i = 0; i < d->blocks; i++) {
        enum status s = hide(&d->block[i]);
        if (st == TM_OK) st = s;
    }
    return st;
}

#define OP(name, ...)                                                             \
    static enum status guard_##name(struct dev *d, const struct name##_args *a) { \
        TM_TRY(show_all(d));                                                      \
        return hide_all(d, host_##name(d, a));                                    \
    }
#include "dev/ops.def" // IWYU pragma: keep
#undef OP

static enum status guard_unmap(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void *host) {
    (void)d, (void)p, (void)bytes, (void)host;
    return hide(b);
}

const struct dev_table dev_guard = {
    .name = "guard",
    .alloc = guard_alloc,
    .release = guard_release,
    .upload = guard_upload,
    .download = guard_download,
    .map = guard_map,
    .unmap = guard_unmap,
#define OP(name, ...) .name = guard_##name,
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
};
