/* What points of a sweep share: stages that are run once, in a directory of their own, and read by every point. */
#pragma once

#include "stage/run.h"

/* Run point o->sweep_point of the deck: first, level by level (deck_sweep_shared), what it shares with others and nobody has made yet, then
 * its own stages. The first process that comes makes a level, the others wait for it (limits.wait_s) and take what it left. A point
 * that ends early, in what it shares too, has that in its own ledger. Collective over the world; the agreed status. */
enum status stage_run_point_all(const struct stage_options *o);

/* Have all stages of the deck finished in run_dir, by its ledger? Local. Errors: IO, MEMORY. */
enum status stage_all_finished(const char *run_dir, const struct deck *d, bool *out);

/* Lock the directory of a shared level (r->lock, on rank 0), or find that its stages are finished (*made): waits while another process holds
 * it, with a line that says who. A holder that dies frees it. Collective over the world. Errors: TIMEOUT (limits.wait_s); STOPPED; IO. */
enum status stage_shared_lock_all(struct stage_run *r, bool *made);

/* Rank 0: make the stages of r->below this run's own: links to what they left, their metrics, and lines of the ledger that say that they
 * are finished, with their results (also in r->finished). Those that the ledger has already are left alone. Local. Errors: IO, FORMAT. */
enum status stage_shared_adopt(struct stage_run *r);

/* Append to the ledger how a start ended: {"end": "ERR_NUMERIC", "why": message}. The status message stays. Local. Errors: IO. */
enum status stage_note_end(const char *run_dir, enum status st);
