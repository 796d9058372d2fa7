/* From a deck's text and --set strings to one tree of settings. Inner to deck/. */
#pragma once

#include <libconfig.h>
#include <stddef.h>

#include "base/status.h"
#include "deck/report.h"
#include "deck/table.h"

/* Read a deck file of at most 1 MiB; free with mem_free. Errors: IO, FORMAT (larger), DECK (NUL bytes), MEMORY. */
enum status deck_source_text(const char *path, char **text, size_t *n);
/* Report what libconfig would misread in `text`, and in what it includes from report->dir. With `set` ("--set key=value"),
 * text is its value. *refused: it includes what it may not, so libconfig must not read it. Errors: MEMORY. */
enum status deck_source_scan(const char *text, const char *set, struct report *report, bool *refused);
/* Parse into an initialised tree; syntax errors are reported, and then *good is false. Errors: MEMORY. */
enum status deck_source_parse(const char *text, config_t *tree, struct report *report, bool *good);
/* Put "key=value" into the tree. `pool` (deck_pool_*) owns the text that messages show for the new setting. Errors: MEMORY. */
enum status deck_source_set(config_t *tree, const char *set, void **pool, struct report *report);
/* The stage of this name in the tree (its name, or without one the word of `do`), or NULL. */
config_setting_t *deck_source_stage(const config_t *tree, const char *name);
/* What a path names. */
struct source_key {
    const struct key *key;
    const config_setting_t *stage; /* whose key it is; NULL = the top level's */
    const struct key *group;       /* of the top level: the group or key that the path begins with, else NULL */
    char member[128];              /* the path's second part: a data set's name in datasets.NAME.key */
};
/* Is `path` ("optim.lr", "qad.optim.lr", "stages.qad.losses[0].weight") a key that --set may name in this deck? */
bool deck_source_find(const config_t *tree, const char *path, struct source_key *out);
