/* --inspect: a checkpoint, a file of one, or all checkpoints of a run, as a table for people. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "ckpt/dirs.h"
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

/* --- one file of a checkpoint ------------------------------------------------------------------------------------------------- */
static enum status print_file(struct ckpt *c, int file, struct str *out) {
    char shape[96];
    TM_TRY(ckpt_verify_file(c, file));
    TM_TRY(str_printf(out,
                      "file       %s of checkpoint %s\nstep       %lld\nbytes      %lld, all as they were written\n",
                      c->t.files[file].name, c->dir, (long long)c->about.step, (long long)c->t.files[file].bytes));
    TM_TRY(str_printf(out, "\n%-5s  %14s  %14s  %-24s  name\n", "dtype", "offset", "bytes", "box"));
    for (int64_t i = 0; i < c->t.n_pieces; i++) {
        const struct ckpt_piece *p = &c->t.pieces[i];
        const struct tensor_desc *d = &c->t.tensors[p->tensor].desc;
        if (p->file != file) continue;
        size_t n = (size_t)snprintf(shape, sizeof shape, "[");
        for (int k = 0; k < p->box.rank && n < sizeof shape; k++)
            n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%lld:%lld", k ? ", " : "", (long long)p->box.lo[k],
                                  (long long)p->box.hi[k]);
        TM_TRY(str_printf(out, "%-5s  %14lld  %14lld  %s]%*s  %s\n", dtype_name(d->dtype), (long long)p->offset,
                          (long long)p->bytes, shape, n < 23 ? (int)(23 - n) : 0, "", d->name));
    }
    return TM_OK;
}

/* path = "<step folder>/rank_00000.h5": verified whole, and listed. */
static enum status inspect_file(const char *path, struct str *out) {
    char dir[4096];
    struct ckpt *c;
    int file = 0;
    TM_TRY(str_copy(dir, sizeof dir, path));
    char *slash = strrchr(dir, '/');
    if (slash) *slash = 0;
    const char *name = slash ? slash + 1 : path;
    TM_TRY(ckpt_open(slash ? dir : ".", &c));
    while (file < c->t.n_files && strcmp(c->t.files[file].name, name)) file++;
    enum status st = file < c->t.n_files ? print_file(c, file, out)
                                         : TM_FAIL(TM_ERR_DECK, "%s is no file of the checkpoint in its folder", path);
    ckpt_close(&c);
    return st;
}

/* --- all checkpoints of a run --------------------------------------------------------------------------------------------------- */
/* Without reading the data: the manifest, and that every file is there with its size. */
static enum status look(struct ckpt *c) {
    for (int f = 0; f < c->t.n_files; f++) TM_TRY(ckpt_use_file(c, f));
    return TM_OK;
}

static enum status print_line(const char *path, bool unfinished, struct str *out) {
    struct ckpt *c = NULL;
    enum status st = unfinished ? TM_OK : ckpt_open(path, &c);
    if (c && st == TM_OK) st = look(c);
    const char *word = unfinished ? "unfinished" : st == TM_OK ? "good" : "damaged";
    if (st != TM_OK || !c)
        st = str_printf(out, "%-10s  %14s  %5s  %-20s  %s%s%s\n", word, "-", "-", "-", path, st == TM_OK ? "" : ": ",
                        st == TM_OK ? "" : status_message());
    else
        st = str_printf(out, "%-10s  %14lld  %5d  %-20s  %s\n", word, (long long)c->t.bytes, c->t.n_files + 1,
                        c->about.when, path);
    ckpt_close(&c);
    return st;
}

static enum status list_stage(const char *dir, struct str *out) {
    char path[4096];
    struct step_dir *list;
    size_t n;
    TM_TRY(ckpt_dirs_list(dir, &list, &n));
    enum status st = TM_OK;
    for (size_t i = 0; st == TM_OK && i < n; i++) {
        st = ckpt_dirs_path(dir, &list[i], path, sizeof path);
        if (st == TM_OK) st = print_line(path, list[i].tmp, out);
    }
    mem_free(&list);
    return st;
}

/* The stages' folders in their order ("00-train", ...), the newest checkpoint of each first. */
static enum status list_run(const char *dir, struct str *out) {
    char path[4096];
    struct dirent **names;
    int n = scandir(dir, &names, NULL, alphasort);
    if (n < 0) return TM_FAIL(TM_ERR_IO, "cannot list %s: %s", dir, strerror(errno));
    enum status st = str_printf(out, "%-10s  %14s  %5s  %-20s  path\n", "state", "bytes of data", "files", "written");
    for (int i = 0; i < n; i++) {
        if (st == TM_OK && names[i]->d_name[0] != '.') {
            st = str_path(path, sizeof path, dir, names[i]->d_name);
            if (st == TM_OK && file_is_dir(path)) st = list_stage(path, out);
        }
        free(names[i]); /* scandir's own */
    }
    free(names);
    return st;
}

enum status ckpt_inspect(const char *path, struct str *out) {
    char manifest[4096], dir[4096];
    int64_t step;
    struct ckpt *c;
    if (file_exists(path) && !file_is_dir(path)) return inspect_file(path, out);
    TM_TRY(str_path(dir, sizeof dir, path, "ckpt"));
    if (file_is_dir(dir)) return list_run(dir, out);
    TM_TRY(str_path(manifest, sizeof manifest, path, CKPT_MANIFEST));
    TM_TRY(str_copy(dir, sizeof dir, path));
    if (!file_exists(manifest)) {
        TM_TRY(ckpt_find_latest(path, dir, sizeof dir, &step));
        if (step < 0)
            return TM_FAIL(TM_ERR_DECK,
                           "%s: neither a run's directory, a checkpoint, a file of one, nor a folder of checkpoints",
                           path);
    }
    TM_TRY(ckpt_open(dir, &c));
    enum status st = print(c, out);
    ckpt_close(&c);
    return st;
}
