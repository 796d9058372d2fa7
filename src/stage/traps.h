/* What is legal and costs time or memory for nothing: warnings of --plan. */
#pragma once

#include "stage/plan_time.h"

/* Append a line for each trap that the stage falls into on the grid. m and t may be NULL: what needs a machine is then not judged. fill: stage_plan.fill. Local. Errors: those
 * of reading the model's config.json. */
enum status traps_print(const struct stage_run *r, const struct deck_stage *s, const struct deck_machine *m,
                        const struct plan_time *t, int64_t fill, struct str *out);
