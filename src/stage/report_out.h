/* Text that a report is built from: a growing string that remembers its first error, and escaping for HTML. */
#pragma once

#include "base/str.h"

struct report_out { /* zero-initialise; free text with str_free */
    struct str text;
    enum status st; /* the first failure; later calls do nothing */
};

void report_printf(struct report_out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Any bytes as HTML text or as a quoted attribute: & < > " ' become entities, control characters (but newline and tab) U+FFFD. */
void report_escaped(struct report_out *o, const char *text);
void report_escaped_n(struct report_out *o, const char *text, size_t n); /* the first n bytes, none of them 0 */
