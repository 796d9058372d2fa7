/* Stopping: what each rank is asked for becomes what all do, at boundaries; and how much time there is. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/size.h"
#include "base/stop.h"
#include "base/str.h"
#include "stage/saved.h"

/* When the batch system ends the job, in clock_seconds(); 0: not known. Slurm says it in seconds since 1970. */
static double job_end(void) {
    const char *text = getenv("SLURM_JOB_END_TIME");
    char *end;
    if (!text) return 0;
    long long at = strtoll(text, &end, 10);
    if (end == text || *end || at <= 0) {
        log_warn("SLURM_JOB_END_TIME = \"%s\": expected seconds since 1970; the job's end is not known", text);
        return 0;
    }
    return clock_seconds() + (double)(at - (long long)time(NULL));
}

void stage_stop_renew(const struct stage_run *r) {
    const struct deck_limits *l = &r->deck->limits;
    double wall = l->wall_s > 0 ? r->start + l->wall_s : 0;
    bool job = r->job_end > 0 && (wall == 0 || r->job_end < wall);
    double at = job ? r->job_end : wall, left = at - l->margin_s - r->start, measured = r->saves.seconds + r->round;
    /* A short limit must let something be done, or starts without progress follow one another. */
    double before = l->margin_s + (measured > left / 2 && left > 0 ? left / 2 : measured);
    stop_set_time(at > 0 ? at - before : 0, job ? "the end of the batch job" : "limits.wall_s");
}

void stage_stop_begin(struct stage_run *r) {
    char path[4096];
    if (par_rank() == 0 && str_path(path, sizeof path, r->deck->run.dir, "STOP") == TM_OK) stop_set_file(path);
    r->job_end = job_end();
    stage_stop_renew(r);
}

void stage_stop_end(const struct stage_run *r) {
    char path[4096];
    if (r->lock >= 0 && str_path(path, sizeof path, r->deck->run.dir, "STOP") == TM_OK) unlink(path);
    stop_set_file(NULL);
    stop_set_time(0, NULL);
}

/* What lies between two questions must fit into the time, too. */
static void measure_round(struct stage_run *r) {
    double now = clock_seconds(), round = r->polled > 0 ? now - r->polled : 0;
    r->polled = now;
    if (round <= r->round) return;
    r->round = round;
    stage_stop_renew(r);
}

enum status stage_poll_all(struct stage_run *r, bool *save) {
    bool mine = *save;
    *save = false;
    if (r->plan) return TM_OK;
    measure_round(r);
    const char *why = r->now && fault_here("stop", r->now->name) ? "a fault on purpose" : stop_reason();
    struct ckpt_background *writer = r->saves.writer;
    enum ckpt_state state = writer ? ckpt_background_state(writer) : CKPT_IDLE;
    int64_t want[4] = {why != NULL, stop_take_save() || mine, state == CKPT_BUSY, state == CKPT_FAILED};
    TM_TRY(par_reduce_i64(r->grid.world, want, 4, PAR_MAX));
    *save = want[1] != 0;
    if (writer && (want[3] || !want[2])) TM_TRY(stage_save_advance_all(r));
    if (!want[0]) return TM_OK;
    log_info("asked to stop by %s", why ? why : "a signal to another rank");
    return TM_FAIL(TM_STOPPED, "stopped by %s; the same command goes on from here", why ? why : "a signal");
}
