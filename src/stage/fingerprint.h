/* What a run works on, by content: so that a resumed run notices another model or other data, wherever it lies. */
#pragma once

#include "base/json.h"
#include "deck/deck.h"

/* {"model.path of stage ptq": "<hash>", "datasets.train.sources[0] of stage ptq": ...}: over each input path of the deck, the names and sizes of its files and their first and
 * last MiB (all of a safetensors' header is in it). Inputs under run.dir and absent ones are left out: earlier stages make them.
 * The caller frees. Local. Errors: IO, MEMORY. */
enum status stage_fingerprint(const struct deck *d, json_t **out);
/* The first entry of `old` whose value differs in `now` (entries that only one of them has do not count); NULL: none. Borrowed from `old`. */
const char *stage_fingerprint_changed(const json_t *old, const json_t *now);
