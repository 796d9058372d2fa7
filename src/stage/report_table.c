/* The quality table. */
#include "stage/report_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum change { NOTHING, DIFFERENCE, PERCENT };
static const struct {
    const char *title, *unit;
    enum change change;
} columns[] = {
#define COLUMN(name, key, title, unit, change) {title, unit, change},
    REPORT_COLUMNS(COLUMN)
#undef COLUMN
};

const char *report_column_title(enum report_column c) { return columns[c].title; }
const char *report_column_unit(enum report_column c) { return columns[c].unit; }

void report_bytes(double bytes, char out[REPORT_CELL]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t u = 0;
    for (; bytes >= 999.5 && u + 1 < sizeof units / sizeof *units; u++) bytes /= 1000;
    snprintf(out, REPORT_CELL, "%.*f %s", u == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2, bytes, units[u]);
}

void report_cell(const struct report_row *row, enum report_column c, char out[REPORT_CELL]) {
    double x = row->value[c];
    *out = 0;
    if (isnan(x)) return;
    if (c == REPORT_BYTES)
        report_bytes(x, out);
    else if (c == REPORT_AGREEMENT)
        snprintf(out, REPORT_CELL, "%.1f %%", 100 * x);
    else if (c == REPORT_NLL || c == REPORT_KL)
        snprintf(out, REPORT_CELL, "%.4f", x);
    else
        snprintf(out, REPORT_CELL, fabs(x) < 1e6 ? "%.2f" : "%.4g", x);
}

void report_change(const struct report_rows *rows, int row, enum report_column c, char out[REPORT_CELL]) {
    double from = rows->v[0].value[c], to = rows->v[row].value[c];
    *out = 0;
    if (row == 0 || (!rows->v[row].comparable && c != REPORT_BYTES) || isnan(from) || isnan(to)) return;
    if (columns[c].change == DIFFERENCE) snprintf(out, REPORT_CELL, "%+.4f", to - from);
    if (columns[c].change == PERCENT && from > 0) snprintf(out, REPORT_CELL, "%+.1f %%", 100 * (to / from - 1));
}

bool report_column_used(const struct report_rows *rows, enum report_column c) {
    for (int i = 0; i < rows->n; i++)
        if (!isnan(rows->v[i].value[c])) return true;
    return false;
}

void report_recovery_text(const struct report_recovery *x, struct report_out *o) {
    if (!x->learn) return;
    const char *learn = x->learn->name, *calibrate = x->calibrate->name;
    if (!(x->lost > 0))
        report_printf(o, "%s lost no NLL, so there was nothing for %s to win back.", calibrate, learn);
    else if (x->left > x->lost)
        report_printf(o, "%s lost %.4f nats/token and %s lost %.4f more.", calibrate, x->lost, learn,
                      x->left - x->lost);
    else
        report_printf(o, "%s won back %.1f %% of the NLL that %s lost (%.4f of %.4f nats/token).", learn,
                      100 * (x->lost - x->left) / x->lost, calibrate, x->lost - x->left, x->lost);
}

/* --- plain text --------------------------------------------------------------------------------------------------------------- */
struct column { /* of the printed table: values, or changes of the column before */
    enum report_column c;
    bool change;
    int width;
};

static void text_cell(const struct report_rows *rows, int row, const struct column *k, char out[REPORT_CELL]) {
    if (row < 0)
        snprintf(out, REPORT_CELL, "%s", k->change ? "change" : columns[k->c].title);
    else if (k->change)
        report_change(rows, row, k->c, out);
    else
        report_cell(&rows->v[row], k->c, out);
}

/* Columns that hold something, as wide as their widest cell. */
static int lay_out(const struct report_rows *rows, struct column *out) {
    char cell[REPORT_CELL];
    int n = 0;
    for (int c = 0; c < REPORT_COLUMN_COUNT; c++)
        for (int change = 0; change < 2; change++) {
            struct column k = {(enum report_column)c, change, 0};
            bool used = false;
            for (int row = -1; row < rows->n; row++) {
                text_cell(rows, row, &k, cell);
                if ((int)strlen(cell) > k.width) k.width = (int)strlen(cell);
                used |= row >= 0 && *cell;
            }
            if (used) out[n++] = k;
        }
    return n;
}

void report_table_text(const struct report_rows *rows, const struct report_recovery *x, struct report_out *o) {
    struct column k[2 * REPORT_COLUMN_COUNT];
    char cell[REPORT_CELL];
    int n = lay_out(rows, k), names = (int)strlen("stage");
    for (int i = 0; i < rows->n; i++)
        names = (int)strlen(rows->v[i].stage->name) > names ? (int)strlen(rows->v[i].stage->name) : names;
    for (int row = -1; row < rows->n; row++) {
        report_printf(o, "%-*s", names, row < 0 ? "stage" : rows->v[row].stage->name);
        for (int i = 0; i < n; i++) {
            text_cell(rows, row, &k[i], cell);
            report_printf(o, "  %*s", k[i].width, cell);
        }
        while (o->st == TM_OK && o->text.p[o->text.len - 1] == ' ') o->text.p[--o->text.len] = 0;
        report_printf(o, "\n");
    }
    size_t before = o->text.len;
    report_recovery_text(x, o);
    if (o->text.len > before) report_printf(o, "\n");
}
