/* Content fingerprints of a deck's inputs. */
#include "stage/fingerprint.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/size.h"
#include "base/str.h"

enum { SAMPLE = 1 << 20 };

/* Size, first and last MiB of a file, added to *sum under its name: an order-free sum over a directory's files. */
static enum status add_file(const char *path, const char *name, uint64_t *sum) {
    int fd;
    int64_t size;
    char *buffer = NULL;
    TM_TRY(file_open(path, &fd, &size));
    int64_t n = size_min(size, SAMPLE);
    enum status st = mem_alloc(&buffer, (size_t)(2 * n), 1);
    if (st == TM_OK && n) st = file_pread(fd, path, buffer, (size_t)n, 0);
    if (st == TM_OK && n) st = file_pread(fd, path, buffer + n, (size_t)n, size - n);
    close(fd);
    if (st == TM_OK)
        *sum += hash_element(hash_bytes(name, strlen(name), 0), (uint64_t)size,
                             n ? hash_bytes(buffer, (size_t)(2 * n), 0) : 0);
    mem_free(&buffer);
    return st;
}

static enum status add_path(const char *path, uint64_t *sum) {
    char file[4096];
    if (!file_is_dir(path)) return add_file(path, "", sum);
    DIR *d = opendir(path);
    if (!d) return TM_FAIL(TM_ERR_IO, "cannot open directory %s", path);
    enum status st = TM_OK;
    for (struct dirent *e; st == TM_OK && (e = readdir(d));) {
        st = str_path(file, sizeof file, path, e->d_name);
        if (st == TM_OK && !file_is_dir(file)) st = add_file(file, e->d_name, sum);
    }
    closedir(d);
    return st;
}

/* One input: the path itself, or the two files of a token shard's prefix. Its key says what it is for, not where it lies: other
 * content is refused wherever it is, and the same content may have moved. */
static enum status add_input(json_t *o, const struct deck *d, const struct deck_stage *s, const char *what,
                             const char *path) {
    static const char *const endings[] = {"", ".bin", ".idx"};
    char key[600], file[4200], text[32];
    uint64_t sum = 0;
    bool found = false;
    size_t n = strlen(d->run.dir);
    if (!*path || (!strncmp(path, d->run.dir, n) && path[n] == '/')) return TM_OK;
    for (int i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%.4000s%s", path, endings[i]);
        if (!file_exists(file)) continue;
        TM_TRY(add_path(file, &sum));
        found = true;
    }
    if (!found) return TM_OK;
    snprintf(key, sizeof key, "%s of stage %.255s", what, s->name);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)sum);
    return json_object_set_new(o, key, json_string(text)) == 0 ? TM_OK : TM_FAIL(TM_ERR_MEMORY, "out of memory");
}

static enum status add_stage(json_t *o, const struct deck *d, const struct deck_stage *s) {
    char what[256];
    TM_TRY(add_input(o, d, s, "model.path", s->model.path));
    TM_TRY(add_input(o, d, s, "model.random_init", s->model.random_init));
    TM_TRY(add_input(o, d, s, "model.tokenizer", s->model.tokenizer));
    TM_TRY(add_input(o, d, s, "teacher.path", s->teacher.path));
    for (int i = 0; s->dataset && i < s->dataset->sources.n; i++) {
        snprintf(what, sizeof what, "datasets.%.200s.sources[%d]", s->dataset->name, i);
        TM_TRY(add_input(o, d, s, what, s->dataset->sources.v[i].path));
    }
    return TM_OK;
}

enum status stage_fingerprint(const struct deck *d, json_t **out) {
    *out = json_object();
    enum status st = *out ? TM_OK : TM_FAIL(TM_ERR_MEMORY, "out of memory");
    for (int i = 0; st == TM_OK && i < d->stages.n; i++) st = add_stage(*out, d, &d->stages.v[i]);
    return st;
}

const char *stage_fingerprint_changed(const json_t *old, const json_t *now) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)old, key, value) {
        const json_t *other = json_object_get(now, key);
        if (other && !json_equal(value, other)) return key;
    }
    return NULL;
}
