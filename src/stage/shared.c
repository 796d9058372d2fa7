/* What points of a sweep share. A level's directory is a run directory like any other, of a deck that ends early; a point finds the level's
 * checkpoints and files through links in its own directory and its stages finished in its own ledger, so that nothing else knows of sharing. */
#include "stage/shared.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "ckpt/ckpt.h"

/* --- the ledger --------------------------------------------------------------------------------------------------------------- */
/* The results of a finished stage; NULL when it is not. The last line counts. */
static json_t *finished(const json_t *lines, const char *stage) {
    json_t *results = NULL;
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        const char *name = json_string_value(json_object_get(line, "finished"));
        if (name && !strcmp(name, stage)) results = json_object_get(line, "results");
    }
    return results;
}

enum status stage_all_finished(const char *run_dir, const struct deck *d, bool *out) {
    json_t *lines;
    TM_TRY(ckpt_ledger_read(run_dir, &lines));
    *out = true;
    for (int i = 0; i < d->stages.n; i++) *out &= finished(lines, d->stages.v[i].name) != NULL;
    json_decref(lines);
    return TM_OK;
}

enum status stage_note_end(const char *run_dir, enum status st) {
    char why[1024];
    snprintf(why, sizeof why, "%s", st == TM_OK ? "" : status_message());
    json_t *line = json_pack("{s:s, s:s*}", "end", status_name(st), "why", *why ? why : NULL);
    if (!line) line = json_pack("{s:s}", "end", status_name(st)); /* a message that is no UTF-8 */
    enum status wrote = file_make_dirs(run_dir);
    if (wrote == TM_OK) wrote = ckpt_ledger_append(run_dir, line);
    json_decref(line);
    if (wrote != TM_OK) log_warn("the ledger lacks this end: %s", status_message());
    status_set_message(why);
    return wrote;
}

/* --- taking over -------------------------------------------------------------------------------------------------------------- */
/* What each run keeps about itself; everything else in a run directory is what stages left. */
static bool is_own(const char *name) {
    static const char *const names[] = {".",
                                        "..",
                                        ".lock",
                                        "STOP",
                                        "log",
                                        "ckpt",
                                        "cache",
                                        "ledger.jsonl",
                                        "usage.json",
                                        "metrics.jsonl",
                                        "trace.json",
                                        "report.html",
                                        "results.json",
                                        "deck.effective.cfg"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return n > 4 && !strcmp(name + n - 4, ".tmp");
}

static enum status link_one(const char *path, const char *target) {
    char old[4096];
    ssize_t n = readlink(path, old, sizeof old - 1);
    if (n >= 0) old[n] = 0;
    if (n >= 0 && !strcmp(old, target)) return TM_OK;
    TM_TRY(file_remove_tree(path)); /* of a start that was not to share it, and did not finish it */
    if (symlink(target, path) == 0) return TM_OK;
    return TM_FAIL(TM_ERR_IO, "cannot link %s to %s: %s", path, target, strerror(errno));
}

/* Relative links, so that the sweep's directory may be moved: `up` leads from `to` to what holds both run directories. */
static enum status link_entries(const char *from, const char *to, const char *up, bool is_top) {
    char path[4096];
    struct str target = {0};
    DIR *d = opendir(from);
    if (!d && errno == ENOENT) return TM_OK;
    if (!d) return TM_FAIL(TM_ERR_IO, "cannot list %s: %s", from, strerror(errno));
    enum status st = file_make_dirs(to);
    for (struct dirent *e; st == TM_OK && (e = readdir(d));) {
        if (is_top ? is_own(e->d_name) : e->d_name[0] == '.') continue;
        str_clear(&target);
        st = str_path(path, sizeof path, to, e->d_name);
        if (st == TM_OK) st = str_printf(&target, "%s/%s", up, e->d_name);
        if (st == TM_OK) st = link_one(path, target.p);
    }
    closedir(d);
    str_free(&target);
    return st;
}

static enum status link_run(const char *from, const char *to) {
    char from_ckpt[4096], to_ckpt[4096], up[512];
    const char *name = strrchr(from, '/') + 1; /* an absolute path */
    TM_TRY(str_path(from_ckpt, sizeof from_ckpt, from, "ckpt"));
    TM_TRY(str_path(to_ckpt, sizeof to_ckpt, to, "ckpt"));
    snprintf(up, sizeof up, "../%.255s", name);
    TM_TRY(link_entries(from, to, up, true));
    snprintf(up, sizeof up, "../../%.255s/ckpt", name);
    return link_entries(from_ckpt, to_ckpt, up, false);
}

/* No stage of this run has logged anything yet. */
static enum status copy_metrics(const char *from, const char *to) {
    char path[4096], *text;
    size_t n;
    TM_TRY(str_path(path, sizeof path, from, "metrics.jsonl"));
    if (!file_exists(path)) return TM_OK;
    TM_TRY(file_read(path, (size_t)1 << 32, &text, &n));
    enum status st = str_path(path, sizeof path, to, "metrics.jsonl");
    if (st == TM_OK) st = file_write(path, text, n);
    mem_free(&text);
    return st;
}

static enum status adopt_stage(struct stage_run *r, const json_t *lines, const char *stage) {
    json_t *results = finished(lines, stage);
    if (!results) return TM_FAIL(TM_ERR_DATA, "%s has not finished stage %s", r->below.dir, stage);
    const char *name = strrchr(r->below.dir, '/') + 1;
    json_t *line = json_pack("{s:s, s:O, s:s}", "finished", stage, "results", results, "shared", name);
    if (!line) return TM_FAIL(TM_ERR_MEMORY, "out of memory");
    enum status st = ckpt_ledger_append(r->deck->run.dir, line);
    json_decref(line);
    json_object_set(r->finished, stage, results);
    return st;
}

enum status stage_shared_adopt(struct stage_run *r) {
    const struct deck *d = r->deck;
    json_t *lines;
    bool missing = false;
    for (int i = 0; i < r->below.stages; i++) missing |= !json_object_get(r->finished, d->stages.v[i].name);
    if (!missing) return TM_OK;
    TM_TRY(ckpt_ledger_read(r->below.dir, &lines));
    enum status st = link_run(r->below.dir, d->run.dir);
    if (st == TM_OK) st = copy_metrics(r->below.dir, d->run.dir);
    for (int i = 0; i < r->below.stages && st == TM_OK; i++)
        if (!json_object_get(r->finished, d->stages.v[i].name)) st = adopt_stage(r, lines, d->stages.v[i].name);
    json_decref(lines);
    if (st == TM_OK) log_info("%d stages are shared: taken from %s", r->below.stages, r->below.dir);
    return st;
}

/* --- waiting ------------------------------------------------------------------------------------------------------------------ */
enum state { LOCKED, MADE, BUSY };

/* Rank 0. */
static enum status try_lock(struct stage_run *r, int64_t *state) {
    const char *dir = r->deck->run.dir;
    bool made;
    TM_TRY(stage_all_finished(dir, r->deck, &made));
    *state = made ? MADE : LOCKED;
    if (made) return TM_OK;
    enum status st = ckpt_lock_run(dir, &r->lock);
    if (st == TM_ERR_DECK) *state = BUSY;
    if (st != TM_OK) return st == TM_ERR_DECK ? TM_OK : st;
    TM_TRY(stage_all_finished(dir, r->deck, &made)); /* by one who had it a moment ago */
    if (made) ckpt_unlock_run(&r->lock);
    if (made) *state = MADE;
    return TM_OK;
}

static enum status wait_all(struct stage_run *r, double begin, double *said) {
    static const struct timespec pause = {0, 300 * 1000 * 1000};
    double wait = r->deck->limits.wait_s, waited = clock_seconds() - begin;
    bool save = false;
    if (par_rank() == 0 && log_due(said, 60))
        log_info("waiting for what this point shares with others: %s", status_message());
    int64_t late = wait > 0 && waited > wait;
    TM_TRY(par_bcast(r->grid.world, &late, sizeof late, 0));
    if (late)
        return TM_FAIL(TM_ERR_TIMEOUT, "waited %.0f s (limits.wait_s) for what this point shares with others: %s",
                       waited, par_rank() == 0 ? status_message() : r->deck->run.dir);
    TM_TRY(stage_poll_all(r, &save));
    nanosleep(&pause, NULL);
    return TM_OK;
}

enum status stage_shared_lock_all(struct stage_run *r, bool *made) {
    double begin = clock_seconds(), said = 0;
    for (int round = 0;; round++) {
        int64_t state = BUSY;
        TM_TRY(par_agree_all(par_rank() == 0 ? try_lock(r, &state) : TM_OK));
        TM_TRY(par_bcast(r->grid.world, &state, sizeof state, 0));
        *made = state == MADE;
        if (state == LOCKED && round)
            log_warn("who made %s has ended before its end: this point goes on with it", r->deck->run.dir);
        if (state != BUSY) return TM_OK;
        TM_TRY(wait_all(r, begin, &said));
    }
}

/* --- a point ------------------------------------------------------------------------------------------------------------------ */
/* Rank 0: where the point lies, and how many levels lie below it; none when it has taken over all of them before. */
static enum status look(const struct stage_options *o, struct str *dir, int64_t *levels) {
    struct deck *d = NULL, *top = NULL;
    bool all = false;
    enum status st = deck_load_point(o->deck_path, o->sets, o->n_sets, o->sweep_point, NULL, &d);
    if (st != TM_OK) return TM_OK; /* said when the deck is read to be run */
    st = str_printf(dir, "%s", d->run.dir);
    deck_free(&d);
    for (*levels = 0; st == TM_OK; ++*levels) {
        st = deck_load_shared(o->deck_path, o->sets, o->n_sets, o->sweep_point, (int)*levels, NULL, &d);
        if (!d) break;
        deck_free(&top);
        top = d;
    }
    if (st == TM_OK && top && strcmp(o->resume, "never")) st = stage_all_finished(dir->p, top, &all);
    if (all) *levels = 0;
    deck_free(&top);
    return st;
}

enum status stage_run_point_all(const struct stage_options *o) {
    struct par_grid grid = {0};
    struct stage_below below = {.stages = 0};
    struct str dir = {0};
    int64_t levels = 0;
    double start = clock_seconds();
    TM_TRY(par_grid_create_all(1, 1, 1, &grid));
    enum status st = par_agree_all(par_rank() == 0 ? look(o, &dir, &levels) : TM_OK);
    if (st == TM_OK) st = par_bcast(grid.world, &levels, sizeof levels, 0);
    par_grid_destroy(&grid);
    for (int i = 0; i < levels && st == TM_OK; i++) st = stage_run_level_all(o, i, start, &below);
    if (st != TM_OK && dir.len && par_rank() == 0) (void)stage_note_end(dir.p, st);
    if (st == TM_OK) st = stage_run_level_all(o, -1, start, &below);
    str_free(&dir);
    return st;
}
