/* Megatron's indexed datasets: reader and writer. Files come from others, so every number is checked before use. */
#include "data/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/str.h"

enum { HEADER = 34, MAX_PATH = 4096, CHUNK = 1 << 20 };
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

static enum status read_arrays(struct data_index *x, const char *p) {
    size_t s = (size_t)x->sequences, d = (size_t)x->documents + 1;
    TM_TRY(mem_alloc(&x->lengths, s, sizeof *x->lengths));
    TM_TRY(mem_alloc(&x->offsets, s, sizeof *x->offsets));
    TM_TRY(mem_alloc(&x->document, d, sizeof *x->document));
    if (s) memcpy(x->lengths, p + HEADER, 4 * s);
    if (s) memcpy(x->offsets, p + HEADER + 4 * s, 8 * s);
    memcpy(x->document, p + HEADER + 12 * s, 8 * d);
    return TM_OK;
}

static enum status check_arrays(struct data_index *x, const char *idx, const char *bin, int64_t bin_bytes) {
    int64_t size = (int64_t)data_dtype_size(x->dtype);
    for (int64_t i = 0; i < x->sequences; i++) {
        int64_t n = x->lengths[i], at = x->offsets[i];
        if (n < 0 || at < 0 || at > bin_bytes || n > (bin_bytes - at) / size)
            return TM_FAIL(TM_ERR_FORMAT,
                           "%s: sequence %lld has %lld tokens of %lld bytes at byte %lld: %s has %lld bytes", idx,
                           (long long)i, (long long)n, (long long)size, (long long)at, bin, (long long)bin_bytes);
        x->tokens += n; /* at most 2^31 x 2^59: files that large do not exist, and n / 12 bounds the count */
    }
    for (int64_t d = 0; d <= x->documents; d++) {
        int64_t v = x->document[d], low = d ? x->document[d - 1] : 0;
        bool ends = d == x->documents && v != x->sequences;
        if (v < low || v > x->sequences || (d == 0 && v != 0) || ends)
            return TM_FAIL(TM_ERR_FORMAT, "%s: document bound %lld of %lld is sequence %lld: expected %lld to %lld",
                           idx, (long long)d, (long long)x->documents, (long long)v,
                           (long long)(ends ? x->sequences : low), (long long)(d == 0 ? 0 : x->sequences));
    }
    return TM_OK;
}

static enum status open_both(struct data_index *x) {
    char idx[MAX_PATH], bin[MAX_PATH], *bytes;
    size_t n;
    TM_TRY(path_of(idx, x->prefix, ".idx"));
    TM_TRY(path_of(bin, x->prefix, ".bin"));
    TM_TRY(file_read(idx, SIZE_MAX / 2, &bytes, &n));
    enum status st = read_header(x, idx, bytes, n);
    if (st == TM_OK) st = read_arrays(x, bytes);
    mem_free(&bytes);
    if (st != TM_OK) return st;
    x->fd = open(bin, O_RDONLY | O_CLOEXEC);
    if (x->fd < 0) return TM_FAIL(TM_ERR_IO, "cannot open %s: %s", bin, strerror(errno));
    return check_arrays(x, idx, bin, file_size(bin));
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
    mem_free(&(*x)->prefix);
    mem_free(&(*x)->lengths);
    mem_free(&(*x)->offsets);
    mem_free(&(*x)->document);
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
    if (sequence < 0 || sequence >= x->sequences || first < 0 || n < 0 || n > x->lengths[sequence] - first)
        return TM_FAIL(TM_ERR_INTERNAL, "%s: read of %lld tokens at %lld of sequence %lld", x->prefix, (long long)n,
                       (long long)first, (long long)sequence);
    int64_t size = (int64_t)data_dtype_size(x->dtype);
    char bin[MAX_PATH],
        *raw = (char *)out; /* the narrow tokens are read into the front of `out` and widened from the back */
    TM_TRY(path_of(bin, x->prefix, ".bin"));
    TM_TRY(file_pread(x->fd, bin, raw, (size_t)(n * size), x->offsets[sequence] + first * size));
    for (int64_t i = n - 1; i >= 0; i--) {
        int64_t v = widen(x->dtype, raw + i * size);
        memcpy(raw + i * 8, &v, sizeof v);
    }
    return TM_OK;
}

/* --- writing ------------------------------------------------------------------------------------------------------------*/

struct data_writer {
    char prefix[MAX_PATH], bin[MAX_PATH], tmp[MAX_PATH];
    enum data_dtype dtype;
    int fd;
    int64_t bytes; /* in the file and the buffer together */
    char *buffer;
    size_t used;
    int32_t *lengths;
    int64_t *offsets, *document;
    size_t n, cap_lengths, cap_offsets, ndocuments, cap_document;
};

enum status data_writer_open(const char *prefix, enum data_dtype dtype, struct data_writer **out) {
    struct data_writer *w;
    enum status st;
    *out = NULL;
    if (!data_dtype_size((int)dtype)) return TM_FAIL(TM_ERR_INTERNAL, "dtype code %d cannot be written", (int)dtype);
    TM_TRY(mem_alloc(&w, 1, sizeof *w));
    w->fd = -1;
    w->dtype = dtype;
    TM_GOTO(st, fail, str_copy(w->prefix, sizeof w->prefix, prefix));
    TM_GOTO(st, fail, path_of(w->bin, prefix, ".bin"));
    TM_GOTO(st, fail, path_of(w->tmp, prefix, ".bin.tmp"));
    TM_GOTO(st, fail, mem_alloc(&w->buffer, CHUNK, 1));
    TM_GOTO(st, fail, data_writer_end_document(w)); /* the bounds begin with 0 */
    w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) TM_GOTO(st, fail, TM_FAIL(TM_ERR_IO, "cannot create %s: %s", w->tmp, strerror(errno)));
    *out = w;
    return TM_OK;
fail:
    data_writer_cancel(&w);
    return st;
}

static enum status flush(struct data_writer *w) {
    TM_TRY(file_pwrite(w->fd, w->tmp, w->buffer, w->used, w->bytes - (int64_t)w->used));
    w->used = 0;
    return TM_OK;
}

static bool holds(enum data_dtype dtype, int32_t id) {
    switch (dtype) {
    case DATA_U8: return id >= 0 && id <= UINT8_MAX;
    case DATA_I8: return id >= INT8_MIN && id <= INT8_MAX;
    case DATA_I16: return id >= INT16_MIN && id <= INT16_MAX;
    case DATA_U16: return id >= 0 && id <= UINT16_MAX;
    case DATA_I32:
    case DATA_I64: break;
    }
    return true;
}

enum status data_writer_add(struct data_writer *w, const int32_t *ids, size_t n) {
    size_t size = data_dtype_size((int)w->dtype);
    if (n > INT32_MAX) return TM_FAIL(TM_ERR_DATA, "%s: a document of %zu tokens: at most %d", w->bin, n, INT32_MAX);
    TM_TRY(mem_grow(&w->lengths, &w->cap_lengths, w->n + 1, sizeof *w->lengths));
    TM_TRY(mem_grow(&w->offsets, &w->cap_offsets, w->n + 1, sizeof *w->offsets));
    w->lengths[w->n] = (int32_t)n;
    w->offsets[w->n] = w->bytes;
    for (size_t i = 0; i < n; i++) {
        if (!holds(w->dtype, ids[i]))
            return TM_FAIL(TM_ERR_DATA, "%s: token %zu of sequence %zu has id %d: it does not fit in %zu bytes", w->bin,
                           i, w->n, (int)ids[i], size);
        if (w->used + size > CHUNK) TM_TRY(flush(w));
        int64_t wide = ids[i]; /* little-endian: the first bytes of the wide number are the narrow one */
        memcpy(w->buffer + w->used, &wide, size);
        w->used += size;
        w->bytes += (int64_t)size;
    }
    w->n++;
    return TM_OK;
}

enum status data_writer_end_document(struct data_writer *w) {
    TM_TRY(mem_grow(&w->document, &w->cap_document, w->ndocuments + 1, sizeof *w->document));
    w->document[w->ndocuments++] = (int64_t)w->n;
    return TM_OK;
}

static enum status write_idx(const struct data_writer *w, struct str *s) {
    char idx[MAX_PATH], head[HEADER] = {0};
    uint64_t version = 1, n = w->n, d = w->ndocuments;
    TM_TRY(path_of(idx, w->prefix, ".idx"));
    memcpy(head, magic, sizeof magic);
    memcpy(head + 9, &version, 8);
    head[17] = (char)w->dtype;
    memcpy(head + 18, &n, 8);
    memcpy(head + 26, &d, 8);
    TM_TRY(str_append(s, head, HEADER));
    TM_TRY(str_append(s, w->lengths, 4 * w->n));
    TM_TRY(str_append(s, w->offsets, 8 * w->n));
    TM_TRY(str_append(s, w->document, 8 * w->ndocuments));
    /* an old index must never be seen beside new tokens */
    if (unlink(idx) != 0 && errno != ENOENT) return TM_FAIL(TM_ERR_IO, "cannot replace %s: %s", idx, strerror(errno));
    if (rename(w->tmp, w->bin) != 0) return TM_FAIL(TM_ERR_IO, "cannot rename %s: %s", w->tmp, strerror(errno));
    return file_write(idx, s->p, s->len);
}

enum status data_writer_finish(struct data_writer **handle) {
    struct data_writer *w = *handle;
    struct str s = {0};
    enum status st = flush(w);
    if (st == TM_OK && fsync(w->fd) != 0) st = TM_FAIL(TM_ERR_IO, "cannot sync %s: %s", w->tmp, strerror(errno));
    if (st == TM_OK) st = write_idx(w, &s);
    str_free(&s);
    data_writer_cancel(handle);
    return st;
}

void data_writer_cancel(struct data_writer **handle) {
    struct data_writer *w = *handle;
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->tmp); /* gone already after a rename */
    }
    mem_free(&w->buffer);
    mem_free(&w->lengths);
    mem_free(&w->offsets);
    mem_free(&w->document);
    mem_free(handle);
}
