/* The folders of a stage's checkpoints: names, list, pruning, and which is the newest. */
#include "ckpt/dirs.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"
#include "ckpt/table.h"

enum status ckpt_dirs_path(const char *dir, const struct step_dir *d, char *out, size_t cap) {
    char name[64];
    snprintf(name, sizeof name, "step_%08lld%s", (long long)d->step, d->tmp ? ".tmp" : d->old ? ".old" : "");
    return str_path(out, cap, dir, name);
}

/* Is `name` such a folder's? The number is compared as printed, so "step_7" is not taken for step_00000007. */
static bool parse_name(const char *name, struct step_dir *d) {
    long long step;
    int used = 0;
    char again[64];
    if (sscanf(name, "step_%18lld%n", &step, &used) != 1 || step < 0) return false;
    d->step = step;
    d->tmp = !strcmp(name + used, ".tmp");
    d->old = !strcmp(name + used, ".old");
    int n = snprintf(again, sizeof again, "step_%08lld", step);
    return n == used && !strncmp(name, again, (size_t)n) && (!name[used] || d->tmp || d->old);
}

static int newest_first(const void *a, const void *b) {
    const struct step_dir *x = a, *y = b;
    if (x->step != y->step) return x->step > y->step ? -1 : 1;
    return (int)x->old - (int)y->old;
}

enum status ckpt_dirs_list(const char *dir, struct step_dir **out, size_t *n) {
    size_t cap = 0;
    enum status st = TM_OK;
    struct step_dir one;
    *out = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT) return TM_OK;
    if (!d) return TM_FAIL(TM_ERR_IO, "cannot list %s: %s", dir, strerror(errno));
    for (struct dirent *e; st == TM_OK && (e = readdir(d));) {
        if (!parse_name(e->d_name, &one)) continue;
        st = mem_grow(out, &cap, *n + 1, sizeof **out);
        if (st == TM_OK) (*out)[(*n)++] = one;
    }
    closedir(d);
    if (st != TM_OK) mem_free(out);
    if (*out) qsort(*out, *n, sizeof **out, newest_first);
    return st;
}

static enum status check_files(const char *step_dir, const struct ckpt_table *t) {
    char path[4096];
    for (int i = 0; i < t->n_files; i++) {
        TM_TRY(str_path(path, sizeof path, step_dir, t->files[i].name));
        const int64_t size = file_size(path);
        if (size < 0) return TM_FAIL(TM_ERR_IO, "%s is not there", path);
        if (size != t->files[i].bytes)
            return TM_FAIL(TM_ERR_FORMAT, "%s has %lld bytes, the manifest says %lld", path, (long long)size,
                           (long long)t->files[i].bytes);
    }
    return TM_OK;
}

enum status ckpt_dirs_check(const char *step_dir) {
    struct ckpt_table t;
    struct ckpt_about about;
    json_t *root;
    char *text, where[4096];
    size_t n;
    TM_TRY(str_path(where, sizeof where, step_dir, CKPT_MANIFEST));
    TM_TRY(ckpt_manifest_read(step_dir, &text, &n));
    enum status st = ckpt_manifest_parse(text, n, where, &t, &root, &about);
    if (st == TM_OK) st = check_files(step_dir, &t);
    mem_free(&text);
    ckpt_table_free(&t);
    json_decref(root);
    return st;
}

enum status ckpt_find_latest(const char *dir, char *out, size_t cap, int64_t *step) {
    struct step_dir *list;
    size_t n;
    *step = -1;
    out[0] = 0;
    TM_TRY(ckpt_dirs_list(dir, &list, &n));
    enum status st = TM_OK;
    for (size_t i = 0; st == TM_OK && *step < 0 && i < n; i++) {
        if (list[i].tmp) continue;
        st = ckpt_dirs_path(dir, &list[i], out, cap);
        if (st != TM_OK) break;
        if (ckpt_dirs_check(out) == TM_OK)
            *step = list[i].step;
        else
            log_warn("checkpoint %s is passed over: %s", out, status_message());
    }
    mem_free(&list);
    if (*step < 0) out[0] = 0;
    return st;
}

enum status ckpt_dirs_remove_tmp(const char *dir) {
    char path[4096];
    struct step_dir *list;
    size_t n;
    TM_TRY(ckpt_dirs_list(dir, &list, &n));
    enum status st = TM_OK;
    for (size_t i = 0; st == TM_OK && i < n; i++) {
        if (!list[i].tmp) continue;
        st = ckpt_dirs_path(dir, &list[i], path, sizeof path);
        if (st == TM_OK) st = file_remove_tree(path);
    }
    mem_free(&list);
    return st;
}

/* The manifest goes first: what is left by a kill in between is no checkpoint. */
static enum status remove_step(const char *path) {
    char manifest[4096];
    TM_TRY(str_path(manifest, sizeof manifest, path, CKPT_MANIFEST));
    if (unlink(manifest) != 0 && errno != ENOENT)
        return TM_FAIL(TM_ERR_IO, "cannot remove %s: %s", manifest, strerror(errno));
    return file_remove_tree(path);
}

enum status ckpt_dirs_prune(const char *dir, int keep, int64_t saved) {
    char path[4096];
    struct step_dir *list;
    size_t n;
    int kept = 0;
    TM_TRY(ckpt_dirs_list(dir, &list, &n));
    enum status st = TM_OK;
    for (size_t i = 0; st == TM_OK && i < n; i++) {
        bool stale =
            list[i].old && i > 0 && list[i - 1].step == list[i].step; /* the new step_N stands right before it */
        if (list[i].tmp || (!stale && list[i].step == saved && ++kept)) continue;
        st = ckpt_dirs_path(dir, &list[i], path, sizeof path);
        if (st != TM_OK) break;
        bool remove = stale || (keep > 0 && kept >= keep);
        if (remove)
            st = remove_step(path);
        else if (ckpt_dirs_check(path) == TM_OK)
            kept++;
    }
    mem_free(&list);
    return st;
}
