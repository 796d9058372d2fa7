/* The command line. */
#pragma once

#include <stdbool.h>

#include "stage/run.h"

/* Parse argv. Commands that need no ranks (--check, --help-deck, --list, --version, --inspect, --hash, --plan, ...) are carried out here:
 * *finished is then true. Errors: DECK (usage), and those of the commands. The caller frees with stage_cli_free. Local; no MPI. */
enum status stage_cli(int argc, char **argv, struct stage_options *o, bool *finished);
const char *stage_usage(void); /* what --help prints */
void stage_cli_free(struct stage_options *o);
