/* The axes of a sweep. Inner to deck/. */
#pragma once

#include <libconfig.h>

#include "base/status.h"
#include "deck/deck.h"
#include "deck/parse.h"

enum { DECK_MAX_POINTS = 1000000 };

/* Turn ranges into values, find the first stage that each axis changes, and report every rule of sweep and sweep_without that is broken.
 * Errors: MEMORY. */
enum status deck_axes_resolve(const struct reader *r, const config_t *tree, struct deck *deck);

/* The axis that advances with axis i and comes first: i itself unless it is zipped. */
int deck_axes_leader(const struct deck *deck, int i);
/* Which axis a condition "key=value" of sweep_without is about, and where its value begins; -1 when there is none. */
int deck_axes_find(const struct deck *deck, const char *condition, const char **value);
/* Does value i of an axis meet a condition's value: the same number, or a text that the glob matches? */
bool deck_axes_meets(const struct deck_axis *a, int i, const char *value);
