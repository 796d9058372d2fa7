/* The run itself: quantizers, starts, memory, profile, and the command. */
#include "stage/report_run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/version.h"
#include "stage/report_table.h"

static void cell(struct report_out *o, const char *text) {
    report_printf(o, "<td>");
    report_escaped(o, text);
    report_printf(o, "</td>");
}

static const char *text_of(const json_t *row, const char *key) {
    const char *s = json_string_value(json_object_get(row, key));
    return s ? s : "";
}

/* --- quantizers ------------------------------------------------------------------------------------------------------------------- */
static bool same_quantizer(const json_t *a, const json_t *b) {
    return !strcmp(text_of(a, "site"), text_of(b, "site")) && !strcmp(text_of(a, "format"), text_of(b, "format"));
}

/* One line for all rows of a stage's layers that are like row `from` and come after it; none when an earlier one is. */
static void quant_row(const char *stage, const json_t *layers, size_t from, struct report_out *o) {
    const json_t *like = json_array_get(layers, from);
    double least = INFINITY, most = 0;
    size_t i, n = 0;
    json_t *row;
    json_array_foreach((json_t *)(uintptr_t)layers, i, row) {
        double amax = json_number_value(json_object_get(row, "amax"));
        if (!same_quantizer(row, like)) continue;
        if (i < from) return;
        n++;
        least = fmin(least, amax);
        most = fmax(most, amax);
    }
    report_printf(o, "<tr>");
    cell(o, stage);
    cell(o, text_of(like, "site"));
    cell(o, text_of(like, "format"));
    report_printf(o, "<td class=\"n\">%zu</td><td class=\"n\">%.4g</td><td class=\"n\">%.4g</td></tr>\n", n, least,
                  most);
}

void report_quant(const struct stage_run *r, struct report_out *o) {
    const json_t *all = json_object_get(r->results, "stages");
    bool any = false;
    for (int s = 0; s < r->deck->stages.n; s++) {
        const struct deck_stage *stage = &r->deck->stages.v[s];
        const json_t *layers = json_object_get(json_object_get(all, stage->name), "layers");
        if (stage->kind != DECK_KIND_calibrate || !json_array_size(layers)) continue;
        if (!any)
            report_printf(
                o, "<section><h2>Quantizers <span>by site and format; amax = the largest magnitude that each "
                   "saw</span></h2>\n"
                   "<div class=\"scroll\"><table class=\"dense\"><thead><tr><th>stage</th><th>site</th><th>format</th>"
                   "<th class=\"n\">quantizers</th><th class=\"n\">least amax</th><th class=\"n\">largest "
                   "amax</th></tr></thead>"
                   "<tbody>\n");
        any = true;
        for (size_t i = 0; i < json_array_size(layers); i++) quant_row(stage->name, layers, i, o);
    }
    if (any) report_printf(o, "</tbody></table></div></section>\n");
}

/* --- starts ----------------------------------------------------------------------------------------------------------------------- */
/* "1 h 02 min", "3 min 20 s", "12.3 s" */
static void duration(double s, char out[32]) {
    *out = 0;
    if (isnan(s)) return;
    long t = lround(s);
    if (s < 60)
        snprintf(out, 32, "%.1f s", s);
    else if (t < 3600)
        snprintf(out, 32, "%ld min %02ld s", t / 60, t % 60);
    else
        snprintf(out, 32, "%ld h %02ld min", t / 3600, t / 60 % 60);
}

/* Why it ended, up to what a stop adds for the log. A start that wrote no end was killed, unless it is the one that writes this page. */
static void ending(const struct start *s, bool last, struct report_out *o) {
    const char *why = *s->why ? s->why : s->end;
    report_printf(o, "<td class=\"wrap\">");
    if (!strcmp(s->end, "OK"))
        report_printf(o, "done");
    else if (*s->end)
        report_escaped_n(o, why, strcmp(s->end, "STOPPED") ? strlen(why) : strcspn(why, ";"));
    else if (last)
        report_printf(o, "running");
    else
        report_printf(o, "killed or lost: it wrote no end; last heard of at %s", *s->until ? s->until : s->when);
    report_printf(o, "</td>");
}

static void where(const struct start *s, struct report_out *o) {
    report_printf(o, "<td>");
    report_escaped(o, s->host);
    if (*s->job) report_printf(o, "<small>job ");
    if (*s->job) report_escaped(o, s->job);
    report_printf(o, *s->job ? "</small></td>" : "</td>");
}

void report_starts(const struct starts *s, struct report_out *o) {
    if (!s->n) return;
    report_printf(
        o,
        "<section><h2>Starts <span>times in UTC</span></h2>\n<div class=\"scroll\"><table class=\"dense\"><thead><tr>"
        "<th class=\"n\">#</th><th>began</th><th class=\"n\">for</th><th>on</th><th class=\"n\">ranks</th>"
        "<th>went from</th><th>to</th><th>ended</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < s->n; i++) {
        const struct start *x = &s->v[i];
        char text[32];
        duration(x->seconds, text);
        report_printf(o, "<tr><td class=\"n\">%zu</td><td>%s</td><td class=\"n\">%s</td>", i + 1, x->when, text);
        where(x, o);
        report_printf(o, "<td class=\"n\">%lld<small>%s</small></td>", (long long)x->ranks, x->grid);
        cell(o, x->from);
        cell(o, x->to);
        ending(x, i + 1 == s->n, o);
        report_printf(o, "</tr>\n");
    }
    report_printf(o, "</tbody></table></div></section>\n");
}

/* --- memory ----------------------------------------------------------------------------------------------------------------------- */
static const json_t *memory_of(const struct stage_run *r, int stage) {
    return json_object_get(json_object_get(r->usage, "memory"), r->deck->stages.v[stage].name);
}

static const json_t *row_of(const json_t *rows, const char *what) {
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)(uintptr_t)rows, i, row) {
        const char *name = json_string_value(json_object_get(row, "class"));
        if (name && !strcmp(name, what)) return row;
    }
    return NULL;
}

/* All classes, in the order of their first use: "all" comes first. */
static json_t *classes(const struct stage_run *r) {
    json_t *out = json_array(), *row;
    size_t i, k;
    for (int s = 0; s < r->deck->stages.n; s++) json_array_foreach((json_t *)(uintptr_t)memory_of(r, s), i, row) {
            const char *name = json_string_value(json_object_get(row, "class"));
            for (k = 0; name && k < json_array_size(out); k++)
                if (!strcmp(json_string_value(json_array_get(out, k)), name)) break;
            if (name && k == json_array_size(out)) json_array_append_new(out, json_string(name));
        }
    return out;
}

static void memory_cell(const json_t *row, struct report_out *o) {
    char text[REPORT_CELL] = "", other[REPORT_CELL];
    const json_t *planned = json_object_get(row, "planned");
    double used = json_number_value(json_object_get(row, "used"));
    if (row) report_bytes(used, text);
    report_printf(o, "<td class=\"n\">%s", text);
    if (planned && json_number_value(planned) != used) {
        report_bytes(json_number_value(planned), other);
        report_printf(o, "<small>planned %s</small>", other);
    }
    report_printf(o, "</td>");
}

void report_memory(const struct stage_run *r, struct report_out *o) {
    json_t *names = classes(r);
    if (json_array_size(names)) {
        report_printf(o,
                      "<section><h2>Memory <span>the most at one time, on the largest rank of each class</span></h2>\n"
                      "<div class=\"scroll\"><table class=\"dense\"><thead><tr><th>class</th>");
        for (int s = 0; s < r->deck->stages.n; s++) {
            if (!memory_of(r, s)) continue;
            report_printf(o, "<th class=\"n\">");
            report_escaped(o, r->deck->stages.v[s].name);
            report_printf(o, "</th>");
        }
        report_printf(o, "</tr></thead><tbody>\n");
        for (size_t i = 0; i < json_array_size(names); i++) {
            const char *name = json_string_value(json_array_get(names, i));
            report_printf(o, "<tr>");
            cell(o, name);
            for (int s = 0; s < r->deck->stages.n; s++)
                if (memory_of(r, s)) memory_cell(row_of(memory_of(r, s), name), o);
            report_printf(o, "</tr>\n");
        }
        report_printf(o, "</tbody></table></div></section>\n");
    }
    json_decref(names);
}

/* --- profile ------------------------------------------------------------------------------------------------------------------------ */
static void number_cell(const json_t *row, const char *key, const char *format, struct report_out *o) {
    const json_t *x = json_object_get(row, key);
    char text[32] = "";
    if (json_is_number(x)) snprintf(text, sizeof text, format, json_number_value(x));
    report_printf(o, "<td class=\"n\">%s</td>", text);
}

static void profile_row(const json_t *row, bool ops, double total, struct report_out *o) {
    report_printf(o, "<tr>");
    cell(o, text_of(row, "stage"));
    cell(o, text_of(row, "phase"));
    if (ops) cell(o, text_of(row, "op"));
    number_cell(row, "calls", "%.0f", o);
    number_cell(row, "min_s", "%.3f", o);
    number_cell(row, "mean_s", "%.3f", o);
    number_cell(row, "max_s", "%.3f", o);
    number_cell(row, "imbalance", "%.2f", o);
    number_cell(row, "gflops", "%.1f", o);
    if (ops) number_cell(row, "gbytes_s", "%.2f", o);
    double share = total > 0 ? 100 * json_number_value(json_object_get(row, "mean_s")) / total : 0;
    report_printf(o, "<td class=\"share\"><div class=\"bar\"><i style=\"width:%.1f%%\"></i></div></td></tr>\n", share);
}

static void profile_table(const json_t *rows, bool ops, double total, struct report_out *o) {
    size_t i;
    json_t *row;
    report_printf(
        o,
        "<div class=\"scroll\"><table class=\"dense\"><thead><tr><th>stage</th><th>phase</th>%s<th class=\"n\">calls"
        "</th><th class=\"n\">least<span>s</span></th><th class=\"n\">mean<span>s</span></th>"
        "<th class=\"n\">most<span>s</span></th><th class=\"n\">imbalance</th><th class=\"n\">GFLOP/s</th>"
        "%s<th>share</th></tr></thead><tbody>\n",
        ops ? "<th>operation</th>" : "", ops ? "<th class=\"n\">GB/s</th>" : "");
    json_array_foreach((json_t *)(uintptr_t)rows, i, row) {
        bool shown = json_number_value(json_object_get(row, "max_s")) >= 0.0005; /* else it would be all zeros */
        if (shown && (*text_of(row, "op") != 0) == ops) profile_row(row, ops, total, o);
    }
    report_printf(o, "</tbody></table></div>\n");
}

void report_profile(const struct stage_run *r, struct report_out *o) {
    const json_t *rows = json_object_get(r->usage, "profile");
    double total = 0;
    size_t i;
    json_t *row;
    if (!json_array_size(rows)) return;
    json_array_foreach((json_t *)(uintptr_t)rows, i, row) if (!*text_of(row, "op")) total +=
        json_number_value(json_object_get(row, "mean_s"));
    report_printf(o, "<section><h2>Where the time went <span>over ranks; imbalance = most / mean</span></h2>\n");
    profile_table(rows, false, total, o);
    report_printf(o, "<details><summary>operations and collectives inside the phases</summary>\n");
    profile_table(rows, true, total, o);
    report_printf(
        o,
        "</details>\n<p class=\"note\">The timeline of every rank is in trace.json beside this page, for Perfetto or "
        "chrome://tracing; what took less than 0.5 ms on every rank stands in usage.json alone.</p></section>\n");
}

/* --- again ------------------------------------------------------------------------------------------------------------------------ */
void report_again(const struct stage_run *r, struct report_out *o) {
    struct str command = {0};
    char cwd[4096] = "";
    int ranks = r->grid.tp * r->grid.cp * r->grid.pp * r->grid.dp;
    enum status st = stage_command(&r->o, ranks, &command);
    if (o->st == TM_OK) o->st = st;
    report_printf(o, "<section><h2>To do it again <span>temper ");
    report_escaped(o, version_string());
    report_printf(o, "</span></h2>\n<pre>");
    if (getcwd(cwd, sizeof cwd)) {
        report_printf(o, "cd ");
        report_escaped(o, cwd);
        report_printf(o, "\n");
    }
    report_escaped(o, command.p ? command.p : "");
    report_printf(o, "</pre>\n<details><summary>the effective deck, every key</summary><pre>");
    report_escaped(o, r->deck_text.p ? r->deck_text.p : "");
    report_printf(o, "</pre></details></section>\n");
    str_free(&command);
}
