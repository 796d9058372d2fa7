/* --inspect: a checkpoint as a table for people. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "ckpt/open.h"

static void print_shape(const struct tensor_desc *d, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "[");
    for (int i = 0; i < d->rank && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%lld", i ? ", " : "", (long long)d->shape[i]);
    if (n < cap) snprintf(out + n, cap - n, "]");
}

static enum status print(const struct ckpt *c, struct str *out) {
    const struct ckpt_table *t = &c->t;
    char shape[96], *grid = json_dumps(c->about.grid, JSON_COMPACT), *meta = json_dumps(c->about.meta, JSON_INDENT(2));
    enum status st = str_printf(out, "checkpoint %s\nstep       %lld\nwritten    %s by %s\ngrid       %s\n", c->dir,
                                (long long)c->about.step, c->about.when, c->about.code, grid ? grid : "?");
    if (st == TM_OK)
        st = str_printf(out, "tensors    %d in %lld pieces, %lld bytes\nmetadata   %s\n\n%12s  bytes on disk\n", t->n,
                        (long long)t->n_pieces, (long long)t->bytes, meta ? meta : "?", "file");
    free(grid);
    free(meta);
    for (int i = 0; st == TM_OK && i < t->n_files; i++)
        st = str_printf(out, "%s  %lld\n", t->files[i].name, (long long)t->files[i].bytes);
    if (st == TM_OK) st = str_printf(out, "\n%-5s  %7s  %14s  %-24s  name\n", "dtype", "pieces", "bytes", "shape");
    for (int i = 0; st == TM_OK && i < t->n; i++) {
        const struct tensor_desc *d = &t->tensors[i].desc;
        print_shape(d, shape, sizeof shape);
        st = str_printf(out, "%-5s  %7lld  %14lld  %-24s  %s\n", dtype_name(d->dtype), (long long)t->tensors[i].pieces,
                        (long long)tensor_elems(d) * (long long)dtype_bytes(d->dtype), shape, d->name);
    }
    return st;
}

enum status ckpt_inspect(const char *path, struct str *out) {
    char manifest[4096], dir[4096];
    int64_t step;
    struct ckpt *c;
    TM_TRY(str_path(manifest, sizeof manifest, path, CKPT_MANIFEST));
    TM_TRY(str_copy(dir, sizeof dir, path));
    if (!file_exists(manifest)) {
        TM_TRY(ckpt_find_latest(path, dir, sizeof dir, &step));
        if (step < 0) return TM_FAIL(TM_ERR_DECK, "%s: neither a checkpoint nor a folder of checkpoints", path);
    }
    TM_TRY(ckpt_open(dir, &c));
    enum status st = print(c, out);
    ckpt_close(&c);
    return st;
}
