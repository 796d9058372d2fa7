/* The host backend: ordinary memory, the table of operations, work space, and the matrix product. */
#include "dev/host.h"

#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "dev/host_gemm.h"

static enum status host_alloc(struct dev *d, struct dev_block *b) {
    (void)d;
    TM_TRY(mem_alloc(&b->base, b->bytes, 1));
    b->base_bytes = b->bytes;
    b->at = (uint64_t)(uintptr_t)b->base;
    return TM_OK;
}
static void host_release(struct dev *d, struct dev_block *b) {
    (void)d;
    mem_free(&b->base);
}
static enum status host_upload(struct dev *d, struct dev_block *b, dptr dst, const void *src, size_t bytes) {
    (void)d, (void)b;
    memcpy(host_f32(dst), src, bytes);
    return TM_OK;
}
static enum status host_download(struct dev *d, struct dev_block *b, void *dst, dptr src, size_t bytes) {
    (void)d, (void)b;
    memcpy(dst, host_f32(src), bytes);
    return TM_OK;
}
static enum status host_map(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void **host) {
    (void)d, (void)b, (void)bytes;
    *host = host_f32(p);
    return TM_OK;
}
static enum status host_unmap(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void *host) {
    (void)d, (void)b, (void)p, (void)bytes, (void)host;
    return TM_OK;
}

const struct dev_table dev_host = {
    .name = "host",
    .alloc = host_alloc,
    .release = host_release,
    .upload = host_upload,
    .download = host_download,
    .map = host_map,
    .unmap = host_unmap,
#define OP(name, ...) .name = host_##name,
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
};

enum status host_scratch(struct dev *d, size_t shared, size_t each, char **base, size_t *first, size_t *stride) {
    size_t all;
    *first = size_align(shared, 4096);
    *stride = size_align(each, 4096);
    if (!size_mul(*stride, (size_t)d->threads, &all) || !size_add(all, *first, &all))
        return TM_FAIL(TM_ERR_MEMORY, "work space of %zu bytes and %zu for each thread", shared, each);
    if (all > d->scratch_bytes) {
        mem_free(&d->scratch);
        d->scratch_bytes = 0;
        TM_TRY(mem_alloc(&d->scratch, all, 1));
        d->scratch_bytes = all;
    }
    *base = d->scratch;
    return TM_OK;
}

enum status host_gemm(struct dev *d, const struct gemm_args *a) { return host_gemm_run(d->gemm, a); }
