/* What the points of a sweep came to, as files: sweep.csv and sweep.html. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/mem.h"
#include "stage/sweep.h"

/* --- CSV ---------------------------------------------------------------------------------------------------------------------- */
enum status sweep_plain(const char *value, struct str *out) {
    size_t n = strlen(value);
    bool quoted = n > 1 && value[0] == '"' && value[n - 1] == '"';
    for (size_t i = quoted; i < n - quoted; i++) {
        bool escaped = quoted && value[i] == '\\' && i + 1 < n - 1;
        i += escaped;
        TM_TRY(str_append(out, escaped && value[i] == 'n' ? "\n" : value + i, 1));
    }
    return TM_OK;
}

/* A field as RFC 4180 has it: quoted where it must be. */
static enum status field(const char *value, struct str *out) {
    struct str s = {0};
    enum status st = sweep_plain(value, &s);
    bool quoted = s.len && strpbrk(s.p, ",\"\r\n");
    if (st == TM_OK && quoted) st = str_append(out, "\"", 1);
    for (size_t i = 0; i < s.len && st == TM_OK; i++)
        st = str_append(out, s.p[i] == '"' ? "\"\"" : s.p + i, s.p[i] == '"' ? 2 : 1);
    if (st == TM_OK && quoted) st = str_append(out, "\"", 1);
    str_free(&s);
    return st;
}

static enum status number(double x, struct str *out) {
    return isfinite(x) ? str_printf(out, ",%.9g", x) : str_printf(out, ",");
}

static enum status csv_row(const struct sweep_table *t, int i, struct str *out) {
    const struct sweep_row *row = &t->v[i];
    TM_TRY(str_printf(out, "%lld,", (long long)row->point));
    for (int a = 0; a < t->deck->sweep.n; a++) {
        TM_TRY(field(t->deck->sweep.v[a].values.v[deck_sweep_value(t->deck, row->number, a)], out));
        TM_TRY(str_printf(out, ","));
    }
    TM_TRY(str_printf(out, "%s,%.0f", sweep_state_word(row->state), row->steps));
    TM_TRY(number(row->before, out));
    TM_TRY(number(row->after, out));
    TM_TRY(number(row->kl, out));
    TM_TRY(number(row->bits, out));
    TM_TRY(str_printf(out, ",%.2f,", row->seconds));
    if (row->code >= 0) TM_TRY(str_printf(out, "%d", row->code));
    return str_printf(out, ",%s,%s\n", i == t->best ? "best" : row->front ? "front" : "", row->dir);
}

enum status sweep_csv(const struct sweep_table *t, struct str *out) {
    TM_TRY(str_printf(out, "point,"));
    for (int a = 0; a < t->deck->sweep.n; a++) {
        TM_TRY(field(t->deck->sweep.v[a].key, out));
        TM_TRY(str_printf(out, ","));
    }
    TM_TRY(str_printf(out, "state,steps,nll_before,nll_after,kl,bits_per_weight,seconds,exit_code,mark,directory\n"));
    for (int i = 0; i < t->n; i++) TM_TRY(csv_row(t, i, out));
    return TM_OK;
}

/* --- the command -------------------------------------------------------------------------------------------------------------- */
static void now(char *out, size_t cap) {
    struct tm tm;
    time_t t = time(NULL);
    *out = 0;
    if (localtime_r(&t, &tm)) strftime(out, cap, "%Y-%m-%d %H:%M %z", &tm);
}

static enum status write_one(const struct sweep_table *t, const char *name, const struct str *text, struct str *out) {
    char path[4096];
    TM_TRY(str_path(path, sizeof path, t->deck->run.dir, name));
    TM_TRY(file_write(path, text->p, text->len));
    return str_printf(out, "%s\n", path);
}

static enum status summary(const struct sweep_table *t, struct str *out) {
    int count[SWEEP_STATE_COUNT] = {0};
    const char *comma = "";
    for (int i = 0; i < t->n; i++) count[t->v[i].state]++;
    TM_TRY(str_printf(out, "%d points: ", t->n));
    for (int s = 0; s < SWEEP_STATE_COUNT; s++) {
        if (!count[s]) continue;
        TM_TRY(str_printf(out, "%s%d %s", comma, count[s], sweep_state_word((enum sweep_state)s)));
        comma = ", ";
    }
    if (t->best < 0) return str_printf(out, "\n");
    TM_TRY(str_printf(out, "\nbest: point %lld (", (long long)t->v[t->best].point));
    TM_TRY(stage_sweep_values(t->deck, t->v[t->best].number, out));
    return str_printf(out, "): %s %.6g nats/token\n", t->by_kl ? "KL to the teacher" : "NLL", sweep_result(t, t->best));
}

enum status stage_sweep_collect(const struct stage_options *o, const struct deck *deck, struct str *out) {
    struct sweep_table t;
    struct str csv = {0}, html = {0};
    char date[64];
    if (!deck->sweep.n) return TM_FAIL(TM_ERR_DECK, "%s has no sweep", o->deck_path);
    now(date, sizeof date);
    TM_TRY(sweep_read(o, deck, &t));
    enum status st = file_make_dirs(deck->run.dir);
    if (st == TM_OK) st = sweep_csv(&t, &csv);
    if (st == TM_OK) st = sweep_html(&t, date, &html);
    if (st == TM_OK) st = write_one(&t, "sweep.csv", &csv, out);
    if (st == TM_OK) st = write_one(&t, "sweep.html", &html, out);
    if (st == TM_OK) st = summary(&t, out);
    str_free(&csv);
    str_free(&html);
    mem_free(&t.v);
    return st;
}
