/* Checkpoints of stages, and the run's history. */
#include "stage/saved.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/version.h"
#include "stage/fingerprint.h"
#include "stage/history.h"
#include "stage/plan.h"
#include "stage/shared.h"

enum status stage_meta(const struct quant_model *q, int64_t done, bool finished, json_t **out) {
    json_t *formats = NULL;
    *out = json_object();
    if (!*out) return TM_FAIL(TM_ERR_MEMORY, "out of memory");
    if (q) TM_TRY(quant_model_formats(q, &formats));
    json_object_set_new(*out, "done", json_integer(done));
    json_object_set_new(*out, "finished", json_boolean(finished));
    json_object_set_new(*out, "quantizers", formats ? formats : json_object());
    return TM_OK;
}

/* Learn from a save that is done: what it cost, and so how often to save. */
static void measure(struct stage_run *r, const struct ckpt_saved *x) {
    struct stage_saves *v = &r->saves;
    double mtbf = 3600 * r->now->checkpoint.mtbf_h;
    bool first = v->interval == 0;
    log_info("checkpoint step=%lld bytes=%lld seconds=%.3f path=%s stalled=%.3f", (long long)x->step,
             (long long)x->bytes, x->seconds, x->path, x->stalled);
    r->spent[STAGE_SPENT_SAVE] += x->stalled;
    v->cost = x->stalled > 1e-6 ? x->stalled : 1e-6;
    if (x->seconds > v->seconds) v->seconds = x->seconds;
    stage_stop_renew(r);
    if (mtbf <= 0) return;
    v->interval = ckpt_interval(v->cost, mtbf);
    if (v->interval < x->seconds - x->stalled) v->interval = x->seconds - x->stalled; /* one at a time */
    if (first)
        log_info("a save every %.1f s: one costs %.4g s, checkpoint.mtbf_h = %g (Daly 2006)", v->interval, v->cost,
                 r->now->checkpoint.mtbf_h);
}

bool stage_save_due(const struct stage_run *r, const struct deck_stage *s) {
    double since = clock_seconds() - r->saves.last, by_failures = s->checkpoint.mtbf_h > 0 ? r->saves.interval : -1;
    if (r->plan || r->saves.writer) return false;
    return (s->checkpoint.every_s > 0 && since >= s->checkpoint.every_s) || (by_failures >= 0 && since >= by_failures);
}

void stage_save_hold(const struct stage_run *r) { ckpt_background_hold(r->saves.writer); }

enum status stage_save_advance_all(struct stage_run *r) {
    struct ckpt_saved info = {0};
    TM_TRY(ckpt_background_advance_all(&r->saves.writer, &info));
    if (info.path[0]) measure(r, &info);
    return TM_OK;
}

enum status stage_save_end_all(struct stage_run *r) {
    while (r->saves.writer) TM_TRY(stage_save_advance_all(r));
    return TM_OK;
}

enum status stage_save_all(struct stage_run *r, const struct deck_stage *s, int64_t done,
                           const struct ckpt_tensor *list, size_t n, const json_t *meta, bool later) {
    char dir[4096];
    struct ckpt_saved info;
    later = later && s->checkpoint.background;
    if (r->plan) return stage_plan_saved(r, list, n, later);
    TM_TRY(stage_save_end_all(r)); /* one at a time */
    r->saves.last = clock_seconds();
    TM_TRY(stage_ckpt_dir(s, dir, sizeof dir));
    struct ckpt_save_args a = {.run_dir = s->run.dir,
                               .dir = dir,
                               .step = done,
                               .dev = r->dev,
                               .tensors = list,
                               .n = (int)n,
                               .meta = meta,
                               .deck_text = r->deck_text.p,
                               .code = version_string(),
                               .grid = &r->grid,
                               .keep = (int)s->checkpoint.keep,
                               .writers = (int)s->checkpoint.writers,
                               .verify = s->checkpoint.verify};
    if (later) return ckpt_background_begin_all(&a, &r->saves.writer);
    TM_TRY(ckpt_save_all(&a, &info));
    measure(r, &info);
    return TM_OK;
}

enum status stage_resume_all(struct stage_run *r, const struct deck_stage *s, struct ckpt **out) {
    char dir[4096], path[4096];
    int64_t step;
    *out = NULL;
    if (r->plan || !strcmp(r->o.resume, "never")) return TM_OK;
    TM_TRY(stage_ckpt_dir(s, dir, sizeof dir));
    TM_TRY(ckpt_find_latest_all(dir, r->grid.world, path, sizeof path, &step));
    return step < 0 ? TM_OK : ckpt_open_all(path, r->grid.world, out);
}

/* --- history ------------------------------------------------------------------------------------------------------------------ */
static bool allowed(const struct stage_run *r, const char *key) {
    for (int i = 0; i < r->o.n_allow; i++)
        if (!strcmp(r->o.allow[i], key) || !strcmp(r->o.allow[i], "all")) return true;
    return false;
}

/* The deck of the start before against this one's. */
static enum status compare(const struct stage_run *r, const char *old) {
    struct deck_differences d;
    struct str refused = {0};
    enum status st = deck_compare(old, r->deck_text.p, &d);
    for (int i = 0; st == TM_OK && i < d.n; i++) {
        const struct deck_difference *x = &d.v[i];
        if (!*x->key || x->resume == DECK_FREE) continue;
        if (x->resume == DECK_SAME && !allowed(r, x->key))
            st = str_printf(&refused, "\n  stage %s: %s was %s and is %s", x->stage, x->key,
                            *x->was ? x->was : "absent", *x->now ? x->now : "absent");
        else
            log_warn("stage %s: %s was %s in the start before and is %s now", x->stage, x->key, x->was, x->now);
    }
    if (st == TM_OK && refused.len)
        st =
            TM_FAIL(TM_ERR_DECK,
                    "%s was begun with another deck (take another run.dir, --resume never, or --allow-mismatch KEY):%s",
                    r->deck->run.dir, refused.p);
    str_free(&refused);
    deck_differences_free(&d);
    return st;
}

/* Other content behind the same path is refused by name. */
static enum status check_fingerprint(const struct stage_run *r, const json_t *old, const json_t *now) {
    char key[64];
    const char *changed = old ? stage_fingerprint_changed(old, now) : NULL;
    if (!changed) return TM_OK;
    snprintf(key, sizeof key, "%.*s", (int)strcspn(changed, " "), changed);
    if (!allowed(r, key))
        return TM_FAIL(
            TM_ERR_DECK,
            "%s was begun with other content of %s (take another run.dir, --resume never, or --allow-mismatch %s)",
            r->deck->run.dir, changed, key);
    log_warn("the content of %s is not what the start before had", changed);
    return TM_OK;
}

static enum status read_finished(struct stage_run *r, const json_t *fingerprint) {
    json_t *lines;
    TM_TRY(ckpt_ledger_read(r->deck->run.dir, &lines));
    const json_t *last = NULL; /* what the start before read: a change that was once allowed holds from then on */
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *of = json_object_get(json_array_get(lines, i), "fingerprint");
        last = of ? of : last;
    }
    enum status st = check_fingerprint(r, last, fingerprint);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        const char *name = json_string_value(json_object_get(line, "finished"));
        double seconds = json_number_value(json_object_get(line, "seconds")); /* of a checkpoint */
        if (seconds > r->saves.seconds) r->saves.seconds = seconds;
        if (name) json_object_set(r->finished, name, json_object_get(line, "results"));
    }
    json_decref(lines);
    return st;
}

static enum status forget(const char *dir) {
    static const char *const names[] = {"ckpt",        "ledger.jsonl", "metrics.jsonl", "results.json",
                                        "report.html", "usage.json",   "trace.json"};
    char path[4096];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        TM_TRY(str_path(path, sizeof path, dir, names[i]));
        TM_TRY(file_remove_tree(path));
    }
    return TM_OK;
}

/* Rank 0: what does the run directory hold, and may this deck go on with it? */
static enum status read_history(struct stage_run *r) {
    char path[4096], *old;
    size_t n;
    json_t *fingerprint = NULL;
    const char *dir = r->deck->run.dir;
    TM_TRY(str_path(path, sizeof path, dir, "deck.effective.cfg"));
    enum status st = stage_fingerprint(r->deck, &fingerprint);
    if (st == TM_OK && !strcmp(r->o.resume, "never")) st = forget(dir);
    if (st == TM_OK && strcmp(r->o.resume, "never") && file_exists(path)) {
        st = file_read(path, 64 << 20, &old, &n);
        if (st == TM_OK) st = compare(r, old);
        mem_free(&old);
        if (st == TM_OK) st = read_finished(r, fingerprint);
    }
    if (st == TM_OK) st = stage_shared_adopt(r);
    if (st == TM_OK) stage_history_usage(r);
    if (st == TM_OK) st = stage_history_start(r, fingerprint);
    json_decref(fingerprint);
    return st == TM_OK ? file_write(path, r->deck_text.p, r->deck_text.len) : st;
}

static enum status share_finished_all(struct stage_run *r) {
    char *text = par_rank() == 0 ? json_dumps(r->finished, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL, *copy = NULL;
    int64_t n = text ? (int64_t)strlen(text) : 0;
    enum status st = par_bcast(r->grid.world, &n, sizeof n, 0);
    if (st == TM_OK) st = mem_alloc(&copy, (size_t)n + 1, 1);
    if (st == TM_OK && text) memcpy(copy, text, (size_t)n);
    st = par_agree_all(st);
    if (st == TM_OK) st = par_bcast(r->grid.world, copy, n, 0);
    if (st == TM_OK && par_rank() != 0) {
        json_decref(r->finished);
        st = json_read_buffer(copy, (size_t)n, "history", &r->finished);
    }
    free(text); /* jansson allocates with malloc */
    mem_free(&copy);
    return par_agree_all(st);
}

enum status stage_history_all(struct stage_run *r) {
    r->finished = json_object();
    TM_TRY(par_agree_all(par_rank() == 0 ? read_history(r) : TM_OK));
    TM_TRY(share_finished_all(r));
    if (par_rank() == 0) {
        const char *name;
        json_t *results;
        json_object_foreach(r->finished, name, results)
            json_object_set(json_object_get(r->results, "stages"), name, results);
    }
    return TM_OK;
}

bool stage_is_finished(const struct stage_run *r, const struct deck_stage *s) {
    return json_object_get(r->finished, s->name) != NULL;
}

enum status stage_note_finished(struct stage_run *r, const struct deck_stage *s) {
    json_t *results = json_object_get(json_object_get(r->results, "stages"), s->name), *line;
    if (par_rank() != 0) return TM_OK;
    line = json_object();
    json_object_set_new(line, "finished", json_string(s->name));
    if (results)
        json_object_set(line, "results", results);
    else
        json_object_set_new(line, "results", json_object());
    enum status st = ckpt_ledger_append(s->run.dir, line);
    json_decref(line);
    return st;
}
