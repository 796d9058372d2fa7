/* The log: formats one line and writes it with a single call, so that lines of several ranks do not mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

static int rank_;
static enum log_level level_ = LOG_INFO;
static bool held_;
static char stage_[64] = "-";
static bool live_; /* a live line stands on the terminal */

void log_set_rank(int rank) { rank_ = rank; }
void log_set_level(enum log_level level) { level_ = level; }
void log_hold(bool on) { held_ = on; }
void log_set_stage(const char *name) { snprintf(stage_, sizeof stage_, "%s", name); }
const char *log_stage(void) { return stage_; }

void log_write(enum log_level level, const char *fmt, ...) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if (level > (held_ ? LOG_ERROR : level_) || (level >= LOG_INFO && rank_ != 0)) return;
    char line[4096];
    int n = snprintf(line, sizeof line, "%s%s rank=%d stage=%s ", live_ ? "\r\033[K" : "", names[level], rank_, stage_);
    live_ = false;
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    size_t len = (size_t)n + (m < 0 ? 0 : (size_t)m);
    if (len > sizeof line - 2) len = sizeof line - 2;
    for (size_t i = (size_t)n; i < len; i++) /* one line, whatever a file's names hold */
        if ((unsigned char)line[i] < ' ') line[i] = ' ';
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written; /* nowhere left to complain */
}

bool log_live(const char *text) {
    char line[512];
    if (rank_ != 0 || level_ < LOG_INFO || !isatty(STDERR_FILENO)) return false;
    if (!text && !live_) return true;
    struct winsize size = {0};
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
    int n = snprintf(line, sizeof line, "\r\033[K%.*s", width < 400 ? width : 400, text ? text : "");
    ssize_t written = write(STDERR_FILENO, line, (size_t)n);
    (void)written;
    live_ = text != NULL;
    return true;
}

bool log_due(double *last, double seconds) {
    double now = clock_seconds();
    if (*last != 0 && now - *last < seconds) return false;
    *last = now;
    return true;
}
