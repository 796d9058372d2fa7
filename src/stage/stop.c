/* Stopping: signals, the STOP file and the wall limit set a wish; ranks agree on it at boundaries. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "stage/run.h"

static volatile sig_atomic_t stop_, save_;

static void on_signal(int number) {
    if (number == SIGUSR1) {
        save_ = 1;
        return;
    }
    if (stop_) { /* a second request: now */
        signal(number, SIG_DFL);
        raise(number);
    }
    stop_ = number;
}

void stage_catch_signals(void) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGUSR2, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

void stage_ignore_signals(void) {
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
}

enum status stage_poll_all(struct stage_run *r, bool *save) {
    const struct deck_limits *l = &r->deck->limits;
    char path[4096];
    int64_t want[2] = {stop_ != 0 || (r->now && fault_here("stop", r->now->name)), save_ != 0};
    const char *why = "a signal";
    *save = false;
    if (r->plan) return TM_OK;
    save_ = 0;
    if (par_rank() == 0) {
        if (str_path(path, sizeof path, r->deck->run.dir, "STOP") == TM_OK && file_exists(path)) {
            want[0] = 1;
            why = "the STOP file";
            unlink(path); /* it speaks to this start only */
        }
        if (l->wall_s > 0 && clock_seconds() - r->start > l->wall_s - l->margin_s) {
            want[0] = 1;
            why = "limits.wall_s";
        }
    }
    TM_TRY(par_reduce_i64(r->grid.world, want, 2, PAR_MAX));
    *save = want[1] != 0;
    return want[0] ? TM_FAIL(TM_STOPPED, "stopped by %s; the same command goes on from here", why) : TM_OK;
}
