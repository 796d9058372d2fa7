/* The errors and warnings of one deck, collected and printed together, sorted by place. Inner to deck/. */
#pragma once

#include <libconfig.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "base/str.h"

struct report_line;
struct report {
    const char *name; /* of the deck, as messages show it */
    const char *dir;  /* what @include is relative to: included files are shown as dir/file */
    struct report_line *v;
    size_t n, cap;
    size_t n_source; /* the first so many lines are about the text, not about values */
};

/* Add a line at a setting; a setting made by --set (its hook is the text of it) is shown as such. at NULL: the deck as a
 * whole. The text follows "inputs/x.cfg:14: " (or "--set optim.lr=fast: "). Local. Errors: MEMORY. */
enum status deck_report_error(struct report *r, const config_setting_t *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
enum status deck_report_warning(struct report *r, const config_setting_t *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* An error at a line (0 = none) of the deck (file NULL) or of an included file. */
enum status deck_report_error_line(struct report *r, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* An error in a --set; `set` is "--set key=value". */
enum status deck_report_error_set(struct report *r, const char *set, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Was an error found in the text itself, where this setting is? */
bool deck_report_has_source_error(const struct report *r, const config_setting_t *at);
/* Append all lines to `out` (NULL: do not), the deck's own first, then included files, then --set; equal lines once.
 * DECK when there is any error: the message is the first one and the number of others. */
enum status deck_report_finish(struct report *r, struct str *out);
void deck_report_free(struct report *r);
