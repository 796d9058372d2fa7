/* The quality table: how its cells read, the same in HTML and on a terminal, and the terminal's form of it. */
#pragma once

#include "stage/report_data.h"
#include "stage/report_out.h"

enum { REPORT_CELL = 32 };
const char *report_column_title(enum report_column c); /* "NLL" */
const char *report_column_unit(enum report_column c);  /* "nats/token", or "" */
/* The value, with its unit where it varies ("4.8921", "88.1 %", "1.15 MB"); "" when it is unknown. */
void report_cell(const struct report_row *row, enum report_column c, char out[REPORT_CELL]);
/* Its change against the first row ("+0.0591", "+6.1 %"); "" in the first row, in columns without one, and on other data. */
void report_change(const struct report_rows *rows, int row, enum report_column c, char out[REPORT_CELL]);
bool report_column_used(const struct report_rows *rows, enum report_column c); /* any value known */
/* A count of bytes in decimal units, three digits: "1.15 MB". */
void report_bytes(double bytes, char out[REPORT_CELL]);

/* One sentence on what was won back; nothing when there is nothing to compare. */
void report_recovery_text(const struct report_recovery *x, struct report_out *o);
/* The table as aligned plain text, and the sentence. */
void report_table_text(const struct report_rows *rows, const struct report_recovery *x, struct report_out *o);
