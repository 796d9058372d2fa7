/* TEST ranks=1 tier=1 */
/* stage/: metrics.jsonl across restarts, and the curves that are drawn from it. */
#include "base/file.h"
#include "base/mem.h"
#include "stage/metrics.h"
#include "stage/report_data.h"
#include "stage/report_svg.h"
#include "tap.h"

#include <unistd.h>

static char dir[] = "/tmp/temper-test-XXXXXX", path[128];

static int count(const char *text, const char *piece) {
    int n = 0;
    for (; (text = strstr(text, piece)); text += strlen(piece)) n++;
    return n;
}

/* --- metrics.jsonl ----------------------------------------------------------------------------------------------------------- */
static void log_steps(struct stage_run *r, const struct deck_stage *s, int from, int to) {
    for (int i = from; i <= to; i++) {
        struct stage_metric m[] = {{"loss", 1.0 / i}, {"kl", i == 2 ? NAN : i}};
        must(stage_metrics(r, s, i, m, 2));
    }
}

static void metrics(void) {
    struct deck deck = {.run.dir = dir};
    struct stage_run r = {.deck = &deck};
    struct deck_stage tune = {.name = "tune"}, qad = {.name = "qad"};
    struct report_curves c;
    char *text;
    size_t n;
    must(stage_metrics_begin(&r, &tune, 0)); /* no file yet */
    log_steps(&r, &tune, 1, 3);
    must(stage_metrics_begin(&r, &qad, 0));
    log_steps(&r, &qad, 1, 4);
    must(file_append(path, "{\"stage\": \"qad\", \"st", 20)); /* torn by a kill after the checkpoint of step 2 */
    must(stage_metrics_begin(&r, &qad, 2));
    log_steps(&r, &qad, 3, 4);
    must(file_read(path, 1 << 20, &text, &n));
    is_int(count(text, "\n"), 7, "lines after a resume");
    is_int(count(text, "\"qad\", \"step\": 3,"), 1, "lines of step 3");
    ok(strstr(text, "{\"stage\": \"qad\", \"step\": 2, \"loss\": 0.5, \"kl\": null}\n") != NULL, "a NaN is null");
    mem_free(&text);
    must(report_read_curves(path, &c));
    is_int(c.n, 4, "curves");
    is_str(c.v[3].stage, "qad", "stage of the last");
    is_str(c.v[3].metric, "kl", "metric of the last");
    is_int(c.v[3].n, 4, "its points");
    ok(isnan(c.v[3].p[1].y) && c.v[3].p[3].y == 4 && c.v[3].p[3].step == 4, "null is a gap, others are their values");
    report_curves_free(&c);
}

/* Lines of others: passed over, the good ones stay. */
static void damaged(void) {
    static const char text[] =
        "\n[]\n{}\n{\"stage\": 3, \"step\": 1, \"loss\": 1}\n{\"stage\": \"a\", \"loss\": 1}\n"
        "{\"stage\": \"a\", \"step\": 1, \"loss\": 7, \"text\": \"x\", "
        "\"a name that is longer than any metric has\": 1}\n\x80\xff\nnot json\n{\"stage\": \"a\"";
    struct report_curves c;
    must(file_write(path, text, sizeof text - 1));
    must(report_read_curves(path, &c));
    is_int(c.n, 1, "one curve");
    ok(c.n == 1 && c.v[0].n == 1 && c.v[0].p[0].y == 7, "one point");
    report_curves_free(&c);
    must(report_read_curves("/nonexistent/metrics.jsonl", &c));
    is_int(c.n, 0, "no file, no curves");
}

/* --- charts ------------------------------------------------------------------------------------------------------------------ */
static struct report_out chart(const struct report_point *p, size_t n) {
    struct report_out o = {0};
    report_chart(&o, "<Loss>", "", p, n);
    is_status(o.st, TM_OK);
    ok(!strstr(o.text.p, "nan") && !strstr(o.text.p, "inf"), "no coordinate that is not finite");
    ok(strstr(o.text.p, "&lt;Loss&gt;") && !strstr(o.text.p, "<Loss>"), "the title is escaped");
    return o;
}

static void expect(const struct report_point *p, size_t n, int svgs, int moves, int lines, int dots, const char *what) {
    struct report_out o = chart(p, n);
    const char *d = strstr(o.text.p, "class=\"line\" d=\"");
    int m = 0, l = 0;
    for (const char *c = d ? d + 16 : ""; *c && *c != '"'; c++) m += *c == 'M', l += *c == 'L';
    is_int(count(o.text.p, "<svg"), svgs, what);
    is_int(m, moves, "strokes begin");
    is_int(l, lines, "segments");
    is_int(count(o.text.p, "<circle"), dots, "dots");
    str_free(&o.text);
}

static void charts(void) {
    const struct report_point five[] = {{1, 4}, {2, 3}, {3, NAN}, {4, 2}, {5, 1}},
                              lone[] = {{1, NAN}, {2, 0.25}, {3, NAN}}, none[] = {{1, NAN}, {2, INFINITY}},
                              level[] = {{1, 0}, {2, 0}}, huge[] = {{1, -1e308}, {2, 1e308}};
    expect(NULL, 0, 0, 0, 0, 0, "empty: no chart");
    expect(none, 2, 0, 0, 0, 0, "nothing finite: no chart");
    expect(huge, 2, 0, 0, 0, 0, "a range beyond double: no chart");
    expect(five, 1, 1, 1, 0, 2, "one point: a dot, and the last value's");
    expect(lone, 3, 1, 1, 0, 2, "one point between gaps");
    expect(five, 5, 1, 2, 2, 1, "a gap: two strokes");
    expect(level, 2, 1, 1, 1, 1, "a level line at 0");
    struct report_out o = chart(five, 5);
    ok(strstr(o.text.p, "1 of 5 values are not finite") != NULL, "the gap is said");
    ok(strstr(o.text.p, "data-value=\"1\"") != NULL, "the last value is exact");
    str_free(&o.text);
}

/* 100 000 points with one spike: the drawn line keeps it, and is short. */
static void long_curve(void) {
    struct report_point *p;
    enum { N = 100000 };
    must(mem_alloc(&p, N, sizeof *p));
    for (int i = 0; i < N; i++) p[i] = (struct report_point){i + 1, i == 54321 ? 9 : 1 + 0.1 * (i % 7)};
    struct report_out o = chart(p, N);
    ok(o.text.len < 16384, "a long curve is drawn with few points (%zu bytes)", o.text.len);
    ok(strstr(o.text.p, " 26.2") != NULL, "the spike to 9 of 10 is drawn at 12 + 142 / 10");
    str_free(&o.text);
    mem_free(&p);
}

static void labels(void) {
    char s[16];
    is_near(report_axis_step(0, 1, 4), 0.2, 1e-12, "about 4 marks in [0, 1]");
    is_near(report_axis_step(2, 9, 4), 2, 1e-12, "about 4 marks in [2, 9]");
    is_near(report_axis_step(0, 2e-4, 4), 5e-5, 1e-12, "about 4 marks in [0, 2e-4]");
    report_axis_label(1.5e-4, 5e-5, 2e-4, s), is_str(s, "1.5e-4", "small marks share an exponent");
    report_axis_label(5e-5, 5e-5, 2e-4, s), is_str(s, "0.5e-4", "all of them");
    report_axis_label(0.2, 0.05, 0.4, s), is_str(s, "0.20", "decimals of the step");
    report_axis_label(-1e-20, 0.05, 0.4, s), is_str(s, "0", "zero");
    report_axis_label(60, 20, 100, s), is_str(s, "60", "steps");
    report_value_label(0.000338687, s), is_str(s, "3.39e-4", "a small value");
    report_value_label(4.62589, s), is_str(s, "4.626", "a value");
    report_value_label(0, s), is_str(s, "0", "nought");
}

int main(void) {
    must(mkdtemp(dir) ? TM_OK : TM_ERR_IO);
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    metrics();
    damaged();
    charts();
    long_curve();
    labels();
    file_remove_tree(dir);
    return tap_done();
}
