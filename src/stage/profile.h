/* --profile: time, calls, FLOPs and bytes by operation and collective. */
#pragma once

#include "stage/run.h"

/* Print the table on rank 0's stderr: minimum, mean and maximum of seconds over ranks. Collective over the world. */
enum status stage_profile_all(struct stage_run *r);
