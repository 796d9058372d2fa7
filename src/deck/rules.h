/* Rules between keys. Inner to deck/. */
#pragma once

#include <libconfig.h>

#include "base/status.h"
#include "deck/deck.h"
#include "deck/report.h"

/* Fill what follows from other keys (EXTRA fields, default names and losses, the stage a stage takes its model from) and report
 * every rule between keys that is broken. Errors: MEMORY. */
enum status deck_rules_check(struct deck *deck, const config_t *tree, void **pool, struct report *report);
