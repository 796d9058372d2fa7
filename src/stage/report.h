/* What a run leaves for people and scripts: results.json (the same on every grid), usage.json (what it took) and report.html. */
#pragma once

#include "stage/run.h"

/* Write them from what is known so far (rank 0; others do nothing). Local. Errors: IO. */
enum status stage_report_write(struct stage_run *r);
/* The quality table on stdout, when an evaluate stage has run (rank 0; others do nothing). Local. */
enum status stage_report_print(struct stage_run *r);
