/* report.html: one file with everything in it, for a browser of any size, light or dark. */
#pragma once

#include "stage/history.h"
#include "stage/report_data.h"
#include "stage/report_out.h"

struct report_page {
    const struct stage_run *r;
    const struct report_rows *rows;
    const struct report_recovery *recovery;
    const struct report_curves *curves;
    const struct starts *starts;
    const char *date; /* "2026-11-21 12:05 +0100" */
    const char *host;
};
/* Append the page. Local. */
void report_html(const struct report_page *p, struct report_out *o);
/* Append a table of any array of objects (columns: the members in the order in which they first occur; numbers are aligned right). */
void report_html_objects(const json_t *array, struct report_out *o);
