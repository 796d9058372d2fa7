/* The page of a sweep: what came of it, plots, a row a point, and what went wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/version.h"
#include "stage/report_out.h"
#include "stage/sweep.h"
#include "stage/sweep_svg.h"

static const char style[] =
#include "stage/report_style.def"
    ;
static const char own_style[] =
#include "stage/sweep_style.def"
    ;

enum { TEXT = 256 };

static const char *result_name(const struct sweep_table *t) { return t->by_kl ? "KL to teacher" : "NLL"; }

/* A value as the table shows it, cut where it is very long. */
static void unquote(const char *v, char out[TEXT]) {
    struct str s = {0};
    bool good = sweep_plain(v, &s) == TM_OK && s.p;
    snprintf(out, TEXT, "%s", good ? s.p : "");
    str_free(&s);
}

static void value_text(const struct deck *d, int64_t number, int axis, char out[TEXT]) {
    unquote(d->sweep.v[axis].values.v[deck_sweep_value(d, number, axis)], out);
}

/* The last part of the key says enough where it is said what the axis is. */
static const char *short_key(const char *key) { return strrchr(key, '.') ? strrchr(key, '.') + 1 : key; }

/* "fp8, 0.0001": the values of all axes but one. */
static void others_text(const struct deck *d, int64_t number, int but, char out[TEXT]) {
    char one[TEXT];
    size_t n = 0;
    *out = 0;
    for (int a = 0; a < d->sweep.n && n < TEXT; a++) {
        if (a == but) continue;
        value_text(d, number, a, one);
        n += (size_t)snprintf(out + n, TEXT - n, "%s%s", n ? ", " : "", one);
    }
}

/* --- plots -------------------------------------------------------------------------------------------------------------------- */
/* Marks and the texts they borrow, and what the colours stand for. */
struct figure {
    struct sweep_mark *v;
    char (*tip)[TEXT], (*name)[16];
    char (*series)[TEXT];
    int n, n_series;
};

static void figure_free(struct figure *f) {
    mem_free(&f->v);
    mem_free(&f->tip);
    mem_free(&f->name);
    mem_free(&f->series);
}

static int series_of(struct figure *f, const char *text) {
    for (int i = 0; i < f->n_series; i++)
        if (!strcmp(f->series[i], text)) return i;
    memcpy(f->series[f->n_series], text, TEXT);
    return f->n_series++;
}

static int by_x(const void *a, const void *b) {
    const struct sweep_mark *p = a, *q = b;
    return p->x < q->x ? -1 : p->x > q->x ? 1 : p->y < q->y ? 1 : -(p->y > q->y);
}

/* axis -1: bits against the result, coloured by the first axis; else an axis against it, coloured by the other axes. */
static enum status figure_make(const struct sweep_table *t, int axis, bool words, struct figure *f) {
    size_t n = (size_t)t->n;
    *f = (struct figure){0};
    TM_TRY(mem_alloc(&f->v, n, sizeof *f->v));
    TM_TRY(mem_alloc(&f->tip, n, sizeof *f->tip));
    TM_TRY(mem_alloc(&f->name, n, sizeof *f->name));
    TM_TRY(mem_alloc(&f->series, n, sizeof *f->series));
    for (int i = 0; i < t->n; i++) {
        const struct sweep_row *row = &t->v[i];
        char text[TEXT], all[TEXT];
        double y = sweep_result(t, i), x = row->bits;
        if (axis >= 0) {
            value_text(t->deck, row->number, axis, text);
            x = words ? deck_sweep_value(t->deck, row->number, axis) : strtod(text, NULL);
            others_text(t->deck, row->number, axis, text);
        } else {
            value_text(t->deck, row->number, 0, text);
        }
        if (row->state != SWEEP_DONE || !isfinite(y) || !isfinite(x)) continue;
        others_text(t->deck, row->number, -1, all);
        snprintf(f->name[f->n], 16, "%lld", (long long)row->point);
        snprintf(f->tip[f->n], TEXT, "point %lld: %.180s: %.6g nats/token, %.2f bits", (long long)row->point, all, y,
                 row->bits);
        f->v[f->n] =
            (struct sweep_mark){x,           y, series_of(f, text), i == t->best, axis < 0 && row->front, f->name[f->n],
                                f->tip[f->n]};
        f->n++;
    }
    qsort(f->v, (size_t)f->n, sizeof *f->v, by_x);
    for (int i = 0; i < f->n && f->n_series > SWEEP_COLOURS && axis >= 0; i++) f->v[i].series += SWEEP_COLOURS;
    return TM_OK;
}

static void key(const struct figure *f, struct report_out *o) {
    if (f->n_series > SWEEP_COLOURS || (f->n_series == 1 && !*f->series[0])) return;
    report_printf(o, "<p class=\"key\">");
    for (int i = 0; i < f->n_series; i++) {
        report_printf(o, "<span><i class=\"s%d\"></i>", i);
        report_escaped(o, f->series[i]);
        report_printf(o, "</span>");
    }
    report_printf(o, "</p>\n");
}

/* A plot of the figure's points with its key. */
static void draw(struct sweep_plot *p, const struct figure *f, struct report_out *o) {
    p->v = f->v;
    p->n = f->n;
    report_printf(o, "<div>");
    sweep_plot(o, p);
    key(f, o);
    report_printf(o, "</div>\n");
}

static enum status plot_front(const struct sweep_table *t, struct report_out *o) {
    struct figure f;
    char title[96];
    enum status st = figure_make(t, -1, false, &f);
    snprintf(title, sizeof title, "Bits per weight against %s", result_name(t));
    struct sweep_plot p = {.title = title,
                           .x_title = "bits per weight",
                           .y_title = "nats/token; dashed: the front",
                           .front = true};
    if (st == TM_OK) draw(&p, &f, o);
    figure_free(&f);
    return st;
}

/* The axis' values as words, unless all are numbers. */
static bool needs_words(const struct deck_axis *a) {
    for (int i = 0; i < a->values.n; i++) {
        char *end;
        (void)strtod(a->values.v[i], &end);
        if (*end) return true;
    }
    return false;
}

static enum status plot_axis(const struct sweep_table *t, int axis, struct report_out *o) {
    const struct deck_axis *a = &t->deck->sweep.v[axis];
    char text[SWEEP_WORDS][TEXT], title[TEXT];
    const char *words[SWEEP_WORDS];
    double at[SWEEP_WORDS];
    bool is_words = needs_words(a), few = a->values.n <= SWEEP_WORDS;
    struct figure f;
    if (is_words && !few) return TM_OK; /* the table tells more */
    for (int i = 0; i < a->values.n && few; i++) {
        unquote(a->values.v[i], text[i]);
        words[i] = text[i];
        at[i] = strtod(text[i], NULL);
    }
    enum status st = figure_make(t, axis, is_words, &f);
    snprintf(title, sizeof title, "%.200s against %s", a->key, result_name(t));
    struct sweep_plot p = {.title = title,
                           .x_title = short_key(a->key),
                           .y_title = "nats/token",
                           .words = few ? words : NULL,
                           .words_at = is_words ? NULL : at,
                           .n_words = a->values.n,
                           .lines = true};
    if (st == TM_OK) draw(&p, &f, o);
    figure_free(&f);
    return st;
}

static enum status plots(const struct sweep_table *t, struct report_out *o) {
    int drawn = 0;
    for (int i = 0; i < t->n; i++) drawn += t->v[i].state == SWEEP_DONE && isfinite(sweep_result(t, i));
    report_printf(o, "<section><h2>Plots</h2>\n<div class=\"plots\">\n");
    TM_TRY(plot_front(t, o));
    for (int a = 0; a < t->deck->sweep.n; a++)
        if (t->deck->sweep.v[a].values.n > 1) TM_TRY(plot_axis(t, a, o));
    report_printf(o, "</div>\n");
    if (drawn < t->n)
        report_printf(
            o, "<p class=\"note\">%d of %d points are not in the plots: they have no result yet, or failed.</p>\n",
            t->n - drawn, t->n);
    report_printf(o, "</section>\n");
    return TM_OK;
}

/* --- the table ---------------------------------------------------------------------------------------------------------------- */
static void cell(double x, const char *format, struct report_out *o) {
    char text[48] = "";
    if (isfinite(x)) snprintf(text, sizeof text, format, x);
    report_printf(o, "<td class=\"n\">%s</td>", text);
}

static const char *state_class(enum sweep_state s) {
    return s == SWEEP_DONE ? "good" : s == SWEEP_FAILED || s == SWEEP_BROKEN ? "bad" : "faint";
}

static void row_html(const struct sweep_table *t, int i, struct report_out *o) {
    const struct sweep_row *row = &t->v[i];
    char text[TEXT];
    report_printf(o, i == t->best ? "<tr class=\"best\">" : "<tr>");
    if (row->state == SWEEP_MISSING)
        report_printf(o, "<td class=\"n\">%lld</td>", (long long)row->point);
    else
        report_printf(o, "<td class=\"n\"><a href=\"%s/%s\">%lld</a></td>", row->dir,
                      row->state == SWEEP_DONE ? "report.html" : "", (long long)row->point);
    for (int a = 0; a < t->deck->sweep.n; a++) {
        value_text(t->deck, row->number, a, text);
        report_printf(o, needs_words(&t->deck->sweep.v[a]) ? "<td>" : "<td class=\"n\">");
        report_escaped(o, text);
        report_printf(o, "</td>");
    }
    report_printf(o, "<td class=\"%s\">%s%s</td>", state_class(row->state), sweep_state_word(row->state),
                  i == t->best ? ", best"
                  : row->front ? ", front"
                               : "");
    cell(row->state == SWEEP_MISSING ? NAN : row->steps, "%.0f", o);
    cell(row->before, "%.4f", o);
    cell(row->after, "%.4f", o);
    cell(row->kl, "%.4f", o);
    cell(row->bits, "%.2f", o);
    cell(row->state == SWEEP_MISSING ? NAN : row->seconds, "%.1f", o);
    cell(row->code < 0 ? NAN : row->code, "%.0f", o);
    report_printf(o, "</tr>\n");
}

static void table(const struct sweep_table *t, struct report_out *o) {
    report_printf(o, "<section><h2>Points</h2>\n<div class=\"scroll\"><table class=\"dense points\"><thead><tr><th "
                     "class=\"n\">point</th>");
    for (int a = 0; a < t->deck->sweep.n; a++) {
        report_printf(o, needs_words(&t->deck->sweep.v[a]) ? "<th>" : "<th class=\"n\">");
        report_escaped(o, t->deck->sweep.v[a].key);
        report_printf(o, "</th>");
    }
    report_printf(
        o, "<th>state</th><th class=\"n\">steps</th><th class=\"n\">NLL before</th><th class=\"n\">NLL after</th>"
           "<th class=\"n\">KL</th><th class=\"n\">bits</th><th class=\"n\">seconds</th><th class=\"n\">exit code</th>"
           "</tr></thead><tbody>\n");
    for (int i = 0; i < t->n; i++) row_html(t, i, o);
    report_printf(o, "</tbody></table></div>\n<p class=\"note\">NLL in nats/token: before = the first evaluation, "
                     "after = the last on the "
                     "same data, whose KL and bits per weight these are. Seconds: of the point's own stages, without "
                     "what it shares. "
                     "Front: no other point has both fewer bits and a smaller result.</p>\n</section>\n");
}

static void messages(const struct sweep_table *t, struct report_out *o) {
    bool any = false;
    for (int i = 0; i < t->n; i++) {
        const struct sweep_row *row = &t->v[i];
        if (row->state == SWEEP_DONE || row->state == SWEEP_MISSING || !*row->why) continue;
        if (!any) report_printf(o, "<section><h2>What ended points early</h2>\n<table class=\"dense\">\n");
        any = true;
        report_printf(o, "<tr><td class=\"n\">%lld</td><td class=\"%s\">%s</td><td class=\"wrap\">",
                      (long long)row->point, state_class(row->state), sweep_state_word(row->state));
        report_escaped(o, row->why);
        report_printf(o, "</td></tr>\n");
    }
    if (any) report_printf(o, "</table></section>\n");
}

/* --- the page ----------------------------------------------------------------------------------------------------------------- */
static void head(const struct sweep_table *t, const char *date, struct report_out *o) {
    int count[SWEEP_STATE_COUNT] = {0};
    const char *title = *t->deck->run.title ? t->deck->run.title : t->deck->file;
    for (int i = 0; i < t->n; i++) count[t->v[i].state]++;
    report_printf(o, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    report_escaped(o, title);
    report_printf(o, "</title>\n<style>%s%s</style></head>\n<body>\n<header><h1>", style, own_style);
    report_escaped(o, title);
    report_printf(o, "</h1>\n<p class=\"meta\">temper ");
    report_escaped(o, version_string());
    report_printf(o, " · %s · sweep of %d points:", date, t->n);
    for (int s = 0, n = 0; s < SWEEP_STATE_COUNT; s++)
        if (count[s])
            report_printf(o, "%s <span class=\"%s\">%d %s</span>", n++ ? "," : "", state_class((enum sweep_state)s),
                          count[s], sweep_state_word((enum sweep_state)s));
    report_printf(o, "</p>\n<p class=\"meta\"><code>");
    report_escaped(o, t->deck->run.dir);
    report_printf(o, "</code></p></header>\n");
}

static enum status best(const struct sweep_table *t, struct report_out *o) {
    struct str values = {0};
    if (t->best < 0) return TM_OK;
    const struct sweep_row *row = &t->v[t->best];
    TM_TRY(stage_sweep_values(t->deck, row->number, &values));
    report_printf(o, "<section><h2>Best</h2>\n<p>Point %lld (", (long long)row->point);
    report_escaped(o, values.p ? values.p : "");
    report_printf(o,
                  ") has the smallest %s: <b>%.4f</b> nats/token at %.2f bits per weight; NLL %.4f before, %.4f "
                  "after.</p>\n",
                  result_name(t), sweep_result(t, t->best), row->bits, row->before, row->after);
    str_free(&values);
    report_printf(o, "<p class=\"note\">On the front, where fewer bits cost more of it:");
    for (int i = 0, n = 0; i < t->n; i++)
        if (t->v[i].front)
            report_printf(o, "%s point %lld (%.2f bits, %.4f)", n++ ? "," : "", (long long)t->v[i].point, t->v[i].bits,
                          sweep_result(t, i));
    report_printf(o, ".</p></section>\n");
    return TM_OK;
}

enum status sweep_html(const struct sweep_table *t, const char *date, struct str *out) {
    struct report_out o = {.text = *out};
    head(t, date, &o);
    enum status st = best(t, &o);
    if (st == TM_OK) st = plots(t, &o);
    table(t, &o);
    messages(t, &o);
    report_printf(&o, "</body></html>\n");
    *out = o.text;
    return st == TM_OK ? o.st : st;
}
