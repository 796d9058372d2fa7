/* The run's ledger: one JSON object a line, appended and synced. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"

enum { LEDGER_MAX = 1 << 28 };

/* Does the file end in the middle of a line (a crash, a full disk)? */
static bool torn(const char *path) {
    int64_t size = file_size(path);
    int fd = size > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    char last = '\n';
    if (fd < 0) return false;
    ssize_t n = pread(fd, &last, 1, size - 1);
    close(fd);
    return n == 1 && last != '\n';
}

/* The line's text, with "when" (UTC) in front unless it says so itself. NULL: no object, or out of memory. Free it with free(). */
static char *line_text(const json_t *line) {
    char when[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    if (!json_is_object(line)) return NULL;
    if (json_object_get(line, "when")) return json_dumps(line, JSON_COMPACT);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    json_t *whole = json_pack("{s:s}", "when", when);
    char *text = json_object_update(whole, (json_t *)(uintptr_t)line) == 0 ? json_dumps(whole, JSON_COMPACT) : NULL;
    json_decref(whole);
    return text;
}

enum status ckpt_ledger_append(const char *run_dir, const json_t *line) {
    char path[4096];
    struct str s = {0};
    TM_TRY(str_path(path, sizeof path, run_dir, "ledger.jsonl"));
    char *text = line_text(line);
    if (!text) return TM_FAIL(TM_ERR_INTERNAL, "a ledger line must be a JSON object");
    enum status st = str_printf(&s, "%s%s\n", torn(path) ? "\n" : "", text);
    free(text);
    if (st == TM_OK) st = file_append(path, s.p, s.len);
    str_free(&s);
    return st;
}

enum status ckpt_ledger_read(const char *run_dir, json_t **out) {
    char path[4096], *text;
    size_t n;
    *out = NULL;
    TM_TRY(str_path(path, sizeof path, run_dir, "ledger.jsonl"));
    json_t *all = json_array();
    if (!all) return TM_FAIL(TM_ERR_MEMORY, "out of memory reading %s", path);
    *out = all;
    if (!file_exists(path)) return TM_OK;
    enum status st = file_read(path, LEDGER_MAX, &text, &n);
    if (st != TM_OK) {
        json_decref(all);
        *out = NULL;
        return st;
    }
    int number = 1;
    for (char *p = text, *end; p < text + n; p = end + 1, number++) {
        json_t *line;
        end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end) end = text + n;
        if (end == p) continue;
        if (json_read_buffer(p, (size_t)(end - p), path, &line) == TM_OK)
            json_array_append_new(all, line);
        else
            log_warn("%s: line %d is left out: %s", path, number, status_message());
    }
    mem_free(&text);
    return TM_OK;
}
