/* The timeline: each rank's spans, gathered by rank 0. */
#include "stage/timeline.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/span.h"
#include "hub/pretty.h"
#include "stage/profile.h"

/* Spans in a file: browsers show 25 MB of them well. */
enum { SPANS = 1 << 18, SPANS_RANK = 1 << 16, SPANS_LEAST = 64 };

static double zero_; /* of this process, as what is recorded */

enum status stage_timeline_begin(void) {
    int64_t share = SPANS / par_size();
    zero_ = clock_seconds();
    return span_start(share > SPANS_RANK ? SPANS_RANK : share < SPANS_LEAST ? SPANS_LEAST : share);
}

/* "rank 3: tp 1 pp 0 dp 1 on node7", and what was left out. */
static enum status name_rank(const struct par_grid *g, struct str *out) {
    char host[64] = "", name[256];
    int n;
    gethostname(host, sizeof host - 1);
    n = snprintf(name, sizeof name, "rank %d: tp %d pp %d dp %d on %s", par_rank(), g->tp_rank, g->pp_rank, g->dp_rank,
                 host);
    if (span_least() > 0 && n > 0 && (size_t)n < sizeof name)
        snprintf(name + n, sizeof name - (size_t)n, " (without spans below %.0f us)", 1e6 * span_least());
    TM_TRY(
        str_printf(out, "{\"ph\": \"M\", \"pid\": %d, \"name\": \"process_name\", \"args\": {\"name\": ", par_rank()));
    TM_TRY(hub_json_string(name, true, out));
    TM_TRY(str_printf(out,
                      "}},\n{\"ph\": \"M\", \"pid\": %d, \"name\": \"process_sort_index\", \"args\": "
                      "{\"sort_index\": %d}}",
                      par_rank(), par_rank()));
    return TM_OK;
}

/* This rank's lines. Times are microseconds with three digits. */
static enum status make_lines(const struct par_grid *g, struct str *out) {
    const struct span *v = span_list();
    TM_TRY(name_rank(g, out));
    for (int64_t i = 0; i < span_count(); i++) {
        const int row = !strcmp(v[i].kind, "beside"); /* rows of their own: they nest with nothing */
        TM_TRY(str_printf(out, ",\n{\"ph\": \"X\", \"pid\": %d, \"tid\": %d, \"cat\": \"%s\", \"name\": ", par_rank(),
                          row, v[i].kind));
        TM_TRY(hub_json_string(v[i].name, true, out));
        TM_TRY(str_printf(out, ", \"ts\": %.3f, \"dur\": %.3f}", 1e6 * (v[i].begin - zero_),
                          1e6 * (v[i].end - v[i].begin)));
    }
    return TM_OK;
}

static enum status add_lines(void *context, int rank, const void *data, int64_t bytes) {
    struct str *all = context;
    if (rank > 0) TM_TRY(str_printf(all, ",\n"));
    return str_append(all, data, (size_t)bytes);
}

enum status stage_timeline_write_all(struct stage_run *r) {
    char path[4096];
    struct str mine = {0}, all = {0};
    enum status st = par_rank() == 0 ? str_printf(&all, "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n") : TM_OK;
    if (st == TM_OK) st = make_lines(&r->grid, &mine);
    st = par_agree_all(st);
    if (st == TM_OK) st = stage_collect_all(r, mine.p, (int64_t)mine.len, add_lines, &all);
    if (st == TM_OK && par_rank() == 0) {
        st = str_printf(&all, "\n]}\n");
        if (st == TM_OK) st = str_path(path, sizeof path, r->deck->run.dir, "trace.json");
        if (st == TM_OK) st = file_write(path, all.p, all.len);
        if (st == TM_OK) log_info("timeline path=%s bytes=%lld", path, (long long)all.len);
    }
    str_free(&mine);
    str_free(&all);
    return par_agree_all(st);
}
