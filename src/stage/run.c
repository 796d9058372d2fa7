/* The frame: deck on all ranks, grid, device, run directory, stages in order, results. */
#include "stage/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/stop.h"
#include "base/version.h"
#include "ckpt/ckpt.h"
#include "hub/pretty.h"
#include "stage/device.h"
#include "stage/history.h"
#include "stage/plan.h"
#include "stage/profile.h"
#include "stage/report.h"
#include "stage/saved.h"
#include "stage/shared.h"

/* --- the deck: read and resolved by rank 0, its effective text parsed by everyone -------------------------------------------- */
static enum status read_deck(const struct stage_run *r, struct str *text) {
    const struct stage_options *o = &r->o;
    struct str report = {0};
    struct deck *d = NULL;
    enum status st = o->sweep_point >= 0
                         ? deck_load_shared(o->deck_path, o->sets, o->n_sets, o->sweep_point, r->level, &report, &d)
                         : deck_load(o->deck_path, o->sets, o->n_sets, &report, &d);
    if (report.len) fprintf(stderr, "%s", report.p);
    if (st == TM_OK && deck_sweep_count(d) > 1)
        st = TM_FAIL(TM_ERR_DECK,
                     "%s is a sweep of %lld points: choose one with --sweep-point I (from 0), or --sweep-run",
                     o->deck_path, (long long)deck_sweep_count(d));
    if (st == TM_OK) st = deck_echo(d, text);
    deck_free(&d);
    str_free(&report);
    return st;
}

static enum status share_deck_all(struct stage_run *r) {
    struct str *text = &r->deck_text;
    struct par_group *world = r->grid.world;
    enum status st = par_rank() == 0 ? read_deck(r, text) : TM_OK;
    TM_TRY(par_agree_all(st));
    int64_t n = (int64_t)text->len;
    TM_TRY(par_bcast(world, &n, sizeof n, 0));
    if (par_rank() != 0) st = mem_grow(&text->p, &text->cap, (size_t)n + 1, 1);
    TM_TRY(par_agree_all(st));
    text->len = (size_t)n;
    TM_TRY(par_bcast(world, text->p, n, 0));
    st = deck_parse(text->p, "effective deck", "/", NULL, 0, NULL, &r->deck);
    return par_agree_all(st);
}

/* Keys that the deck knows and this version cannot honour are refused, never ignored. */
enum status stage_check_deck(const struct deck *d) {
    for (int i = 0; i < d->stages.n; i++) {
        const struct deck_stage *s = &d->stages.v[i];
        const struct {
            bool on;
            const char *what;
        } rows[] = {{s->grid.cp > 1, "grid.cp (context parallelism)"},
                    {s->grid.sp, "grid.sp (sequence parallelism)"},
                    {s->grid.vpp > 1, "grid.vpp (interleaved pipelines)"},
                    {s->grid.ep > 1, "grid.ep (expert parallelism)"},
                    {s->grid.etp > 0, "grid.etp"},
                    {s->grid.pp_layout.n > 0, "grid.pp_layout"},
                    {s->teacher.ranks > 0 || s->teacher.grid.tp > 0 || s->teacher.grid.pp > 0 || s->teacher.grid.cp > 0,
                     "a grid of the teacher's own"},
                    {s->numerics.tp_segments != PAR_TP_SEGMENTS, "numerics.tp_segments other than 8"}};
        for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
            if (rows[k].on)
                return TM_FAIL(TM_ERR_UNSUPPORTED, "stage %s: %s is not supported by this version", s->name,
                               rows[k].what);
    }
    return TM_OK;
}

/* --- set-up ----------------------------------------------------------------------------------------------------------------- */
enum status stage_check_grid(struct stage_run *r) {
    const struct deck_grid *g = &r->deck->grid;
    const char *wish = r->deck->numerics.grid_invariant;
    if (g->dp > 0 && g->dp != r->grid.dp)
        return TM_FAIL(TM_ERR_DECK, "grid.dp = %lld, but %d ranks make %d data-parallel groups of tp %d x pp %d",
                       (long long)g->dp, r->grid.tp * r->grid.cp * r->grid.pp * r->grid.dp, r->grid.dp, r->grid.tp,
                       r->grid.pp);
    r->invariant = strcmp(wish, "false") && r->grid.invariant;
    if (!strcmp(wish, "true") && !r->invariant)
        return TM_FAIL(TM_ERR_DECK,
                       "numerics.grid_invariant = true needs grid.tp to be a power of two up to %d, not %d",
                       PAR_TP_SEGMENTS, r->grid.tp);
    if (!strcmp(wish, "auto") && !r->invariant)
        log_warn("grid.tp = %d is no power of two: results depend on the grid", r->grid.tp);
    return TM_OK;
}

static enum status make_grid_all(struct stage_run *r) {
    const struct deck_grid *g = &r->deck->grid;
    par_grid_destroy(&r->grid); /* the world alone, until the deck was known */
    TM_TRY(par_grid_create_all((int)g->tp, (int)g->cp, (int)g->pp, &r->grid));
    return stage_check_grid(r);
}

static void set_log_level(const char *word) {
    static const char *const words[] = {"error", "warn", "info", "debug"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(word, words[i])) log_set_level((enum log_level)i);
}

static enum status begin_results(struct stage_run *r) {
    if (par_rank() != 0) return TM_OK;
    r->results = json_object();
    json_object_set_new(r->results, "schema", json_integer(1));
    json_object_set_new(r->results, "version", json_string(version_string()));
    json_object_set_new(r->results, "stages", json_object());
    r->usage = json_pack("{s:{}}", "memory");
    return r->results && r->usage ? TM_OK : TM_FAIL(TM_ERR_MEMORY, "out of memory");
}

/* The run directory for this process alone. *made: what the points of a sweep share is there already. */
static enum status lock_all(struct stage_run *r, bool *made) {
    *made = false;
    if (r->level >= 0)
        TM_TRY(stage_shared_lock_all(r, made));
    else
        TM_TRY(par_agree_all(par_rank() == 0 ? ckpt_lock_run(r->deck->run.dir, &r->lock) : TM_OK));
    return par_agree_all(begin_results(r));
}

/* --- stages ----------------------------------------------------------------------------------------------------------------- */
stage_fn stage_function(enum deck_kind kind) {
    static const stage_fn functions[] = {
#define KIND(name, leaves_model, doc) stage_##name##_all,
#include "deck/kinds.def"
#undef KIND
    };
    return functions[kind];
}

/* A checkpoint on its way ends with its stage, also when that ends in an error: then it is what the next start goes on from. */
static enum status run_stage_all(struct stage_run *r, const struct deck_stage *s) {
    char keep[2048];
    r->saves = (struct stage_saves){.last = clock_seconds(), .seconds = r->saves.seconds};
    r->polled = r->round = 0;
    enum status st = par_agree_all(stage_function(s->kind)(r, s));
    snprintf(keep, sizeof keep, "%s", status_message());
    enum status saved = stage_save_end_all(r);
    if (st == TM_OK || st == TM_STOPPED) st = saved == TM_OK ? st : saved;
    if (st != saved) status_set_message(keep);
    return st;
}

static enum status run_stages_all(struct stage_run *r) {
    TM_TRY(stage_plan_check_all(r));
    for (int i = 0; i < r->deck->stages.n; i++) {
        const struct deck_stage *s = &r->deck->stages.v[i];
        bool save = false;
        r->now = s;
        log_set_stage(s->name);
        par_note(s->name, 0, "start");
        TM_TRY(stage_poll_all(r, &save));
        if (stage_is_finished(r, s)) {
            log_info("finished by an earlier start");
            continue;
        }
        struct stage_plan planned;
        stage_profile_pause(r, true);
        TM_TRY(stage_plan_all(r, s, &planned));
        stage_profile_pause(r, false);
        TM_TRY(par_agree_all(dev_reserve(r->dev, planned.work, NULL)));
        par_phase("start");
        dev_memory_reset(r->dev);
        double begin = clock_seconds();
        TM_TRY(run_stage_all(r, s));
        TM_TRY(stage_memory_all(r, &planned));
        if (dev_graph_runs(r->dev) > 0) log_info("graphs runs=%lld so far", (long long)dev_graph_runs(r->dev));
        TM_TRY(stage_result(r, s, "seconds", clock_seconds() - begin, "s"));
        TM_TRY(par_agree_all(stage_note_finished(r, s)));
        TM_TRY(par_agree_all(stage_report_write(r)));
    }
    log_set_stage("-");
    TM_TRY(par_agree_all(stage_report_write(r))); /* also when an earlier start finished everything */
    return par_agree_all(stage_report_print(r));
}

static enum status run_all(struct stage_run *r) {
    bool made;
    TM_TRY(par_grid_create_all(1, 1, 1, &r->grid));
    TM_TRY(share_deck_all(r));
    TM_TRY(stage_check_deck(r->deck));
    set_log_level(r->deck->run.log);
    TM_TRY(make_grid_all(r));
    TM_TRY(lock_all(r, &made));
    if (made) return TM_OK;
    TM_TRY(stage_history_all(r));
    stage_stop_begin(r);
    TM_TRY(par_agree_all(stage_device_open(r)));
    TM_TRY(par_watchdog_start(r->deck->limits.deadline_s));
    TM_TRY(stage_device_join_all(r));
    TM_TRY(stage_profile_begin_all(r));
    log_info("temper %s ranks=%d tp=%d pp=%d dp=%d grid_invariant=%s run=%s", version_string(), par_size(), r->grid.tp,
             r->grid.pp, r->grid.dp, r->invariant ? "yes" : "no", r->deck->run.dir);
    TM_TRY(run_stages_all(r));
    return stage_profile_end_all(r);
}

/* What a level leaves to the one above it. */
static enum status leave_below(const struct stage_run *r, struct stage_below *below) {
    below->stages = r->deck->stages.n;
    return str_copy(below->dir, sizeof below->dir, r->deck->run.dir);
}

enum status stage_run_level_all(const struct stage_options *o, int level, double start, struct stage_below *below) {
    struct stage_run r = {.o = *o, .level = level, .below = *below, .lock = -1, .start = start};
    if (level >= 0) r.o.resume = "auto"; /* others may be reading it */
    enum status st = run_all(&r);
    if (level < 0) stop_ignore_signals();
    stage_stop_end(&r);
    if (st == TM_OK) st = leave_below(&r, below);
    if (r.begun)
        stage_history_end(&r, st);
    else if (r.lock >= 0)
        (void)stage_note_end(r.deck->run.dir, st);
    stage_profile_free(&r);
    par_watchdog_stop();
    par_grid_destroy(&r.grid);
    dev_close(&r.dev);
    json_decref(r.results);
    json_decref(r.usage);
    json_decref(r.finished);
    ckpt_unlock_run(&r.lock);
    deck_free(&r.deck);
    str_free(&r.deck_text);
    return st;
}

enum status stage_run_deck_all(const struct stage_options *o) {
    struct stage_below none = {.stages = 0};
    return o->sweep_point >= 0 ? stage_run_point_all(o) : stage_run_level_all(o, -1, clock_seconds(), &none);
}

/* --- results ------------------------------------------------------------------------------------------------------------------ */
json_t *stage_results_of(struct stage_run *r, const struct deck_stage *s) {
    json_t *all = json_object_get(r->results, "stages"), *one = json_object_get(all, s->name);
    if (!one) {
        one = json_object();
        json_object_set_new(one, "do", json_string(s->verb));
        json_object_set_new(all, s->name, one);
    }
    return one;
}

enum status stage_result(struct stage_run *r, const struct deck_stage *s, const char *name, double value,
                         const char *unit) {
    if (par_rank() != 0 || r->plan) return TM_OK;
    json_object_set_new(stage_results_of(r, s), name, json_real(value));
    if (r->quiet) return TM_OK;
    printf("%s.%s = %.9g%s%s\n", s->name, name, value, *unit ? " " : "", unit);
    fflush(stdout);
    return TM_OK;
}

enum status stage_result_text(struct stage_run *r, const struct deck_stage *s, const char *name, const char *value) {
    if (par_rank() != 0 || r->plan) return TM_OK;
    json_object_set_new(stage_results_of(r, s), name, json_string(value));
    if (r->quiet) return TM_OK;
    printf("%s.%s = %s\n", s->name, name, value);
    fflush(stdout);
    return TM_OK;
}

enum status stage_ckpt_dir(const struct deck_stage *s, char *out, size_t cap) {
    int n = snprintf(out, cap, "%s/ckpt/%02d-%s", s->run.dir, s->index, s->name);
    return n > 0 && (size_t)n < cap ? TM_OK : TM_FAIL(TM_ERR_DECK, "run.dir is too long");
}
