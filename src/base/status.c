/* Status codes: names, sentences and the per-thread message. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message_[2048];
static _Thread_local char where_[256];

/* Names in messages come from files of others: a terminal must not obey them. */
static void show(char *text) {
    for (; *text; text++)
        if (((unsigned char)*text < ' ' && *text != '\n' && *text != '\t') || *text == 0x7f) *text = '?';
}

enum status status_raise(enum status st, const char *file, int line, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message_, sizeof message_, fmt, ap);
    va_end(ap);
    show(message_);
    snprintf(where_, sizeof where_, "%s:%d", file, line);
    return st;
}

enum status status_context(enum status st, const char *fmt, ...) {
    char old[sizeof message_];
    memcpy(old, message_, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(message_, sizeof message_, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof message_) snprintf(message_ + n, sizeof message_ - (size_t)n, "%s", old);
    return st;
}

const char *status_message(void) { return message_; }
const char *status_where(void) { return where_; }
void status_set_message(const char *message) { snprintf(message_, sizeof message_, "%s", message); }

const char *status_name(enum status st) {
    switch (st) {
#define ST(name, code, text) \
    case TM_##name:          \
        return #name;
#include "base/status.def"
#undef ST
    }
    return "?";
}

const char *status_sentence(enum status st) {
    switch (st) {
#define ST(name, code, text) \
    case TM_##name:          \
        return text;
#include "base/status.def"
#undef ST
    }
    return "unknown status";
}
