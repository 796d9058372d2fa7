/* Machine files: what a computer can do, as key tables like a deck's (machine.keys.def). Everything here is Local. */
#pragma once

#include "deck/deck.h"

/* Read and check a machine file. Every error is in *report (NULL: not wanted), as in deck_load. The caller frees with deck_machine_free; *out is
 * NULL on errors. Errors: DECK; MEMORY; IO (no working directory). */
enum status deck_machine_load(const char *path, struct str *report, struct deck_machine **out);
/* The same from text; `name` goes into messages. */
enum status deck_machine_parse(const char *text, const char *name, struct str *report, struct deck_machine **out);
void deck_machine_free(struct deck_machine **m);
/* Append a machine file that reads back as `m`. */
enum status deck_machine_echo(const struct deck_machine *m, struct str *out);
