/* Status codes: how every function that can fail says so, with one message for the person who reads the log. */
#pragma once

enum status {
#define ST(name, code, text) TM_##name = (code),
#include "base/status.def" // IWYU pragma: keep
#undef ST
};

/* Return from the calling function with the status of `expr` unless it is TM_OK. */
#define TM_TRY(expr)                          \
    do {                                      \
        enum status tm_try_ = (expr);         \
        if (tm_try_ != TM_OK) return tm_try_; \
    } while (0)

/* As TM_TRY, but store the status in `st` and jump to `label`, where resources are released. */
#define TM_GOTO(st, label, expr)       \
    do {                               \
        (st) = (expr);                 \
        if ((st) != TM_OK) goto label; \
    } while (0)

/* Raise: set this thread's message and return `st`. Usage: return TM_FAIL(TM_ERR_DATA, "%s: ...", path);
 * Say what is wrong, which value, what was expected, and the deck key or file. No full stop at the end. */
#define TM_FAIL(st, ...) status_raise((st), __FILE__, __LINE__, __VA_ARGS__)

enum status status_raise(enum status st, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Prepend context to this thread's message ("loading model/x.safetensors: ") and return st unchanged. */
enum status status_context(enum status st, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The message of the last status_raise on this thread ("" if none), and where it was raised ("src/x.c:12"). */
const char *status_message(void);
const char *status_where(void);
void status_set_message(const char *message); /* for a message that came from another rank */

const char *status_name(enum status st);     /* "ERR_DATA" */
const char *status_sentence(enum status st); /* the sentence of status.def */
