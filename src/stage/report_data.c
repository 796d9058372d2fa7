/* Collecting what a report says. */
#include "stage/report_data.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "hub/safetensors.h"

/* --- quality ------------------------------------------------------------------------------------------------------------------ */
static double number(const json_t *object, const char *key) {
    const json_t *j = json_object_get(object, key);
    return json_is_number(j) ? json_number_value(j) : NAN;
}

static const json_t *results_of(const struct stage_run *r, const char *stage) {
    return json_object_get(json_object_get(r->results, "stages"), stage);
}

/* Bytes of all tensors of a Hugging Face directory; a model that was drawn, or cannot be read any more, has no known size. */
static double source_bytes(const char *path) {
    struct hub_model *m;
    double bytes = 0;
    if (!*path || hub_open(path, &m) != TM_OK) return NAN;
    for (int64_t i = 0; i < hub_count(m); i++) bytes += (double)hub_entry(m, i)->bytes;
    hub_close(&m);
    return bytes;
}

static double model_bytes(const struct stage_run *r, const struct deck_stage *s) {
    for (int i = 0; i < r->deck->stages.n; i++) {
        const struct deck_stage *x = &r->deck->stages.v[i];
        double bytes = number(results_of(r, x->name), "bytes");
        if (x->kind == DECK_KIND_export && x->from_index == s->from_index && s->from_index >= 0 && isfinite(bytes))
            return bytes;
    }
    return s->from_index < 0 ? source_bytes(s->model.path) : NAN;
}

enum status report_collect(const struct stage_run *r, struct report_rows *out) {
    static const char *const keys[] = {
#define COLUMN(name, key, title, unit, change) key,
        REPORT_COLUMNS(COLUMN)
#undef COLUMN
    };
    *out = (struct report_rows){0};
    TM_TRY(mem_alloc(&out->v, (size_t)r->deck->stages.n, sizeof *out->v));
    for (int i = 0; i < r->deck->stages.n; i++) {
        const struct deck_stage *s = &r->deck->stages.v[i];
        const json_t *results = results_of(r, s->name);
        if (s->kind != DECK_KIND_evaluate || isnan(number(results, "nll"))) continue;
        struct report_row *row = &out->v[out->n++];
        row->stage = s;
        for (int c = 0; c < REPORT_COLUMN_COUNT; c++) row->value[c] = number(results, keys[c]);
        row->value[REPORT_BYTES] = model_bytes(r, s);
        row->comparable = !strcmp(s->data, out->v[0].stage->data);
    }
    return TM_OK;
}

static const struct report_row *row_of_model(const struct report_rows *rows, int from_index) {
    for (int i = rows->n; i-- > 1;)
        if (rows->v[i].comparable && rows->v[i].stage->from_index == from_index) return &rows->v[i];
    return NULL;
}

/* The last row whose model was trained on top of a calibrated one that has a row as well. */
struct report_recovery report_recovery(const struct stage_run *r, const struct report_rows *rows) {
    const struct deck_stage *stages = r->deck->stages.v;
    for (int i = rows->n; i-- > 2;) {
        const struct report_row *after = &rows->v[i];
        int learn = after->stage->from_index, from = learn;
        while (from >= 0 && stages[from].kind != DECK_KIND_calibrate) from = stages[from].from_index;
        if (!after->comparable || from < 0 || from == learn) continue;
        const struct report_row *before = row_of_model(rows, from);
        if (!before) continue;
        double reference = rows->v[0].value[REPORT_NLL];
        return (struct report_recovery){.calibrate = &stages[from],
                                        .learn = &stages[learn],
                                        .lost = before->value[REPORT_NLL] - reference,
                                        .left = after->value[REPORT_NLL] - reference};
    }
    return (struct report_recovery){0};
}

/* --- curves ------------------------------------------------------------------------------------------------------------------- */
static enum status find_curve(struct report_curves *c, const char *stage, const char *metric,
                              struct report_curve **out) {
    for (size_t i = 0; i < c->n; i++) {
        *out = &c->v[i];
        if (!strcmp((*out)->stage, stage) && !strcmp((*out)->metric, metric)) return TM_OK;
    }
    TM_TRY(mem_grow(&c->v, &c->cap, c->n + 1, sizeof *c->v));
    *out = &c->v[c->n++];
    TM_TRY(str_copy((*out)->stage, sizeof(*out)->stage, stage));
    return str_copy((*out)->metric, sizeof(*out)->metric, metric);
}

static enum status add_line(struct report_curves *c, const char *stage, double step, json_t *line) {
    const char *key;
    json_t *value;
    json_object_foreach(line, key, value) {
        struct report_curve *x;
        if (!strcmp(key, "step") || !(json_is_number(value) || json_is_null(value))) continue;
        if (strlen(key) >= sizeof x->metric || strlen(stage) >= sizeof x->stage) continue;
        TM_TRY(find_curve(c, stage, key, &x));
        TM_TRY(mem_grow(&x->p, &x->cap, x->n + 1, sizeof *x->p));
        x->p[x->n++] = (struct report_point){step, json_is_null(value) ? NAN : json_number_value(value)};
    }
    return TM_OK;
}

static enum status read_lines(const char *text, size_t n, struct report_curves *out) {
    for (const char *p = text, *end; p < text + n; p = end + 1) {
        end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end) break; /* torn by a kill */
        json_t *line = json_loadb(p, (size_t)(end - p), 0, NULL);
        const char *stage = json_string_value(json_object_get(line, "stage"));
        double step = number(line, "step");
        enum status st = stage && isfinite(step) ? add_line(out, stage, step, line) : TM_OK;
        json_decref(line);
        TM_TRY(st);
    }
    return TM_OK;
}

enum status report_read_curves(const char *path, struct report_curves *out) {
    char *text;
    size_t n;
    *out = (struct report_curves){0};
    if (!file_exists(path)) return TM_OK;
    TM_TRY(file_read(path, (size_t)1 << 32, &text, &n));
    enum status st = read_lines(text, n, out);
    mem_free(&text);
    return st;
}

void report_curves_free(struct report_curves *c) {
    for (size_t i = 0; i < c->n; i++) mem_free(&c->v[i].p);
    mem_free(&c->v);
    *c = (struct report_curves){0};
}
