/* --plan --suggest: which grid, micro-batch and recomputation to take. */
#pragma once

#include "deck/machine.h"
#include "stage/plan.h"

/* Append the fastest ways to run the deck's largest stage on the ranks of r->grid that fit the memory of a rank, with what each spends its time on, and
 * why the others are none. Every candidate is planned and simulated; a step of many micro-batches is continued from two short ones. Local.
 * Errors: DECK (no stage to suggest for, no memory known), those of planning. */
enum status suggest_print(const struct stage_run *r, const struct deck_machine *m, struct str *out);
