/* The table of a checkpoint: look-up by name, and the hash of what lies between the pieces. */
#include "ckpt/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/size.h"

void ckpt_table_free(struct ckpt_table *t) {
    mem_free(&t->tensors);
    mem_free(&t->pieces);
    mem_free(&t->files);
    mem_free(&t->hashes);
    mem_free(&t->by_name);
    *t = (struct ckpt_table){0};
}

bool ckpt_table_good_name(const char *name) {
    for (const char *p = name;;) { /* parts between slashes: not empty, not "." (HDF5 would read those as no group) */
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 1 && p[0] == '.')) return false;
        for (size_t i = 0; i < n; i++)
            if ((unsigned char)p[i] < 0x20 || p[i] == 0x7f) return false;
        if (!p[n]) return true;
        p += n + 1;
    }
}

static int by_name(const void *a, const void *b, void *arg) {
    const struct ckpt_entry *e = arg;
    return strcmp(e[*(const int *)a].desc.name, e[*(const int *)b].desc.name);
}

enum status ckpt_table_sort_names(struct ckpt_table *t) {
    TM_TRY(mem_alloc(&t->by_name, (size_t)t->n, sizeof *t->by_name));
    for (int i = 0; i < t->n; i++) t->by_name[i] = i;
    if (t->n) qsort_r(t->by_name, (size_t)t->n, sizeof *t->by_name, by_name, t->tensors);
    for (int i = 1; i < t->n; i++) {
        const char *name = t->tensors[t->by_name[i]].desc.name;
        if (!strcmp(name, t->tensors[t->by_name[i - 1]].desc.name))
            return TM_FAIL(TM_ERR_FORMAT, "two tensors of the name \"%s\"", name);
    }
    return TM_OK;
}

int ckpt_table_find(const struct ckpt_table *t, const char *name) {
    int lo = 0, hi = t->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(t->tensors[t->by_name[mid]].desc.name, name);
        if (order == 0) return t->by_name[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

struct range {
    int64_t lo, hi;
};

static int by_offset(const void *a, const void *b) {
    const struct range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

enum status ckpt_table_hash_rest(const struct ckpt_table *t, int file, int fd, const char *path, int64_t size,
                                 void *buf, uint64_t *out) {
    struct range *used = NULL;
    size_t n = 0, cap = 0;
    enum status st = TM_OK;
    for (int64_t i = 0; st == TM_OK && i < t->n_pieces; i++) {
        const struct ckpt_piece *p = &t->pieces[i];
        if (p->file != file) continue;
        st = mem_grow(&used, &cap, n + 1, sizeof *used);
        if (st == TM_OK) used[n++] = (struct range){p->offset, p->offset + p->bytes};
    }
    if (n) qsort(used, n, sizeof *used, by_offset);
    uint64_t h = 0;
    int64_t at = 0;
    for (size_t i = 0; st == TM_OK && i <= n; i++) {
        for (int64_t end = i < n ? used[i].lo : size; st == TM_OK && at < end;) {
            int64_t m = size_min(end - at, CKPT_BLOCK);
            st = file_pread(fd, path, buf, (size_t)m, at);
            h = hash_bytes(buf, (size_t)m, h);
            at += m;
        }
        if (i < n) at = size_max(at, used[i].hi);
    }
    mem_free(&used);
    *out = h;
    return st;
}
