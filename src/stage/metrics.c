/* metrics.jsonl. */
#include "stage/metrics.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "hub/pretty.h"

static enum status metrics_path(const struct stage_run *r, char *path, size_t cap) {
    return str_path(path, cap, r->deck->run.dir, "metrics.jsonl");
}

/* Keep a line? Torn lines and later steps of the stage go. */
static bool keeps(const char *line, size_t n, const char *stage, int64_t done) {
    json_t *j = json_loadb(line, n, 0, NULL);
    const char *name = json_string_value(json_object_get(j, "stage"));
    bool keep = name && (strcmp(name, stage) || json_integer_value(json_object_get(j, "step")) <= done);
    json_decref(j);
    return keep;
}

enum status stage_metrics_begin(struct stage_run *r, const struct deck_stage *s, int64_t done) {
    char path[4096], *text;
    struct str kept = {0};
    size_t n;
    if (par_rank() != 0 || r->plan) return TM_OK;
    TM_TRY(metrics_path(r, path, sizeof path));
    if (!file_exists(path)) return TM_OK;
    TM_TRY(file_read(path, (size_t)1 << 32, &text, &n));
    enum status st = TM_OK;
    for (char *p = text, *end; st == TM_OK && p < text + n; p = end + 1) {
        end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end) break;
        if (keeps(p, (size_t)(end - p), s->name, done)) st = str_append(&kept, p, (size_t)(end - p) + 1);
    }
    if (st == TM_OK && kept.len != n) st = file_write(path, kept.p ? kept.p : "", kept.len);
    str_free(&kept);
    mem_free(&text);
    return st;
}

enum status stage_metrics(struct stage_run *r, const struct deck_stage *s, int64_t step, const struct stage_metric *m,
                          int n) {
    char path[4096];
    struct str line = {0};
    if (par_rank() != 0) return TM_OK;
    TM_TRY(metrics_path(r, path, sizeof path));
    enum status st = str_printf(&line, "{\"stage\": ");
    if (st == TM_OK) st = hub_json_string(s->name, true, &line);
    if (st == TM_OK) st = str_printf(&line, ", \"step\": %lld", (long long)step);
    for (int i = 0; i < n && st == TM_OK; i++)
        st = isfinite(m[i].value) ? str_printf(&line, ", \"%s\": %.9g", m[i].name, m[i].value)
                                  : str_printf(&line, ", \"%s\": null", m[i].name);
    if (st == TM_OK) st = str_printf(&line, "}\n");
    if (st == TM_OK) st = file_append(path, line.p, line.len);
    str_free(&line);
    return st;
}
