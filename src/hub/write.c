/* Filling the files of a plan, and giving them their names when all are complete. */
#include "hub/write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "hub/pretty.h"

enum { PATH_BYTES = 4096 };
static const char index_name[] = "model.safetensors.index.json";

struct hub_writer {
    const struct hub_plan *plan;
    int file, fd;
    int64_t written, begun; /* begun: of file_write_behind */
    char tmp[PATH_BYTES];
};

static enum status io_error(const char *what, const char *path) {
    return TM_FAIL(TM_ERR_IO, "cannot %s %s: %s", what, path, strerror(errno));
}

enum status hub_write_begin(const struct hub_plan *plan, int file, const char *path, struct hub_writer **out) {
    const struct hub_plan_file *f = &plan->files[file];
    *out = NULL;
    if (strlen(path) + 5 > PATH_BYTES) return TM_FAIL(TM_ERR_IO, "path too long: %s", path);
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    struct hub_writer *w = *out;
    *w = (struct hub_writer){.plan = plan, .file = file, .written = f->header_bytes};
    snprintf(w->tmp, sizeof w->tmp, "%s.tmp", path);
    w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        enum status st = io_error("create", w->tmp);
        mem_free(out);
        return st;
    }
    enum status st = file_pwrite(w->fd, w->tmp, f->header, (size_t)f->header_bytes, 0);
    if (st != TM_OK) hub_write_drop(out);
    return st;
}

enum status hub_write_tensor(struct hub_writer *w, int item, int64_t offset, const void *bytes, int64_t n) {
    const struct hub_item *it = &w->plan->items[item];
    if (it->file != w->file || offset < 0 || n < 0 || n > it->bytes || offset > it->bytes - n)
        return TM_FAIL(TM_ERR_INTERNAL, "%s: bytes %lld to %lld of tensor \"%s\", which has %lld in file %d", w->tmp,
                       (long long)offset, (long long)(offset + n), it->name, (long long)it->bytes, it->file);
    TM_TRY(file_pwrite(w->fd, w->tmp, bytes, (size_t)n, it->offset + offset));
    w->written += n;
    file_write_behind(w->fd, it->offset + offset + n, &w->begun);
    return TM_OK;
}

void hub_write_drop(struct hub_writer **w) {
    if (!*w) return;
    if ((*w)->fd >= 0) close((*w)->fd);
    unlink((*w)->tmp);
    mem_free(w);
}

enum status hub_write_end(struct hub_writer **out) {
    struct hub_writer *w = *out;
    int64_t want = w->plan->files[w->file].bytes;
    enum status st = TM_OK;
    if (w->written != want)
        st = TM_FAIL(TM_ERR_INTERNAL, "%s: %lld bytes were written, the plan has %lld", w->tmp, (long long)w->written,
                     (long long)want);
    if (st == TM_OK && file_sync(w->fd) != 0) st = io_error("sync", w->tmp);
    if (file_close(w->fd) != 0 && st == TM_OK) st = io_error("close", w->tmp);
    if (st != TM_OK) unlink(w->tmp);
    mem_free(out);
    return st;
}

/* --- a directory -------------------------------------------------------------------------------------------------------- */

static bool planned(const struct hub_plan *plan, const char *name) {
    for (int f = 0; f < plan->files_n; f++)
        if (!strcmp(plan->files[f].name, name)) return true;
    return !strcmp(name, index_name) && plan->files_n > 1;
}

enum status hub_prepare_dir(const char *dir, const struct hub_plan *plan) {
    TM_TRY(file_make_dirs(dir));
    int64_t need = 0, have = file_free_bytes(dir);
    for (int f = 0; f < plan->files_n; f++) need += plan->files[f].bytes;
    if (have >= 0 && have < need)
        return TM_FAIL(TM_ERR_IO, "%s: %lld bytes are free, the export needs %lld", dir, (long long)have,
                       (long long)need);
    DIR *d = opendir(dir);
    if (!d) return io_error("open directory", dir);
    enum status st = TM_OK;
    for (struct dirent *e; st == TM_OK && (e = readdir(d));)
        if ((str_glob("*.safetensors", e->d_name) || !strcmp(e->d_name, index_name)) && !planned(plan, e->d_name))
            st = TM_FAIL(TM_ERR_IO,
                         "%s holds %s, which is not part of this export: choose another directory or remove it", dir,
                         e->d_name);
    closedir(d);
    return st;
}

static enum status rename_tmp(const char *path) {
    char tmp[PATH_BYTES];
    if (snprintf(tmp, sizeof tmp, "%s.tmp", path) >= (int)sizeof tmp)
        return TM_FAIL(TM_ERR_IO, "path too long: %s", path);
    if (rename(tmp, path) == 0) return TM_OK;
    enum status st = io_error("rename", tmp);
    unlink(tmp);
    return st;
}

enum status hub_commit_dir(const char *dir, const struct hub_plan *plan) {
    char path[PATH_BYTES], index[PATH_BYTES];
    json_t *j;
    TM_TRY(str_path(index, sizeof index, dir, index_name));
    /* An older index goes first: a kill in between leaves no model rather than a mixed one. */
    if (plan->files_n > 1 && unlink(index) != 0 && errno != ENOENT) return io_error("remove", index);
    for (int f = 0; f < plan->files_n; f++) {
        TM_TRY(str_path(path, sizeof path, dir, plan->files[f].name));
        TM_TRY(rename_tmp(path));
    }
    TM_TRY(file_sync_dir(dir));
    if (plan->files_n == 1) return TM_OK;
    TM_TRY(hub_plan_index(plan, &j));
    enum status st = hub_write_json(index, j, 2);
    json_decref(j);
    return st;
}

/* --- one file from memory ----------------------------------------------------------------------------------------------- */

static enum status sync_parent(const char *path) {
    char dir[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    if (!slash) return file_sync_dir(".");
    snprintf(dir, sizeof dir, "%.*s", (int)(slash == path ? 1 : slash - path), path);
    return file_sync_dir(dir);
}

static enum status save_planned(const char *path, const struct hub_plan *plan, const void *const *data) {
    struct hub_writer *w;
    enum status st = hub_write_begin(plan, 0, path, &w);
    for (int i = 0; i < plan->n && st == TM_OK; i++)
        st = hub_write_tensor(w, i, 0, data[plan->items[i].source], plan->items[i].bytes);
    if (st != TM_OK) {
        hub_write_drop(&w);
        return st;
    }
    TM_TRY(hub_write_end(&w));
    TM_TRY(rename_tmp(path));
    return sync_parent(path);
}

enum status hub_save(const char *path, const struct hub_tensor *tensors, const void *const *data, int n,
                     json_t *metadata) {
    struct hub_plan *plan;
    TM_TRY(hub_plan_create(tensors, n, INT64_MAX, metadata, &plan));
    enum status st = save_planned(path, plan, data);
    hub_plan_destroy(&plan);
    return st;
}
