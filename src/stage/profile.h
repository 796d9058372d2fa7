/* --profile: seconds, calls, FLOPs and bytes of every phase and, inside it, of every operation and collective, over ranks; and the timeline.
 * Phases are what par_note says: "load", "forward", "backward", "gradients", "update", "checkpoint save", ... */
#pragma once

#include "stage/run.h"

/* Begin to count, when the options ask for it: after the device is open. Collective over the world. Errors: MEMORY, COMM. */
enum status stage_profile_begin_all(struct stage_run *r);
/* While paused (planning), no phase begins. Local. */
void stage_profile_pause(struct stage_run *r, bool on);
/* End it: the table to rank 0's stderr and as "profile" into r->usage, the timeline to trace.json. Collective over the world. */
enum status stage_profile_end_all(struct stage_run *r);
/* Forget it, also after an error. Local. */
void stage_profile_free(struct stage_run *r);

/* Give what every rank holds to rank 0's `each`, in rank order, one rank at a time. Collective over the world. */
enum status stage_collect_all(struct stage_run *r, const void *mine, int64_t bytes,
                              enum status (*each)(void *context, int rank, const void *data, int64_t bytes),
                              void *context);
