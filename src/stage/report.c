/* results.json, usage.json, report.html, and the table at the end of a run. */
#include "stage/report.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "hub/pretty.h"
#include "stage/report_html.h"
#include "stage/report_table.h"

static void now(char *out, size_t cap) {
    struct tm tm;
    time_t t = time(NULL);
    *out = 0;
    if (localtime_r(&t, &tm)) strftime(out, cap, "%Y-%m-%d %H:%M %z", &tm);
}

static enum status write_page(struct stage_run *r, const struct report_rows *rows, const struct report_curves *curves,
                              const struct starts *starts) {
    char date[64], host[256] = "", path[4096];
    struct report_out out = {0};
    struct report_recovery recovery = report_recovery(r, rows);
    struct report_page page = {r, rows, &recovery, curves, starts, date, host};
    now(date, sizeof date);
    gethostname(host, sizeof host - 1);
    report_html(&page, &out);
    enum status st = out.st;
    if (st == TM_OK) st = str_path(path, sizeof path, r->deck->run.dir, "report.html");
    if (st == TM_OK) st = file_write(path, out.text.p, out.text.len);
    str_free(&out.text);
    return st;
}

static enum status write_html(struct stage_run *r) {
    char path[4096];
    struct report_rows rows;
    struct report_curves curves = {0};
    struct starts starts = {0};
    TM_TRY(str_path(path, sizeof path, r->deck->run.dir, "metrics.jsonl"));
    enum status st = report_collect(r, &rows);
    if (st == TM_OK) st = report_read_curves(path, &curves);
    if (st == TM_OK) st = stage_history_read(r->deck->run.dir, &starts);
    if (st == TM_OK) st = write_page(r, &rows, &curves, &starts);
    mem_free(&starts.v);
    report_curves_free(&curves);
    mem_free(&rows.v);
    return st;
}

enum status stage_report_write(struct stage_run *r) {
    char path[4096];
    if (par_rank() != 0) return TM_OK;
    TM_TRY(str_path(path, sizeof path, r->deck->run.dir, "results.json"));
    TM_TRY(hub_write_json(path, r->results, 2));
    if (r->usage) {
        TM_TRY(str_path(path, sizeof path, r->deck->run.dir, "usage.json"));
        TM_TRY(hub_write_json(path, r->usage, 2));
    }
    return write_html(r);
}

enum status stage_report_print(struct stage_run *r) {
    struct report_rows rows;
    struct report_out out = {0};
    if (par_rank() != 0) return TM_OK;
    enum status st = report_collect(r, &rows);
    struct report_recovery recovery = {0};
    if (st == TM_OK) recovery = report_recovery(r, &rows);
    if (st == TM_OK && rows.n) report_table_text(&rows, &recovery, &out);
    if (st == TM_OK) st = out.st;
    if (st == TM_OK && out.text.len) {
        printf("\n%s", out.text.p);
        fflush(stdout);
    }
    str_free(&out.text);
    mem_free(&rows.v);
    return st;
}
