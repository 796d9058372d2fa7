/* Plots of points. */
#include "stage/sweep_svg.h"

#include <math.h>
#include <stdio.h>

#include "stage/report_svg.h"

enum { WIDTH = 480, HEIGHT = 270, LEFT = 52, RIGHT = 18, TOP = 14, BOTTOM = 38, TICKS = 16 };

struct scale {
    double lo, hi; /* in data units, or their logarithms */
    bool log;
    double from, to; /* where they are drawn */
    double tick[TICKS];
    int n;
    double step, most; /* for labels; step 0: each as a value by itself */
};

static double at(const struct scale *s, double x) {
    double t = ((s->log ? log10(x) : x) - s->lo) / (s->hi - s->lo);
    return s->from + t * (s->to - s->from);
}

/* --- scales ------------------------------------------------------------------------------------------------------------------- */
static void fit_words(struct scale *s, int n) {
    s->lo = -0.5;
    s->hi = n - 0.5;
}

/* 1, 2, 5 times powers of ten, or all digits where those are too few. */
static void log_ticks(struct scale *s) {
    for (int fine = 0; fine < 2; fine++) {
        s->n = 0;
        for (int e = (int)floor(s->lo); e <= (int)ceil(s->hi); e++)
            for (int m = 1; m < 10; m++) {
                double x = log10(m) + e;
                bool wanted = fine || m == 1 || (m == 2 && s->hi - s->lo < 3) || (m == 5 && s->hi - s->lo < 3);
                if (wanted && x >= s->lo && x <= s->hi && s->n < TICKS) s->tick[s->n++] = m * pow(10, e);
            }
        if (s->n > 2) return;
    }
}

static void linear_ticks(struct scale *s) {
    s->step = report_axis_step(s->lo, s->hi, 5);
    s->most = fmax(fabs(s->lo), fabs(s->hi));
    for (double x = ceil(s->lo / s->step) * s->step; x <= s->hi + 1e-9 * s->step && s->n < TICKS; x += s->step)
        s->tick[s->n++] = x;
}

/* From the least and the largest number: some room on both sides. */
static void fit(struct scale *s, double lo, double hi) {
    s->log = lo > 0 && hi > 8 * lo;
    s->lo = s->log ? log10(lo) : lo;
    s->hi = s->log ? log10(hi) : hi;
    double room = s->hi > s->lo ? 0.08 * (s->hi - s->lo) : fabs(s->hi) > 0 ? 0.2 * fabs(s->hi) : 1;
    s->lo -= room, s->hi += room;
    if (s->log)
        log_ticks(s);
    else
        linear_ticks(s);
}

static void label(const struct scale *s, double x, char out[16]) {
    if (s->step > 0)
        report_axis_label(x, s->step, s->most, out);
    else if (x >= 0.9e-3 && x < 0.9e6)
        snprintf(out, 16, "%.3g", x);
    else
        snprintf(out, 16, "%.0fe%d", x / pow(10, floor(log10(x) + 1e-9)), (int)floor(log10(x) + 1e-9));
}

/* --- drawing ------------------------------------------------------------------------------------------------------------------ */
static void draw_axes(struct report_out *o, const struct sweep_plot *p, const struct scale *x, const struct scale *y) {
    char text[16];
    for (int i = 0; i < y->n; i++) {
        label(y, y->tick[i], text);
        report_printf(o, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>", LEFT, at(y, y->tick[i]), WIDTH - RIGHT);
        report_printf(o, "<text class=\"end\" x=\"%d\" y=\"%.1f\">%s</text>\n", LEFT - 6, at(y, y->tick[i]) + 3.5,
                      text);
    }
    report_printf(o, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT);
    int n = p->words ? p->n_words : x->n;
    for (int i = 0; i < n; i++) {
        double here = at(x, p->words_at ? p->words_at[i] : p->words ? i : x->tick[i]);
        if (!p->words) label(x, x->tick[i], text);
        report_printf(o, "<path class=\"axis\" d=\"M%.1f %dv4\"/>", here, HEIGHT - BOTTOM);
        report_printf(o, "<text class=\"mid\" x=\"%.1f\" y=\"%d\">", here, HEIGHT - BOTTOM + 15);
        report_escaped(o, p->words ? p->words[i] : text);
        report_printf(o, "</text>\n");
    }
    report_printf(o, "<text class=\"mid\" x=\"%d\" y=\"%d\">", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5);
    report_escaped(o, p->x_title);
    report_printf(o, "</text>\n");
}

static const char *colour(int series, char out[16]) {
    if (series >= SWEEP_COLOURS) return "soft";
    snprintf(out, 16, "s%d", series);
    return out;
}

/* Join the marks that `of` chooses: a series (>= 0), or (-1) the front. */
static void draw_line(struct report_out *o, const struct sweep_plot *p, const struct scale *x, const struct scale *y,
                      int of) {
    char name[16];
    int drawn = 0;
    report_printf(o, "<path class=\"%s\" d=\"", of < 0 ? "front" : colour(of, name));
    for (int i = 0; i < p->n; i++) {
        const struct sweep_mark *m = &p->v[i];
        if (of < 0 ? !m->named : m->series != of) continue;
        report_printf(o, "%c%.1f %.1f", drawn++ ? 'L' : 'M', at(x, m->x), at(y, m->y));
    }
    report_printf(o, "\"/>\n");
}

/* Would a name to the right of the mark run out of the picture, or over another mark? */
static bool is_crowded(const struct sweep_plot *p, const struct sweep_mark *m, const struct scale *x,
                       const struct scale *y) {
    double cx = at(x, m->x), cy = at(y, m->y);
    bool crowded = cx > WIDTH - 80;
    for (int i = 0; i < p->n; i++) {
        double dx = at(x, p->v[i].x) - cx, dy = at(y, p->v[i].y) - cy;
        crowded |= dx > 4 && dx < (m->best ? 60 : 32) && fabs(dy) < 10;
    }
    return crowded;
}

static void draw_mark(struct report_out *o, const struct sweep_plot *p, const struct sweep_mark *m,
                      const struct scale *x, const struct scale *y) {
    char name[16];
    double cx = at(x, m->x), cy = at(y, m->y);
    if (m->best) report_printf(o, "<circle class=\"ring\" cx=\"%.1f\" cy=\"%.1f\" r=\"8\"/>", cx, cy);
    report_printf(o, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>", colour(m->series, name), cx, cy);
    report_escaped(o, m->tip);
    report_printf(o, "</title></circle>");
    if (m->named || m->best) {
        bool left = is_crowded(p, m, x, y);
        report_printf(o, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">", left ? "name end" : "name",
                      cx + (left ? -11 : 11), p->lines ? cy - 9 : cy + 4); /* above the lines */
        report_escaped(o, m->name);
        report_printf(o, "%s</text>", m->best ? " best" : "");
    }
    report_printf(o, "\n");
}

static void draw(struct report_out *o, const struct sweep_plot *p) {
    struct scale x = {.from = LEFT, .to = WIDTH - RIGHT}, y = {.from = HEIGHT - BOTTOM, .to = TOP};
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    int series = 0;
    for (int i = 0; i < p->n; i++) {
        x0 = fmin(x0, p->v[i].x), x1 = fmax(x1, p->v[i].x);
        y0 = fmin(y0, p->v[i].y), y1 = fmax(y1, p->v[i].y);
        series = p->v[i].series >= series ? p->v[i].series + 1 : series;
    }
    fit(&y, y0, y1);
    if (p->words && !p->words_at)
        fit_words(&x, p->n_words);
    else
        fit(&x, x0, x1);
    report_printf(o, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    report_escaped(o, p->title);
    report_printf(o, "\">\n");
    draw_axes(o, p, &x, &y);
    if (p->front) draw_line(o, p, &x, &y, -1);
    for (int s = 0; s < series && p->lines; s++) draw_line(o, p, &x, &y, s);
    for (int i = 0; i < p->n; i++) draw_mark(o, p, &p->v[i], &x, &y);
    report_printf(o, "</svg>\n");
}

void sweep_plot(struct report_out *o, const struct sweep_plot *p) {
    report_printf(o, "<figure><figcaption>");
    report_escaped(o, p->title);
    report_printf(o, " <span>");
    report_escaped(o, p->y_title);
    report_printf(o, "</span></figcaption>\n");
    if (p->n)
        draw(o, p);
    else
        report_printf(o, "<p class=\"note\">nothing to draw yet</p>\n");
    report_printf(o, "</figure>\n");
}
