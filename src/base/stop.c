/* The wish to stop. */
#include "base/stop.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"

static volatile sig_atomic_t stop_, save_;
static struct {
    char file[4096];
    double looked, end; /* when the file was looked for; when time is up */
    const char *end_why;
    bool seen; /* the file was there */
} watch_;

static void on_signal(int number) {
    if (number == SIGUSR1) {
        save_ = 1;
        return;
    }
    if (stop_) { /* a second request: now */
        signal(number, SIG_DFL);
        raise(number);
    }
    stop_ = 1;
}

void stop_catch_signals(void) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    a.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGUSR2, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

void stop_ignore_signals(void) {
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
}

void stop_set_file(const char *path) {
    snprintf(watch_.file, sizeof watch_.file, "%s", path ? path : "");
    watch_.looked = 0;
    watch_.seen = false;
}

void stop_set_time(double at, const char *why) {
    watch_.end = at;
    watch_.end_why = why;
}

const char *stop_reason(void) {
    if (stop_) return "a signal";
    if (watch_.end > 0 && clock_seconds() >= watch_.end) return watch_.end_why;
    if (!watch_.seen && *watch_.file && log_due(&watch_.looked, 0.5)) watch_.seen = file_exists(watch_.file);
    return watch_.seen ? "the STOP file" : NULL;
}

bool stop_take_save(void) {
    bool save = save_ != 0;
    save_ = 0;
    return save;
}

enum status stop_check(const char *site) {
    const char *why = fault_here("stop", site) ? "a fault on purpose" : stop_reason();
    return why ? TM_FAIL(TM_STOPPED, "stopped by %s (%s); the same command goes on from here", why, site) : TM_OK;
}
