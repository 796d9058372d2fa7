/* Megatron's indexed datasets: the writer. Places in the two files follow from how much each rank wrote. */
#include "data/writer.h"

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

/* Bytes on their way into a file, from a place on. */
struct sink {
    int fd;
    const char *path;
    char *buffer; /* [CHUNK] */
    size_t used;
    int64_t at; /* of the buffer's end */
};

struct data_writer {
    struct par_group *g;
    char bin[MAX_PATH], idx[MAX_PATH], bin_tmp[MAX_PATH], idx_tmp[MAX_PATH];
    char own[MAX_PATH]; /* this rank's tokens; of the first rank bin_tmp */
    enum data_dtype dtype;
    struct sink tokens;
    int32_t *lengths; /* [n] */
    int64_t *ends;    /* [documents]: sequences of this rank up to the end of each */
    size_t n, cap_lengths, documents, cap_ends;
};

/* What a rank wrote. */
struct share {
    int64_t bytes, sequences, documents;
};

static enum status flush(struct sink *s) {
    TM_TRY(file_pwrite(s->fd, s->path, s->buffer, s->used, s->at - (int64_t)s->used));
    s->used = 0;
    return TM_OK;
}

/* Little-endian: the first bytes of a wide number are the narrow one. */
static enum status put(struct sink *s, int64_t number, size_t size) {
    if (s->used + size > CHUNK) TM_TRY(flush(s));
    memcpy(s->buffer + s->used, &number, size);
    s->used += size;
    s->at += (int64_t)size;
    return TM_OK;
}

static enum status open_file(const char *path, int flags, int *fd) {
    *fd = open(path, flags | O_NOFOLLOW | O_CLOEXEC, 0666);
    return *fd >= 0 ? TM_OK : TM_FAIL(TM_ERR_IO, "cannot write %s: %s", path, strerror(errno));
}

/* --- adding -------------------------------------------------------------------------------------------------------------*/

static enum status name_files(struct data_writer *w, const char *prefix) {
    int rank = par_group_rank(w->g);
    if (strlen(prefix) > MAX_PATH - 32) return TM_FAIL(TM_ERR_IO, "path too long: %.200s...", prefix);
    snprintf(w->bin, MAX_PATH, "%s.bin", prefix);
    snprintf(w->idx, MAX_PATH, "%s.idx", prefix);
    snprintf(w->bin_tmp, MAX_PATH, "%s.bin.tmp", prefix);
    snprintf(w->idx_tmp, MAX_PATH, "%s.idx.tmp", prefix);
    snprintf(w->own, MAX_PATH, rank ? "%s.bin.%d.tmp" : "%s.bin.tmp", prefix, rank);
    return TM_OK;
}

enum status data_writer_open(const char *prefix, enum data_dtype dtype, struct par_group *g, struct data_writer **out) {
    struct data_writer *w;
    *out = NULL;
    if (!data_dtype_size((int)dtype)) return TM_FAIL(TM_ERR_INTERNAL, "dtype code %d cannot be written", (int)dtype);
    TM_TRY(mem_alloc(&w, 1, sizeof *w));
    w->g = g;
    w->dtype = dtype;
    w->tokens = (struct sink){.fd = -1, .path = w->own};
    enum status st = name_files(w, prefix);
    if (st == TM_OK) st = mem_alloc(&w->tokens.buffer, CHUNK, 1);
    if (st == TM_OK) st = open_file(w->own, O_RDWR | O_CREAT | O_TRUNC, &w->tokens.fd);
    if (st == TM_OK)
        *out = w;
    else
        data_writer_cancel(&w);
    return st;
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
    for (size_t i = 0; i < n; i++) {
        if (!holds(w->dtype, ids[i]))
            return TM_FAIL(TM_ERR_DATA, "%s: token %zu of sequence %zu has id %d: it does not fit in %zu bytes", w->bin,
                           i, w->n, (int)ids[i], size);
        TM_TRY(put(&w->tokens, ids[i], size));
    }
    w->lengths[w->n++] = (int32_t)n;
    return TM_OK;
}

enum status data_writer_end_document(struct data_writer *w) {
    TM_TRY(mem_grow(&w->ends, &w->cap_ends, w->documents + 1, sizeof *w->ends));
    w->ends[w->documents++] = (int64_t)w->n;
    return TM_OK;
}

/* --- finishing ----------------------------------------------------------------------------------------------------------*/

/* What lies before this rank's share, and the whole. */
static enum status add_up(const struct data_writer *w, struct share *before, struct share *all) {
    struct share mine = {w->tokens.at, (int64_t)w->n, (int64_t)w->documents}, *shares;
    int rank = par_group_rank(w->g), size = par_group_size(w->g);
    *before = *all = (struct share){0};
    enum status st = par_agree(w->g, mem_alloc(&shares, (size_t)size, sizeof *shares));
    if (st == TM_OK) st = par_allgather_bytes(w->g, &mine, sizeof mine, shares);
    for (int r = 0; r < size && st == TM_OK; r++) {
        if (r == rank) *before = *all;
        all->bytes += shares[r].bytes;
        all->sequences += shares[r].sequences;
        all->documents += shares[r].documents;
    }
    mem_free(&shares);
    return st;
}

/* This rank's tokens to their place in the first rank's file. */
static enum status place_tokens(struct data_writer *w, int64_t at) {
    struct sink *s = &w->tokens;
    int fd = s->fd;
    enum status st = TM_OK;
    if (par_group_rank(w->g) > 0) st = open_file(w->bin_tmp, O_WRONLY, &fd);
    for (int64_t done = 0, n; fd != s->fd && st == TM_OK && done < s->at; done += n) {
        n = size_min(CHUNK, s->at - done);
        st = file_pread(s->fd, w->own, s->buffer, (size_t)n, done);
        if (st == TM_OK) st = file_pwrite(fd, w->bin_tmp, s->buffer, (size_t)n, at + done);
    }
    if (st == TM_OK && file_sync(fd) != 0) st = TM_FAIL(TM_ERR_IO, "cannot sync %s: %s", w->bin_tmp, strerror(errno));
    if (fd != s->fd && fd >= 0) close(fd);
    return st;
}

static enum status put_header(const struct data_writer *w, struct sink *s, const struct share *all) {
    static const char magic[9] = "MMIDIDX\0";
    for (size_t i = 0; i < sizeof magic; i++) TM_TRY(put(s, magic[i], 1));
    TM_TRY(put(s, 1, 8)); /* version */
    TM_TRY(put(s, (int64_t)w->dtype, 1));
    TM_TRY(put(s, all->sequences, 8));
    return put(s, all->documents + 1, 8);
}

/* This rank's rows of the three arrays; the first rank also begins the file and the document bounds. */
static enum status put_rows(const struct data_writer *w, struct sink *s, const struct share *before,
                            const struct share *all) {
    int64_t size = (int64_t)data_dtype_size((int)w->dtype), at = before->bytes, sequences = all->sequences;
    bool first = par_group_rank(w->g) == 0;
    if (first) TM_TRY(put_header(w, s, all));
    TM_TRY(flush(s));
    s->at = HEADER + 4 * before->sequences;
    for (size_t i = 0; i < w->n; i++) TM_TRY(put(s, w->lengths[i], 4));
    TM_TRY(flush(s));
    s->at = HEADER + 4 * sequences + 8 * before->sequences;
    for (size_t i = 0; i < w->n; at += w->lengths[i++] * size) TM_TRY(put(s, at, 8));
    TM_TRY(flush(s));
    s->at = HEADER + 12 * sequences + 8 * (first ? 0 : before->documents + 1);
    if (first) TM_TRY(put(s, 0, 8));
    for (size_t i = 0; i < w->documents; i++) TM_TRY(put(s, before->sequences + w->ends[i], 8));
    return flush(s);
}

static enum status place_rows(struct data_writer *w, const struct share *before, const struct share *all) {
    struct sink s = {.fd = -1, .path = w->idx_tmp, .buffer = w->tokens.buffer};
    bool first = par_group_rank(w->g) == 0;
    int made = -1;
    enum status st = TM_OK;
    if (first) st = open_file(w->idx_tmp, O_WRONLY | O_CREAT | O_TRUNC, &made);
    if (made >= 0) close(made);
    TM_TRY(par_agree(w->g, st));
    st = open_file(w->idx_tmp, O_WRONLY, &s.fd);
    if (st == TM_OK) st = put_rows(w, &s, before, all);
    if (st == TM_OK && file_sync(s.fd) != 0) st = TM_FAIL(TM_ERR_IO, "cannot sync %s: %s", w->idx_tmp, strerror(errno));
    if (s.fd >= 0) close(s.fd);
    return par_agree(w->g, st);
}

/* An old index must never be seen beside new tokens. */
static enum status rename_both(const struct data_writer *w) {
    char dir[MAX_PATH];
    TM_TRY(str_copy(dir, sizeof dir, w->bin));
    char *slash = strrchr(dir, '/');
    if (slash) slash[slash == dir] = 0;
    if (unlink(w->idx) != 0 && errno != ENOENT)
        return TM_FAIL(TM_ERR_IO, "cannot replace %s: %s", w->idx, strerror(errno));
    if (rename(w->bin_tmp, w->bin) != 0) return TM_FAIL(TM_ERR_IO, "cannot rename %s: %s", w->bin_tmp, strerror(errno));
    if (rename(w->idx_tmp, w->idx) != 0) return TM_FAIL(TM_ERR_IO, "cannot rename %s: %s", w->idx_tmp, strerror(errno));
    return file_sync_dir(slash ? dir : ".");
}

enum status data_writer_finish(struct data_writer **handle) {
    struct data_writer *w = *handle;
    struct share before, all;
    enum status st = par_agree(w->g, flush(&w->tokens));
    if (st == TM_OK) st = add_up(w, &before, &all);
    if (st == TM_OK) st = par_agree(w->g, place_tokens(w, before.bytes));
    if (st == TM_OK) st = place_rows(w, &before, &all);
    if (st == TM_OK) st = par_agree(w->g, par_group_rank(w->g) == 0 ? rename_both(w) : TM_OK);
    data_writer_cancel(handle);
    return st;
}

void data_writer_cancel(struct data_writer **handle) {
    struct data_writer *w = *handle;
    if (!w) return;
    if (w->tokens.fd >= 0) {
        close(w->tokens.fd);
        unlink(w->own); /* gone already after a rename */
        if (par_group_rank(w->g) == 0) unlink(w->idx_tmp);
    }
    mem_free(&w->tokens.buffer);
    mem_free(&w->lengths);
    mem_free(&w->ends);
    mem_free(handle);
}
