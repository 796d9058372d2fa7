/* The parts of report.html about the run itself: what it quantized, its starts, its memory, where its time went, and how to do it again. All Local. */
#pragma once

#include "stage/history.h"
#include "stage/report_out.h"

/* Append the section, or nothing where there is nothing to say. */
void report_quant(const struct stage_run *r, struct report_out *o);
void report_starts(const struct starts *s, struct report_out *o);
void report_memory(const struct stage_run *r, struct report_out *o);
void report_profile(const struct stage_run *r, struct report_out *o);
void report_again(const struct stage_run *r, struct report_out *o);
