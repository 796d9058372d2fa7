/* What the points of a sweep are, and what they came to. */
#include "stage/sweep.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"
#include "stage/report_data.h"

/* --- the list ----------------------------------------------------------------------------------------------------------------- */
enum status stage_sweep_values(const struct deck *deck, int64_t number, struct str *out) {
    for (int i = 0; i < deck->sweep.n; i++)
        TM_TRY(str_printf(out, "%s%s = %s", i ? ", " : "", deck->sweep.v[i].key,
                          deck->sweep.v[i].values.v[deck_sweep_value(deck, number, i)]));
    return TM_OK;
}

/* The axes that change something before stage `stages`. */
static enum status list_shared(const struct deck *deck, int from, int stages, struct str *out) {
    const char *between = " once for each value of ";
    TM_TRY(str_printf(out, "# shared: "));
    for (int i = from; i < stages; i++) TM_TRY(str_printf(out, "%s%s", i > from ? ", " : "", deck->stages.v[i].name));
    for (int i = 0; i < deck->sweep.n; i++) {
        if (deck->sweep.v[i].first_stage >= stages) continue;
        TM_TRY(str_printf(out, "%s%s", between, deck->sweep.v[i].key));
        between = " and ";
    }
    return str_printf(out, "%s\n", strcmp(between, " and ") ? " once for all points" : "");
}

enum status stage_sweep_list(const struct deck *deck, struct str *out) {
    char dir[160];
    int64_t point = 0;
    for (int64_t k = deck_sweep_next(deck, -1); k >= 0; k = deck_sweep_next(deck, k), point++) {
        TM_TRY(deck_sweep_dir(k, dir, sizeof dir));
        TM_TRY(str_printf(out, "%-4lld %s/%s", (long long)point, deck->run.dir, dir));
        if (deck->sweep.n) TM_TRY(str_printf(out, "  "));
        TM_TRY(stage_sweep_values(deck, k, out));
        TM_TRY(str_printf(out, "\n"));
    }
    for (int level = 0, from = 0, stages; (stages = deck_sweep_shared(deck, 0, level, dir, sizeof dir)); level++) {
        TM_TRY(list_shared(deck, from, stages, out));
        from = stages;
    }
    return TM_OK;
}

enum status stage_sweep_check(const struct stage_options *o, const struct deck *deck, struct str *report) {
    enum { MOST = 1000 };
    int64_t n = deck_sweep_count(deck);
    if (n > MOST) TM_TRY(str_printf(report, "of %lld points the first %d are checked\n", (long long)n, MOST));
    for (int64_t i = 0; deck->sweep.n && i < n && i < MOST; i++) {
        struct deck *d;
        struct str own = {0};
        enum status st = deck_load_point(o->deck_path, o->sets, o->n_sets, i, &own, &d);
        deck_free(&d);
        if (st != TM_OK && own.len) (void)str_append(report, own.p, own.len);
        str_free(&own);
        if (st != TM_OK) return status_context(st, "point %lld: ", (long long)i);
    }
    return TM_OK;
}

/* --- one point ---------------------------------------------------------------------------------------------------------------- */
const char *sweep_state_word(enum sweep_state s) {
    static const char *const words[] = {
#define STATE(name, word, doc) word,
        SWEEP_STATES(STATE)
#undef STATE
    };
    return words[s];
}

static int code_named(const char *name) {
#define ST(status, code, text) \
    if (!strcmp(name, #status)) return code;
#include "base/status.def"
#undef ST
    return -1;
}

/* Does a process hold the run directory? */
static bool is_held(const char *dir) {
    char path[4096];
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (str_path(path, sizeof path, dir, ".lock") != TM_OK) return false;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return false;
    bool held = fcntl(fd, F_GETLK, &l) == 0 && l.l_type != F_UNLCK;
    close(fd);
    return held;
}

static double number_of(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return json_is_number(v) ? json_number_value(v) : 0;
}

/* Of one line of the ledger; *begun: a start that has not written its end. */
static void read_line(const json_t *line, struct sweep_row *row, json_t *stages, bool *begun) {
    const char *stage = json_string_value(json_object_get(line, "finished"));
    const char *end = json_string_value(json_object_get(line, "end"));
    const char *why = json_string_value(json_object_get(line, "why"));
    json_t *results = json_object_get(line, "results");
    if (json_object_get(line, "start")) *begun = true;
    if (stage && json_is_object(results)) {
        json_object_set(stages, stage, results);
        json_object_set_new(results, "shared", json_boolean(json_object_get(line, "shared") != NULL));
    }
    if (!end) return;
    *begun = false;
    row->code = code_named(end);
    snprintf(row->why, sizeof row->why, "%s", why ? why : "");
}

/* The evaluation that judges the point: the last one on the data of the first. */
static const struct deck_stage *judging(const struct deck *d) {
    const struct deck_stage *first = NULL, *last = NULL;
    for (int i = 0; i < d->stages.n; i++) {
        const struct deck_stage *s = &d->stages.v[i];
        if (s->kind != DECK_KIND_evaluate) continue;
        if (!first) first = s;
        if (!strcmp(s->data, first->data)) last = s;
    }
    return last;
}

/* Numbers of the stages that have finished. */
static enum status read_results(const struct deck *d, json_t *results, struct sweep_row *row) {
    const json_t *stages = json_object_get(results, "stages");
    struct stage_run run = {.deck = (struct deck *)(uintptr_t)d, .results = results};
    struct report_rows rows;
    for (int i = 0; i < d->stages.n; i++) {
        const json_t *x = json_object_get(stages, d->stages.v[i].name);
        row->steps += number_of(x, "steps");
        if (!json_is_true(json_object_get(x, "shared"))) row->seconds += number_of(x, "seconds");
    }
    TM_TRY(report_collect(&run, &rows));
    for (int i = 0; i < rows.n; i++) {
        if (!rows.v[i].comparable) continue;
        if (i == 0) row->before = rows.v[i].value[REPORT_NLL];
        if (rows.v[i].stage != judging(d)) continue;
        row->after = rows.v[i].value[REPORT_NLL];
        row->kl = rows.v[i].value[REPORT_KL];
        row->bits = rows.v[i].value[REPORT_BITS];
    }
    mem_free(&rows.v);
    return TM_OK;
}

static enum sweep_state state_of(const char *dir, const struct deck *d, const json_t *stages, bool begun, int code) {
    bool all = true, any = begun;
    for (int i = 0; i < d->stages.n; i++) {
        bool has = json_object_get(stages, d->stages.v[i].name) != NULL;
        all &= has;
        any |= has;
    }
    if (is_held(dir)) return SWEEP_RUNNING;
    if (all && !begun && code <= 0) return SWEEP_DONE;
    if (begun || (any && code < 0)) return SWEEP_BROKEN;
    return code == TM_STOPPED ? SWEEP_STOPPED : code >= 0 ? SWEEP_FAILED : SWEEP_MISSING;
}

static enum status read_point(const struct deck *d, struct sweep_row *row) {
    json_t *lines, *results;
    bool begun = false;
    TM_TRY(ckpt_ledger_read(d->run.dir, &lines));
    results = json_pack("{s:{}}", "stages");
    if (!results) {
        json_decref(lines);
        return TM_FAIL(TM_ERR_MEMORY, "out of memory");
    }
    json_t *stages = json_object_get(results, "stages");
    for (size_t i = 0; i < json_array_size(lines); i++) read_line(json_array_get(lines, i), row, stages, &begun);
    enum status st = read_results(d, results, row);
    row->state = state_of(d->run.dir, d, stages, begun, row->code);
    if (row->state == SWEEP_RUNNING || row->state == SWEEP_BROKEN) row->code = -1;
    json_decref(results);
    json_decref(lines);
    return st;
}

/* --- all points --------------------------------------------------------------------------------------------------------------- */
double sweep_result(const struct sweep_table *t, int row) { return t->by_kl ? t->v[row].kl : t->v[row].after; }

static bool beats(const struct sweep_table *t, int a, int b) {
    double x = sweep_result(t, a), y = sweep_result(t, b), p = t->v[a].bits, q = t->v[b].bits;
    return x <= y && p <= q && (x < y || p < q);
}

static void judge(struct sweep_table *t) {
    t->best = -1;
    for (int i = 0; i < t->n; i++) t->by_kl |= t->v[i].state == SWEEP_DONE && isfinite(t->v[i].kl);
    for (int i = 0; i < t->n; i++) {
        struct sweep_row *row = &t->v[i];
        row->front = row->state == SWEEP_DONE && isfinite(sweep_result(t, i)) && isfinite(row->bits);
        if (row->state != SWEEP_DONE || !isfinite(sweep_result(t, i))) continue;
        if (t->best < 0 || sweep_result(t, i) < sweep_result(t, t->best)) t->best = i;
        for (int j = 0; j < t->n; j++)
            if (t->v[j].state == SWEEP_DONE && beats(t, j, i)) row->front = false;
    }
}

enum status sweep_read(const struct stage_options *o, const struct deck *deck, struct sweep_table *out) {
    *out = (struct sweep_table){.deck = deck, .best = -1};
    TM_TRY(mem_alloc(&out->v, (size_t)deck_sweep_count(deck) + 1, sizeof *out->v));
    enum status st = TM_OK;
    for (int64_t k = deck_sweep_next(deck, -1); k >= 0 && st == TM_OK; k = deck_sweep_next(deck, k)) {
        struct sweep_row *row = &out->v[out->n];
        struct deck *d = NULL;
        *row = (struct sweep_row){.point = out->n, .number = k, .code = -1, .before = NAN, .after = NAN, .kl = NAN};
        row->bits = NAN;
        st = deck_sweep_dir(k, row->dir, sizeof row->dir);
        if (st == TM_OK) st = deck_load_point(o->deck_path, o->sets, o->n_sets, out->n, NULL, &d);
        if (st == TM_OK) st = read_point(d, row);
        deck_free(&d);
        out->n++;
    }
    judge(out);
    if (st != TM_OK) mem_free(&out->v);
    return st;
}
