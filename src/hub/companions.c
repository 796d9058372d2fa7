/* The files of a model directory that go along with the weights: tokenizer, chat template, generation settings, licences. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "hub/export.h"

enum { PATH_BYTES = 4096, COPY_MAX = 1 << 30 };

static const char *const copied_files[] = {
    "tokenizer*.json",   "tokenizer.model",     "special_tokens_map.json", "vocab.json", "merges.txt",
    "added_tokens.json", "chat_template.jinja", "generation_config.json",  "LICENSE*"};

static bool goes_along(const char *name) {
    for (size_t i = 0; i < sizeof copied_files / sizeof *copied_files; i++)
        if (str_glob(copied_files[i], name)) return true;
    return false;
}

static enum status copy_file(const char *from, const char *to, const char *name, int *copied) {
    char in[PATH_BYTES], out[PATH_BYTES], *bytes;
    size_t n;
    TM_TRY(str_path(in, sizeof in, from, name));
    if (file_is_dir(in)) return TM_OK; /* LICENSES/, say */
    TM_TRY(str_path(out, sizeof out, to, name));
    TM_TRY(file_read(in, COPY_MAX, &bytes, &n));
    enum status st = file_write(out, bytes, n);
    mem_free(&bytes);
    *copied += st == TM_OK;
    return st;
}

enum status hub_copy_files(const char *from, const char *to, int *copied) {
    struct stat a, b;
    *copied = 0;
    TM_TRY(file_make_dirs(to));
    if (stat(from, &a) == 0 && stat(to, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino) return TM_OK;
    DIR *d = opendir(from);
    if (!d) return TM_FAIL(TM_ERR_IO, "cannot open directory %s: %s", from, strerror(errno));
    enum status st = TM_OK;
    for (struct dirent *e; st == TM_OK && (e = readdir(d));)
        if (goes_along(e->d_name)) st = copy_file(from, to, e->d_name, copied);
    closedir(d);
    return st;
}
