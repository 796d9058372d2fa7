/* The log: one line per event on stderr, key=value after a fixed head. */
#pragma once

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Who writes: rank goes into each line; info and debug lines are written by rank 0 only (warn and error by any).
 * Local. */
void log_set_rank(int rank);
void log_set_level(enum log_level level);
void log_hold(bool on); /* while on, only errors are written: a plan is no run */
/* The deck stage that is running ("-" outside one); copied. */
void log_set_stage(const char *name);
const char *log_stage(void);

/* Write one line, e.g. log_info("batch=%d/%d amax=%g", i, n, a) -> "info rank=0 stage=ptq batch=3/64 amax=2.5". */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

/* On a terminal: show `text` as the last line, redrawn in place until the next call; lines of the log appear above it. NULL takes it away.
 * Rank 0 only. False, and nothing is shown, when stderr is no terminal. */
bool log_live(const char *text);

/* True at most once per `seconds` for the caller's `last` (start it at 0): for progress lines. */
bool log_due(double *last, double seconds);
