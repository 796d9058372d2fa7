/* From settings to the fields of key tables. Inner to deck/. */
#pragma once

#include <libconfig.h>
#include <stdbool.h>

#include "base/status.h"
#include "deck/report.h"
#include "deck/table.h"

/* What reading a tree needs; all borrowed. */
struct reader {
    struct report *report;
    void **pool;         /* owns the strings and lists that are made */
    const char *base;    /* absolute folder that input paths are relative to */
    const char *here;    /* the working directory */
    const char *run_dir; /* absolute; "" when the deck has none */
};

/* Fill the fields that `from` (a group; NULL = nothing) sets; the others stay. Every bad value is reported and leaves its field
 * as it was. `prefix` ("optim." or "") goes before names in messages. `fresh`: report required keys that are not set. A
 * list of stages is left alone. Errors: MEMORY. */
enum status deck_parse_table(const struct reader *r, const struct table *t, const config_setting_t *from, void *base,
                             const char *prefix, bool fresh);
/* One setting into the field of a key without members; a bad value is reported as `prefix` + the key's name. Errors: MEMORY. */
enum status deck_parse_plain(const struct reader *r, const struct key *k, const config_setting_t *s, void *field,
                             const char *prefix);
/* Append a setting's value as deck text, groups and lists in short. */
enum status deck_print_setting(const config_setting_t *s, struct str *out);
/* The absolute form of `path`: relative to folder `base`, "." and leading ".." taken out. Pool-owned. */
enum status deck_path(const struct reader *r, const char *base, const char *path, const char **out);
