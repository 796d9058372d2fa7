/* The CUDA backend: finds the plugin, opens a device with it, and passes memory, copies and operations on.
 *
 * Host access to device memory (dev_map) goes through pinned copies of the mapped range; small ones are kept for the next map. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "dev/comm.h"
#include "dev/cuda_plugin.h"
#include "dev/device.h"

static const struct cuda_plugin *plugin; /* loaded once a process, never unloaded: NCCL and the driver keep threads */

const struct cuda_plugin *cuda_plugin(void) { return plugin; }

static enum status failed(int status) {
    return status ? TM_FAIL((enum status)status, "cuda: %s", plugin->error()) : TM_OK;
}

static enum status load(const char *path) {
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) return TM_FAIL(TM_ERR_DEVICE, "cuda: %s", dlerror());
    cuda_plugin_entry *entry;
    void *symbol = dlsym(lib, CUDA_PLUGIN_ENTRY);
    if (!symbol) return TM_FAIL(TM_ERR_DEVICE, "cuda: %s is no plugin of temper", path);
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from a data to a function pointer */
    const struct cuda_plugin *p = entry();
    if (strcmp(p->abi, TEMPER_CUDA_ABI) != 0)
        return TM_FAIL(TM_ERR_DEVICE, "cuda: %s was built from other sources (%s, expected %s): run make again", path,
                       p->abi, TEMPER_CUDA_ABI);
    plugin = p;
    return TM_OK;
}

/* Beside the program, where make leaves it, or in ../lib/temper, where make install does. */
static bool beside_program(char *out, size_t size) {
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return false;
    exe[n] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) *slash = 0;
    const char *const places[] = {"%s/libtemper_cuda.so", "%s/../lib/temper/libtemper_cuda.so"};
    for (int i = 0; i < 2; i++) {
        snprintf(out, size, places[i], exe);
        if (access(out, R_OK) == 0) return true;
    }
    return false;
}

static enum status find_plugin(void) {
    char path[4200];
    if (plugin) return TM_OK;
    const char *named = getenv("TEMPER_CUDA_PLUGIN"); /* the emulated one, in tests */
    if (named) return load(named);
    if (!beside_program(path, sizeof path))
        return TM_FAIL(TM_ERR_DEVICE, "cuda: this build has no plugin (make cuda builds libtemper_cuda.so)");
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL); /* 1 ms; loading the plugin takes 100 */
    if (!driver) return TM_FAIL(TM_ERR_DEVICE, "cuda: no NVIDIA driver here (libcuda.so.1 is not found)");
    return load(path);
}

enum status dev_cuda_devices(int *n) {
    *n = 0;
    TM_TRY(find_plugin());
    TM_TRY(failed(plugin->devices(n)));
    return *n > 0 ? TM_OK : TM_FAIL(TM_ERR_DEVICE, "cuda: the driver lists no device");
}

static enum status find_device(int device, struct cuda_info *out) {
    int n;
    TM_TRY(dev_cuda_devices(&n));
    if (device < 0 || device >= n)
        return TM_FAIL(TM_ERR_DEVICE, "cuda: device %d wanted, the driver lists %d", device, n);
    return failed(plugin->info(device, out));
}

enum status dev_cuda_address(int device, char *out) {
    struct cuda_info i;
    TM_TRY(find_device(device, &i));
    memcpy(out, i.pci, sizeof i.pci);
    return TM_OK;
}

const char *dev_address(const struct dev *d) { return d->address; }

enum status cuda_open(struct dev *d, int device, bool invariant) {
    struct cuda_info i;
    TM_TRY(find_device(device, &i));
    TM_TRY(failed(plugin->open(device, invariant, &d->gpu)));
    memcpy(d->address, i.pci, sizeof d->address);
    d->capacity = (size_t)i.free_memory;
    snprintf(d->describe, sizeof d->describe, "cuda: device %d, %s (sm_%d%d, %.1f GiB, PCI %s), %s", device, i.name,
             i.major, i.minor, (double)i.memory / (1 << 30), i.pci, plugin->describe);
    return TM_OK;
}
void cuda_close(struct dev *d) {
    for (size_t i = 0; i < d->stagings; i++) (void)plugin->host_release(d->gpu, d->staging[i].p);
    mem_free(&d->staging);
    if (d->gpu) plugin->close(d->gpu);
    d->gpu = NULL;
}

/* --- staging: pinning memory costs milliseconds, so what was pinned is used again ------------------------------------------------ */
static const size_t STAGING_KEPT = 64 << 20; /* larger ones are given back at once */

/* The smallest free one that is large enough, or a new one. */
static enum status take_staging(struct dev *d, size_t bytes, void **out) {
    struct dev_staging *best = NULL;
    for (size_t i = 0; i < d->stagings; i++) {
        struct dev_staging *s = &d->staging[i];
        if (!s->used && s->bytes >= bytes && (!best || s->bytes < best->bytes)) best = s;
    }
    if (!best) {
        TM_TRY(mem_grow(&d->staging, &d->staging_cap, d->stagings + 1, sizeof *d->staging));
        best = &d->staging[d->stagings];
        best->bytes = bytes;
        TM_TRY(failed(plugin->host_alloc(d->gpu, bytes, &best->p)));
        d->stagings++;
    }
    best->used = true;
    *out = best->p;
    return TM_OK;
}

static void give_staging(struct dev *d, void *p) {
    for (size_t i = 0; i < d->stagings; i++) {
        struct dev_staging *s = &d->staging[i];
        if (s->p != p) continue;
        s->used = false;
        if (s->bytes <= STAGING_KEPT) return;
        (void)plugin->host_release(d->gpu, p);
        *s = d->staging[--d->stagings];
        return;
    }
}

/* --- the table -------------------------------------------------------------------------------------------------------------- */
static enum status cuda_alloc(struct dev *d, struct dev_block *b) {
    return failed(plugin->alloc(d->gpu, b->bytes, &b->at));
}
static void cuda_release(struct dev *d, struct dev_block *b) {
    (void)plugin->release(d->gpu, b->at); /* an error of the device comes again at the next sync */
}
static enum status cuda_upload(struct dev *d, struct dev_block *b, dptr dst, const void *src, size_t bytes) {
    (void)b;
    return failed(plugin->upload(d->gpu, dst.a, src, bytes));
}
static enum status cuda_download(struct dev *d, struct dev_block *b, void *dst, dptr src, size_t bytes) {
    (void)b;
    return failed(plugin->download(d->gpu, dst, src.a, bytes));
}
static enum status cuda_fetch(struct dev *d, struct dev_block *b, void *dst, dptr src, size_t bytes) {
    (void)b;
    return failed(plugin->fetch(d->gpu, dst, src.a, bytes));
}
static enum status cuda_map(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void **host) {
    (void)b;
    TM_TRY(take_staging(d, bytes, host));
    enum status st = failed(plugin->download(d->gpu, *host, p.a, bytes));
    if (st != TM_OK) give_staging(d, *host);
    return st;
}
static enum status cuda_unmap(struct dev *d, struct dev_block *b, dptr p, size_t bytes, void *host) {
    (void)b;
    enum status st = failed(plugin->upload(d->gpu, p.a, host, bytes));
    give_staging(d, host);
    return st;
}
static enum status cuda_sync(struct dev *d) { return failed(plugin->sync(d->gpu)); }
static enum status cuda_reserve(struct dev *d, size_t bytes, size_t *had) {
    return failed(plugin->reserve(d->gpu, bytes, had));
}

#define OP(name, ...)                                                            \
    static enum status cuda_##name(struct dev *d, const struct name##_args *a) { \
        return failed(plugin->name(d->gpu, a));                                  \
    }
#include "dev/ops.def" // IWYU pragma: keep
#undef OP

const struct dev_table dev_cuda = {
    .name = "cuda",
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .fetch = cuda_fetch,
    .map = cuda_map,
    .unmap = cuda_unmap,
    .sync = cuda_sync,
    .reserve = cuda_reserve,
#define OP(name, ...) .name = cuda_##name,
#include "dev/ops.def" // IWYU pragma: keep
#undef OP
};
