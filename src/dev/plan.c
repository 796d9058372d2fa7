/* The plan backend: addresses without memory and operations without maths, so that a run can be counted before it is made. */
#include <string.h>

#include "base/size.h"
#include "dev/device.h"

static enum status plan_alloc(struct dev *d, struct dev_block *b) {
    size_t step;
    if (!size_add(b->bytes, 127, &step) || UINT64_MAX - d->next < step) return TM_FAIL(TM_ERR_MEMORY, "too large");
    b->at = d->next;
    d->next += (b->bytes + 127) & ~(size_t)63; /* a gap, so that a block's end is not the next one's start */
    return TM_OK;
}
static void plan_release(struct dev *d, struct dev_block *b) { (void)d, (void)b; }
static enum status plan_upload(struct dev *d, struct dev_block *b, dptr dst, const void *src, size_t bytes) {
    (void)d, (void)b, (void)dst, (void)src, (void)bytes;
    return TM_OK;
}
static enum status plan_download(struct dev *d, struct dev_block *b, void *dst, dptr src, size_t bytes) {
    (void)d, (void)b, (void)src;
    memset(dst, 0, bytes);
    return TM_OK;
}
static enum status plan_map(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void **host) {
    (void)d, (void)p, (void)bytes, (void)host;
    return TM_FAIL(TM_ERR_INTERNAL, "map: %s has no memory under plan", b->what);
}
static enum status plan_unmap(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void *host) {
    (void)d, (void)b, (void)p, (void)bytes, (void)host;
    return TM_OK;
}

#define OP(name, ...)                                                            \
    static enum status plan_##name(struct dev *d, const struct name##_args *a) { \
        (void)d, (void)a;                                                        \
        return TM_OK;                                                            \
    }
#include "dev/ops.def" // IWYU pragma: keep
#undef OP

const struct dev_table dev_plan = {
    .name = "plan",
    .alloc = plan_alloc,
    .release = plan_release,
    .upload = plan_upload,
    .download = plan_download,
    .map = plan_map,
    .unmap = plan_unmap,
#define OP(name, ...) .name = plan_##name,
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
};
