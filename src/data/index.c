/* Megatron's indexed datasets: the reader. Files come from others, so every number is checked before use. */
#include "data/index.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/size.h"

enum { HEADER = 34, MAX_PATH = 4096 };
static const char magic[9] = "MMIDIDX\0";

size_t data_dtype_size(int code) {
    switch (code) {
    case DATA_U8:
    case DATA_I8: return 1;
    case DATA_I16:
    case DATA_U16: return 2;
    case DATA_I32: return 4;
    case DATA_I64: return 8;
    default: return 0;
    }
}

static enum status path_of(char *out, const char *prefix, const char *ending) {
    if (snprintf(out, MAX_PATH, "%s%s", prefix, ending) >= MAX_PATH)
        return TM_FAIL(TM_ERR_IO, "path too long: %.200s...", prefix);
    return TM_OK;
}

/* --- reading ------------------------------------------------------------------------------------------------------------*/

/* Numbers behind the 34-byte header are not aligned, and little-endian as every machine we run on. */
static uint64_t u64_at(const char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static enum status read_header(struct data_index *x, const char *path, const char *p, size_t n) {
    if (n < HEADER || memcmp(p, magic, sizeof magic) != 0)
        return TM_FAIL(TM_ERR_FORMAT,
                       "%s is not an index: expected it to begin with MMIDIDX and to have at least %d bytes", path,
                       HEADER);
    uint64_t version = u64_at(p + 9), s = u64_at(p + 18), d = u64_at(p + 26);
    int code = (unsigned char)p[17];
    if (version != 1) return TM_FAIL(TM_ERR_FORMAT, "%s: version %llu: expected 1", path, (unsigned long long)version);
    if (!data_dtype_size(code))
        return TM_FAIL(TM_ERR_FORMAT,
                       "%s: dtype code %d: expected an integer type (1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16)", path,
                       code);
    /* s and d are at most n / 8, so the sums below cannot overflow */
    bool fits = s <= n / 12 && d <= n / 8 && d >= 1;
    size_t bytes = fits ? HEADER + 12 * s + 8 * d : 0;
    if (!fits || (n != bytes && n != bytes + s))
        return TM_FAIL(TM_ERR_FORMAT,
                       "%s has %zu bytes: expected 34 + 12 x %llu sequences + 8 x %llu document bounds (+ modes)", path,
                       n, (unsigned long long)s, (unsigned long long)d);
    x->dtype = (enum data_dtype)code;
    x->sequences = (int64_t)s;
    x->documents = (int64_t)d - 1;
    x->has_modes = s && n == bytes + s;
    return TM_OK;
}

int64_t data_index_length(const struct data_index *x, int64_t sequence) {
    int32_t v;
    memcpy(&v, x->map + HEADER + 4 * sequence, sizeof v);
    return v;
}

int64_t data_index_offset(const struct data_index *x, int64_t sequence) {
    return (int64_t)u64_at(x->map + HEADER + 4 * x->sequences + 8 * sequence);
}

int64_t data_index_document(const struct data_index *x, int64_t document) {
    return (int64_t)u64_at(x->map + HEADER + 12 * x->sequences + 8 * document);
}

static enum status check_arrays(struct data_index *x, const char *idx, const char *bin, int64_t bin_bytes) {
    int64_t size = (int64_t)data_dtype_size(x->dtype), end = 0;
    for (int64_t i = 0; i < x->sequences; i++) {
        int64_t n = data_index_length(x, i), at = data_index_offset(x, i);
        if (n < 0 || at < 0 || at > bin_bytes || n > (bin_bytes - at) / size)
            return TM_FAIL(TM_ERR_FORMAT,
                           "%s: sequence %lld has %lld tokens of %lld bytes at byte %lld: %s has %lld bytes", idx,
                           (long long)i, (long long)n, (long long)size, (long long)at, bin, (long long)bin_bytes);
        if (at < end)
            return TM_FAIL(TM_ERR_FORMAT,
                           "%s: sequence %lld begins at byte %lld, before the end of the one before it at byte %lld: "
                           "expected sequences in order that do not overlap",
                           idx, (long long)i, (long long)at, (long long)end);
        end = at + n * size;
        x->tokens += n;
    }
    for (int64_t d = 0, low = 0; d <= x->documents; d++) {
        int64_t v = data_index_document(x, d);
        bool ends = d == x->documents && v != x->sequences;
        if (v < low || v > x->sequences || (d == 0 && v != 0) || ends)
            return TM_FAIL(TM_ERR_FORMAT, "%s: document bound %lld of %lld is sequence %lld: expected %lld to %lld",
                           idx, (long long)d, (long long)x->documents, (long long)v,
                           (long long)(ends ? x->sequences : low), (long long)(d == 0 ? 0 : x->sequences));
        low = v;
    }
    return TM_OK;
}

static enum status map_idx(struct data_index *x, const char *idx) {
    int fd;
    int64_t n;
    TM_TRY(file_open(idx, &fd, &n));
    void *map = n > 0 ? mmap(NULL, (size_t)n, PROT_READ, MAP_SHARED, fd, 0) : NULL; /* an empty file cannot be mapped */
    int e = errno;
    close(fd);
    if (map == MAP_FAILED) return TM_FAIL(TM_ERR_IO, "cannot map %s: %s", idx, strerror(e));
    x->map = map;
    x->map_bytes = map ? (size_t)n : 0;
    return TM_OK;
}

static enum status open_both(struct data_index *x) {
    char idx[MAX_PATH], bin[MAX_PATH];
    int64_t bin_bytes;
    TM_TRY(path_of(idx, x->prefix, ".idx"));
    TM_TRY(path_of(bin, x->prefix, ".bin"));
    TM_TRY(map_idx(x, idx));
    TM_TRY(read_header(x, idx, x->map, x->map_bytes));
    TM_TRY(file_open(bin, &x->fd, &bin_bytes));
    return check_arrays(x, idx, bin, bin_bytes);
}

enum status data_index_open(const char *prefix, struct data_index **out) {
    struct data_index *x;
    size_t n = strlen(prefix);
    *out = NULL;
    if (n > 4 && (!strcmp(prefix + n - 4, ".idx") || !strcmp(prefix + n - 4, ".bin"))) n -= 4;
    TM_TRY(mem_alloc(&x, 1, sizeof *x));
    x->fd = -1;
    enum status st = mem_alloc(&x->prefix, n + 1, 1);
    if (st == TM_OK) {
        memcpy(x->prefix, prefix, n);
        st = open_both(x);
    }
    if (st == TM_OK)
        *out = x;
    else
        data_index_close(&x);
    return st;
}

void data_index_close(struct data_index **x) {
    if (!*x) return;
    if ((*x)->fd >= 0) close((*x)->fd);
    if ((*x)->map) munmap((void *)(uintptr_t)(*x)->map, (*x)->map_bytes);
    mem_free(&(*x)->prefix);
    mem_free(x);
}

static int64_t widen(enum data_dtype dtype, const char *p) {
    union {
        uint8_t u8;
        int8_t i8;
        int16_t i16;
        uint16_t u16;
        int32_t i32;
        int64_t i64;
    } v;
    memcpy(&v, p, data_dtype_size(dtype));
    switch (dtype) {
    case DATA_U8: return v.u8;
    case DATA_I8: return v.i8;
    case DATA_I16: return v.i16;
    case DATA_U16: return v.u16;
    case DATA_I32: return v.i32;
    case DATA_I64: break;
    }
    return v.i64;
}

enum status data_index_read(const struct data_index *x, int64_t sequence, int64_t first, int64_t n, int64_t *out) {
    if (sequence < 0 || sequence >= x->sequences || first < 0 || n < 0 || n > data_index_length(x, sequence) - first)
        return TM_FAIL(TM_ERR_INTERNAL, "%s: read of %lld tokens at %lld of sequence %lld", x->prefix, (long long)n,
                       (long long)first, (long long)sequence);
    int64_t size = (int64_t)data_dtype_size(x->dtype);
    char bin[MAX_PATH],
        *raw = (char *)out; /* the narrow tokens are read into the front of `out` and widened from the back */
    TM_TRY(path_of(bin, x->prefix, ".bin"));
    TM_TRY(file_pread(x->fd, bin, raw, (size_t)(n * size), data_index_offset(x, sequence) + first * size));
    for (int64_t i = n - 1; i >= 0; i--) {
        int64_t v = widen(x->dtype, raw + i * size);
        memcpy(raw + i * 8, &v, sizeof v);
    }
    return TM_OK;
}
