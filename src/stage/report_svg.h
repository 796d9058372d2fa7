/* Line charts as inline SVG; colours come from the page's style (classes grid, line, dot, tick, name). */
#pragma once

#include "stage/report_data.h"
#include "stage/report_out.h"

/* One chart: y over step, with axes at round numbers and the last value at the end of the line. Values that are not finite leave a gap; a
 * lone point is a dot; with none there is no chart but a sentence. Long curves are drawn by the extremes of equal stretches. */
void report_chart(struct report_out *o, const char *title, const char *unit, const struct report_point *p, size_t n);

/* Round axis marks: *step is 1, 2 or 5 times a power of ten, about `marks` of them from lo to hi (lo < hi). */
double report_axis_step(double lo, double hi, int marks);
/* A mark's text: as many decimals as `step` needs, or ("1.5e-4") all with the exponent of `most`, the axis's largest magnitude, where that is
 * below 1e-3 or from 1e6 on. */
void report_axis_label(double x, double step, double most, char out[16]);
/* A single value: "3.387e-3", "0.0571", "4.626". */
void report_value_label(double x, char out[16]);
