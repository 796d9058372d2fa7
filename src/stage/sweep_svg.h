/* Plots of points as inline SVG; colours come from the page's style (classes s0 ... s7 and soft). */
#pragma once

#include "stage/report_out.h"

struct sweep_mark {
    double x, y; /* finite */
    int series;  /* its colour, and what a line joins; from SWEEP_COLOURS on, soft */
    bool best, named;
    const char *name, *tip; /* a short label, drawn when `named`; a sentence for who points at it */
};
enum { SWEEP_COLOURS = 8, SWEEP_WORDS = 12 };
struct sweep_plot {
    const char *title, *x_title, *y_title;
    const char *const *words; /* marks of the x axis; NULL: round numbers */
    const double *words_at;   /* where they are; NULL: at 0, 1, ... */
    int n_words;
    bool lines; /* join the marks of a series, which come in order of x */
    bool front; /* join the named marks, in order of x, by a dashed line */
    const struct sweep_mark *v;
    int n;
};
/* One figure. A scale is logarithmic where its numbers are above 0 and span more than a factor 8. With no marks there is a sentence instead. */
void sweep_plot(struct report_out *o, const struct sweep_plot *p);
