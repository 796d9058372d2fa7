/* The page. */
#include "stage/report_html.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/version.h"
#include "stage/report_run.h"
#include "stage/report_svg.h"
#include "stage/report_table.h"

static const char style[] =
#include "stage/report_style.def"
    ;

/* An element with escaped text. */
static void element(struct report_out *o, const char *tag, const char *text) {
    report_printf(o, "<%s>", tag);
    report_escaped(o, text);
    report_printf(o, "</%s>", tag);
}

/* --- head --------------------------------------------------------------------------------------------------------------------- */
static void head(const struct report_page *p, struct report_out *o) {
    const struct stage_run *r = p->r;
    const char *title = *r->deck->run.title ? r->deck->run.title : r->deck->run.dir;
    int ranks = r->grid.tp * r->grid.cp * r->grid.pp * r->grid.dp;
    report_printf(o, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n");
    element(o, "title", title);
    report_printf(o, "\n<style>%s</style></head>\n<body>\n<header>", style);
    element(o, "h1", title);
    report_printf(o, "\n<p class=\"meta\">temper ");
    report_escaped(o, version_string());
    report_printf(o, " · %s · %d rank%s (tp %d × pp %d × dp %d) · ", p->date, ranks, ranks == 1 ? "" : "s", r->grid.tp,
                  r->grid.pp, r->grid.dp);
    report_escaped(o, p->host);
    if (r->dev) report_printf(o, " · ");
    if (r->dev) report_escaped(o, dev_describe(r->dev));
    report_printf(o, "</p>\n");
    report_printf(o, "</header>\n");
}

/* --- quality ------------------------------------------------------------------------------------------------------------------ */
static void quality_row(const struct report_rows *rows, int i, struct report_out *o) {
    char cell[REPORT_CELL], change[REPORT_CELL];
    const struct report_row *row = &rows->v[i];
    report_printf(o, "<tr><td>");
    report_escaped(o, row->stage->name);
    if (!row->comparable) {
        report_printf(o, "<small>on ");
        report_escaped(o, row->stage->data);
        report_printf(o, "</small>");
    }
    report_printf(o, "</td>");
    for (int c = 0; c < REPORT_COLUMN_COUNT; c++) {
        if (!report_column_used(rows, (enum report_column)c)) continue;
        report_cell(row, (enum report_column)c, cell);
        report_change(rows, i, (enum report_column)c, change);
        if (*cell)
            report_printf(o, "<td class=\"n\" data-value=\"%.9g\">%s", row->value[c], cell);
        else
            report_printf(o, "<td class=\"n\">");
        if (*change) /* a minus as wide as the plus */
            report_printf(o, "<small>%s%s</small>", *change == '-' ? "\u2212" : "", change + (*change == '-'));
        report_printf(o, "</td>");
    }
    report_printf(o, "</tr>\n");
}

static void quality(const struct report_page *p, struct report_out *o) {
    const struct report_rows *rows = p->rows;
    const struct report_recovery *x = p->recovery;
    if (!rows->n) return;
    report_printf(o, "<section><h2>Quality</h2>\n<div class=\"scroll\"><table><thead><tr><th>evaluated</th>");
    for (int c = 0; c < REPORT_COLUMN_COUNT; c++) {
        if (!report_column_used(rows, (enum report_column)c)) continue;
        report_printf(o, "<th class=\"n\">%s", report_column_title((enum report_column)c));
        if (*report_column_unit((enum report_column)c))
            report_printf(o, "<span>%s</span>", report_column_unit((enum report_column)c));
        report_printf(o, "</th>");
    }
    report_printf(o, "</tr></thead><tbody>\n");
    for (int i = 0; i < rows->n; i++) quality_row(rows, i, o);
    report_printf(o, "</tbody></table></div>\n");
    if (rows->n > 1) {
        report_printf(o, "<p class=\"note\">Small figures: change against ");
        report_escaped(o, rows->v[0].stage->name);
        report_printf(o, ".</p>\n");
    }
    if (x->learn) {
        report_printf(o, "<div class=\"won\">");
        report_recovery_text(x, o);
        double share = x->lost > 0 ? fmin(100, fmax(0, 100 * (x->lost - x->left) / x->lost)) : 0;
        report_printf(o, "<div class=\"bar\"><i style=\"width:%.1f%%\"></i></div></div>\n", share);
    }
    report_printf(o, "</section>\n");
}

/* --- curves ------------------------------------------------------------------------------------------------------------------- */
static const struct {
    const char *key, *title, *unit; /* title NULL: not drawn */
} metrics[] = {{"loss", "Loss", "nats/token"},
               {"nll", "NLL", "nats/token"},
               {"kl", "KL to teacher", "nats/token"},
               {"eval_nll", "NLL of eval_data", "nats/token"},
               {"eval_kl", "KL of eval_data", "nats/token"},
               {"grad_norm", "Gradient norm", ""},
               {"lr", "Learning rate", ""},
               {"seconds", "Time a step", "s"},
               {"tokens", NULL, ""},
               {"skipped", NULL, ""}};

static bool equal(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

/* Another curve of the stage with the same values, before or after x. */
static const struct report_curve *twin(const struct report_curves *c, const struct report_curve *x, bool before) {
    const struct report_curve *from = before ? c->v : x + 1, *to = before ? x : c->v + c->n;
    for (const struct report_curve *y = from; y < to; y++) {
        bool same = y->n == x->n && !strcmp(x->stage, y->stage);
        for (size_t i = 0; same && i < x->n; i++) same = x->p[i].step == y->p[i].step && equal(x->p[i].y, y->p[i].y);
        if (same) return y;
    }
    return NULL;
}

/* Says nothing of its own: a term that is not in the loss (all zero), or the loss's only term. */
static bool redundant(const struct report_curves *c, const struct report_curve *x) {
    bool zero = x->n > 1;
    for (size_t i = 0; i < x->n; i++) zero &= x->p[i].y == 0;
    return zero || twin(c, x, true);
}

static int metric_of(const struct report_curve *x) {
    for (size_t k = 0; k < sizeof metrics / sizeof *metrics; k++)
        if (!strcmp(x->metric, metrics[k].key)) return (int)k;
    return -1;
}

static void curve(const struct report_curves *c, const struct report_curve *x, struct report_out *o) {
    const struct report_curve *y = twin(c, x, false);
    char title[96];
    int k = metric_of(x), term = y ? metric_of(y) : -1;
    if (k >= 0 && !metrics[k].title) return;
    snprintf(title, sizeof title, "%s%s%s", k < 0 ? x->metric : metrics[k].title, term < 0 ? "" : " = ",
             term < 0 ? "" : metrics[term].title);
    report_chart(o, title, k < 0 ? "" : metrics[k].unit, x->p, x->n);
}

static void curves_of(const struct report_curves *c, const struct deck_stage *s, struct report_out *o) {
    bool any = false;
    for (size_t i = 0; i < c->n; i++) {
        if (strcmp(c->v[i].stage, s->name) || redundant(c, &c->v[i])) continue;
        if (!any) {
            report_printf(o, "<section><h2>");
            report_escaped(o, s->name);
            report_printf(o, " <span>%s, step by step</span></h2>\n<div class=\"charts\">\n", s->verb);
        }
        any = true;
        curve(c, &c->v[i], o);
    }
    if (any) report_printf(o, "</div></section>\n");
}

/* --- tables ------------------------------------------------------------------------------------------------------------------- */
static void value_cell(const json_t *v, bool right, struct report_out *o) {
    report_printf(o, right ? "<td class=\"n\">" : "<td>");
    if (json_is_string(v)) report_escaped(o, json_string_value(v));
    if (json_is_integer(v)) report_printf(o, "%lld", (long long)json_integer_value(v));
    if (json_is_real(v)) report_printf(o, "%.6g", json_real_value(v));
    if (json_is_boolean(v)) report_printf(o, json_is_true(v) ? "yes" : "no");
    report_printf(o, "</td>");
}

void report_html_objects(const json_t *array, struct report_out *o) {
    json_t *columns = json_object(), *row, *v; /* name -> true where it holds numbers */
    const char *name;
    size_t i;
    json_array_foreach(array, i, row) json_object_foreach(row, name, v) {
        if (json_is_object(v) || json_is_array(v)) continue;
        bool right = json_is_number(v) || json_is_null(v);
        json_object_set_new(columns, name, json_boolean(right && !json_is_false(json_object_get(columns, name))));
    }
    report_printf(o, "<div class=\"scroll\"><table class=\"dense\"><thead><tr>");
    json_object_foreach(columns, name, v) {
        report_printf(o, json_is_true(v) ? "<th class=\"n\">" : "<th>");
        report_escaped(o, name);
        report_printf(o, "</th>");
    }
    report_printf(o, "</tr></thead><tbody>\n");
    json_array_foreach(array, i, row) {
        report_printf(o, "<tr>");
        json_object_foreach(columns, name, v) value_cell(json_object_get(row, name), json_is_true(v), o);
        report_printf(o, "</tr>\n");
    }
    report_printf(o, "</tbody></table></div>\n");
    json_decref(columns);
}

static bool is_objects(const json_t *v) { return json_is_object(json_array_get(v, 0)); }

/* Every array of objects among the members of `owner`; long ones are folded. */
static void tables_of(const char *owner, json_t *results, struct report_out *o) {
    enum { FOLD = 16 };
    const char *name;
    json_t *v;
    json_object_foreach(results, name, v) {
        if (!is_objects(v)) continue;
        size_t n = json_array_size(v);
        report_printf(o, "<h3>");
        report_escaped(o, owner);
        report_printf(o, *owner ? " <span>" : "<span>");
        report_escaped(o, name);
        report_printf(o, "</span></h3>\n");
        if (n > FOLD) report_printf(o, "<details><summary>%zu rows</summary>\n", n);
        report_html_objects(v, o);
        if (n > FOLD) report_printf(o, "</details>\n");
    }
}

/* The stages in deck order, with what each said. */
static bool is_column(const char *name) {
    static const char *const keys[] = {
#define COLUMN(name, key, title, unit, change) key,
        REPORT_COLUMNS(COLUMN)
#undef COLUMN
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(name, keys[i])) return true;
    return false;
}

static void results_cell(const json_t *results, bool evaluate, struct report_out *o) {
    const char *name, *comma = "";
    json_t *v;
    report_printf(o, "<td class=\"wrap\">");
    json_object_foreach((json_t *)(uintptr_t)results, name, v) {
        if (json_is_object(v) || json_is_array(v) || !strcmp(name, "do") || !strcmp(name, "seconds")) continue;
        if (evaluate && is_column(name)) continue; /* they are in the table above */
        report_printf(o, "%s", comma);
        report_escaped(o, name);
        report_printf(o, " ");
        if (json_is_string(v)) report_escaped(o, json_string_value(v));
        if (json_is_number(v)) report_printf(o, "%.9g", json_number_value(v));
        comma = " · ";
    }
    report_printf(o, "</td>");
}

static void stages(const struct stage_run *r, struct report_out *o) {
    const json_t *all = json_object_get(r->results, "stages");
    report_printf(o, "<section><h2>Stages</h2>\n<div class=\"scroll\"><table class=\"dense\"><thead><tr><th>stage</th>"
                     "<th>does</th><th class=\"n\">time, s</th><th>results</th></tr></thead><tbody>\n");
    for (int i = 0; i < r->deck->stages.n; i++) {
        const struct deck_stage *s = &r->deck->stages.v[i];
        const json_t *x = json_object_get(all, s->name), *seconds = json_object_get(x, "seconds");
        report_printf(o, "<tr>");
        element(o, "td", s->name);
        element(o, "td", s->verb);
        report_printf(o, "<td class=\"n\">");
        if (json_is_number(seconds)) report_printf(o, "%.2f", json_number_value(seconds));
        report_printf(o, "</td>");
        if (x)
            results_cell(x, s->kind == DECK_KIND_evaluate, o);
        else
            report_printf(o, "<td class=\"wrap\">not run yet</td>");
        report_printf(o, "</tr>\n");
    }
    report_printf(o, "</tbody></table></div></section>\n");
}

static void tables(const struct stage_run *r, struct report_out *o) {
    const json_t *all = json_object_get(r->results, "stages");
    struct report_out body = {0};
    tables_of("", r->results, &body);
    for (int i = 0; i < r->deck->stages.n; i++)
        tables_of(r->deck->stages.v[i].name, json_object_get(all, r->deck->stages.v[i].name), &body);
    if (o->st == TM_OK) o->st = body.st;
    if (body.text.len) report_printf(o, "<section><h2>Tables</h2>\n%s</section>\n", body.text.p);
    str_free(&body.text);
}

void report_html(const struct report_page *p, struct report_out *o) {
    head(p, o);
    quality(p, o);
    report_quant(p->r, o);
    for (int i = 0; i < p->r->deck->stages.n; i++) curves_of(p->curves, &p->r->deck->stages.v[i], o);
    stages(p->r, o);
    tables(p->r, o);
    report_memory(p->r, o);
    report_profile(p->r, o);
    report_starts(p->starts, o);
    report_again(p->r, o);
    report_printf(o, "</body></html>\n");
}
