/* Shared read-only arrays: files under a lock, mapped. */
#include "data/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

/* The end of a file that is whole. */
struct trailer {
    char magic[8];
    uint64_t key, n, hash; /* hash: of the n bytes before the padding */
};
static const char magic[8] = "TMORDER1";

static size_t file_bytes(size_t n) { return (n + 63) / 64 * 64 + sizeof(struct trailer); }

static enum status map(int fd, const char *path, size_t bytes, int protection, void **out) {
    *out = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
    if (*out != MAP_FAILED) return TM_OK;
    *out = NULL;
    return TM_FAIL(TM_ERR_IO, "cannot map %zu bytes of %s: %s", bytes, path, strerror(errno));
}

static bool is_whole(const char *bytes, uint64_t key, size_t n) {
    struct trailer t;
    memcpy(&t, bytes + file_bytes(n) - sizeof t, sizeof t);
    return !memcmp(t.magic, magic, sizeof magic) && t.key == key && t.n == n && t.hash == hash_bytes(bytes, n, key);
}

/* The space is taken before it is written to: a full disk is an error here and would be a signal later. */
static enum status compute(int fd, const char *path, uint64_t key, size_t n, data_map_fn *fill, void *ctx) {
    size_t all = file_bytes(n);
    void *bytes;
    int e = ftruncate(fd, 0) != 0 ? errno : posix_fallocate(fd, 0, (off_t)all);
    if (e) return TM_FAIL(TM_ERR_IO, "cannot make %s of %zu bytes: %s", path, all, strerror(e));
    TM_TRY(map(fd, path, all, PROT_READ | PROT_WRITE, &bytes));
    enum status st = fill(ctx, bytes);
    if (st == TM_OK && msync(bytes, all, MS_SYNC) != 0)
        st = TM_FAIL(TM_ERR_IO, "cannot write %s: %s", path, strerror(errno));
    struct trailer t = {.key = key, .n = n, .hash = hash_bytes(bytes, n, key)};
    memcpy(t.magic, magic, sizeof magic);
    if (st == TM_OK) memcpy((char *)bytes + all - sizeof t, &t, sizeof t);
    munmap(bytes, all);
    return st;
}

static enum status open_file(int fd, const char *path, uint64_t key, size_t n, data_map_fn *fill, void *ctx,
                             struct data_map *out) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    size_t all = file_bytes(n);
    int rc;
    while ((rc = fcntl(fd, F_SETLKW, &lock)) != 0 && errno == EINTR) {}
    if (rc != 0) return TM_FAIL(TM_ERR_IO, "cannot lock %s: %s", path, strerror(errno));
    for (int attempt = 0;; attempt++) {
        if (file_size(path) == (int64_t)all) {
            TM_TRY(map(fd, path, all, PROT_READ, &out->bytes));
            out->mapped = all;
            if (is_whole(out->bytes, key, n)) return TM_OK;
            data_map_close(out);
        }
        if (attempt) return TM_FAIL(TM_ERR_IO, "%s does not hold what was just written to it", path);
        TM_TRY(compute(fd, path, key, n, fill, ctx));
    }
}

enum status data_map_open(const char *dir, uint64_t key, size_t n, data_map_fn *fill, void *ctx, struct data_map *out) {
    char name[32], path[4096];
    *out = (struct data_map){.n = n};
    if (!dir || !*dir || n < DATA_MAP_PRIVATE) {
        TM_TRY(mem_alloc(&out->bytes, n, 1));
        enum status st = fill(ctx, out->bytes);
        if (st != TM_OK) data_map_close(out);
        return st;
    }
    snprintf(name, sizeof name, "%016llx.order", (unsigned long long)key);
    TM_TRY(str_path(path, sizeof path, dir, name));
    TM_TRY(file_make_dirs(dir));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    enum status st = open_file(fd, path, key, n, fill, ctx, out);
    close(fd); /* and with it the lock; the mapping stays */
    return st;
}

void data_map_close(struct data_map *m) {
    if (m->mapped)
        munmap(m->bytes, m->mapped);
    else
        mem_free(&m->bytes);
    *m = (struct data_map){0};
}
