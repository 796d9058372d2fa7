/* Line charts. */
#include "stage/report_svg.h"

#include <math.h>
#include <stdio.h>

enum { WIDTH = 340, HEIGHT = 176, LEFT = 46, RIGHT = 54, TOP = 12, BOTTOM = 22, DRAWN = 600 };

struct axes {
    double x0, x1, y0, y1, x_step, y_step; /* in data units */
};

double report_axis_step(double lo, double hi, int marks) {
    double raw = (hi - lo) / marks, power = pow(10, floor(log10(raw))), m = raw / power;
    return power * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static int decimals(double step) {
    double d = ceil(-log10(step) - 1e-9);
    return d > 0 ? (int)fmin(d, 9) : 0;
}

void report_axis_label(double x, double step, double most, char out[16]) {
    if (fabs(x) < 1e-9 * step) {
        snprintf(out, 16, "0");
    } else if (most < 1e-3 || most >= 1e6) {
        int exponent = (int)floor(log10(most) + 1e-9);
        double unit = pow(10, exponent);
        snprintf(out, 16, "%.*fe%d", decimals(step / unit), x / unit, exponent);
    } else {
        snprintf(out, 16, "%.*f", decimals(step), x);
    }
}

void report_value_label(double x, char out[16]) {
    double m = fabs(x);
    if (m > 0 && (m < 1e-3 || m >= 1e6))
        report_axis_label(x, pow(10, floor(log10(m)) - 2), m, out);
    else
        snprintf(out, 16, m >= 1 ? "%.4g" : "%.3g", x);
}

static double x_at(const struct axes *a, double x) {
    return LEFT + (x - a->x0) / (a->x1 - a->x0) * (WIDTH - LEFT - RIGHT);
}
static double y_at(const struct axes *a, double y) {
    return TOP + (a->y1 - y) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM);
}

/* From the finite points: false when there is none, or they span more than a double. */
static bool fit(const struct report_point *p, size_t n, struct axes *a) {
    double lo = INFINITY, hi = -INFINITY;
    a->x0 = INFINITY, a->x1 = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(p[i].y)) continue;
        lo = fmin(lo, p[i].y), hi = fmax(hi, p[i].y);
        a->x0 = fmin(a->x0, p[i].step), a->x1 = fmax(a->x1, p[i].step);
    }
    if (!(lo <= hi) || !isfinite(2 * (hi - lo)) || !isfinite(2 * hi)) return false;
    if (lo > 0 && lo < 0.35 * hi) lo = 0;
    double room = hi > lo ? 0 : fabs(hi) > 0 ? 0.5 * fabs(hi) : 1; /* a level line lies in the middle */
    lo -= room, hi += room;
    a->y_step = report_axis_step(lo, hi, 4);
    a->y0 = floor(lo / a->y_step + 1e-9) * a->y_step;
    a->y1 = ceil(hi / a->y_step - 1e-9) * a->y_step;
    if (!(a->x0 < a->x1)) a->x0 -= 1, a->x1 += 1;
    a->x_step = fmax(1, report_axis_step(a->x0, a->x1, 4));
    return a->y1 > a->y0 && isfinite(a->x1 - a->x0);
}

static void draw_axes(struct report_out *o, const struct axes *a, bool lone) {
    char label[16];
    int marks = (int)lround((a->y1 - a->y0) / a->y_step);
    for (int i = 0; i <= marks; i++) {
        double y = a->y0 + i * a->y_step, at = y_at(a, y);
        report_axis_label(y, a->y_step, fmax(fabs(a->y0), fabs(a->y1)), label);
        report_printf(o, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>", LEFT, at, WIDTH - RIGHT);
        report_printf(o, "<text class=\"tick end\" x=\"%d\" y=\"%.1f\">%s</text>\n", LEFT - 6, at + 3.5, label);
    }
    double first = lone ? a->x0 + 1 : ceil(a->x0 / a->x_step) * a->x_step;
    for (double x = first; x <= a->x1; x += lone ? 2 : a->x_step) {
        report_axis_label(x, a->x_step, a->x1, label);
        report_printf(o, "<path class=\"mark\" d=\"M%.1f %dv4\"/>", x_at(a, x), HEIGHT - BOTTOM);
        report_printf(o, "<text class=\"tick mid\" x=\"%.1f\" y=\"%d\">%s</text>\n", x_at(a, x), HEIGHT - 5, label);
    }
    report_printf(o, "<text class=\"tick\" x=\"%d\" y=\"%d\">step</text>\n", WIDTH - RIGHT + 12, HEIGHT - 5);
}

struct pen {
    struct report_out *o;
    const struct axes *a;
    bool down;
};

static void draw_to(struct pen *pen, const struct report_point *p) {
    report_printf(pen->o, "%c%.1f %.1f", pen->down ? 'L' : 'M', x_at(pen->a, p->step), y_at(pen->a, p->y));
    pen->down = true;
}

/* The lowest and the highest point of p[lo, hi) in their order, and a lifted pen where one is not finite. */
static void draw_stretch(struct pen *pen, const struct report_point *p, size_t lo, size_t hi) {
    const struct report_point *low = NULL, *high = NULL;
    bool gap = false;
    for (size_t i = lo; i < hi; i++) {
        if (!isfinite(p[i].y)) {
            gap = true;
            continue;
        }
        if (!low || p[i].y < low->y) low = &p[i];
        if (!high || p[i].y > high->y) high = &p[i];
    }
    if (low) draw_to(pen, low < high ? low : high);
    if (low && low != high) draw_to(pen, low < high ? high : low);
    if (gap) pen->down = false;
}

static void draw_curve(struct report_out *o, const struct axes *a, const struct report_point *p, size_t n) {
    struct pen pen = {o, a, false};
    size_t parts = n <= DRAWN ? n : DRAWN / 2;
    report_printf(o, "<path class=\"line\" d=\"");
    for (size_t i = 0; i < parts; i++) draw_stretch(&pen, p, n * i / parts, n * (i + 1) / parts);
    report_printf(o, "\"/>\n");
    for (size_t i = 0; i < n && n <= DRAWN; i++) /* points without neighbours have no line */
        if (isfinite(p[i].y) && !(i > 0 && isfinite(p[i - 1].y)) && !(i + 1 < n && isfinite(p[i + 1].y)))
            report_printf(o, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"/>\n", x_at(a, p[i].step),
                          y_at(a, p[i].y));
}

void report_chart(struct report_out *o, const char *title, const char *unit, const struct report_point *p, size_t n) {
    struct axes a = {0};
    char label[16];
    size_t finite = 0, last = 0;
    for (size_t i = 0; i < n; i++)
        if (isfinite(p[i].y)) finite++, last = i;
    report_printf(o, "<figure><figcaption>");
    report_escaped(o, title);
    if (*unit) report_printf(o, " <span>%s</span>", unit);
    report_printf(o, "</figcaption>\n");
    if (finite && fit(p, n, &a)) {
        report_printf(o, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
        report_escaped(o, title);
        report_printf(o, " over steps\">\n");
        draw_axes(o, &a, finite == 1);
        draw_curve(o, &a, p, n);
        report_value_label(p[last].y, label);
        report_printf(o, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"/>", x_at(&a, p[last].step),
                      y_at(&a, p[last].y));
        report_printf(o, "<text class=\"last\" data-value=\"%.9g\" x=\"%.1f\" y=\"%.1f\">%s</text>\n</svg>\n",
                      p[last].y, x_at(&a, p[last].step) + 6, y_at(&a, p[last].y) + 4, label);
    } else {
        report_printf(o, "<p class=\"note\">nothing to draw yet</p>\n");
    }
    if (finite < n) report_printf(o, "<p class=\"note\">%zu of %zu values are not finite: gaps</p>\n", n - finite, n);
    report_printf(o, "</figure>\n");
}
