/* Text of a report. */
#include "stage/report_out.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

void report_printf(struct report_out *o, const char *fmt, ...) {
    struct str *s = &o->text;
    va_list ap;
    if (o->st != TM_OK) return;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        o->st = TM_FAIL(TM_ERR_INTERNAL, "report: a line cannot be formatted");
        return;
    }
    o->st = mem_grow(&s->p, &s->cap, s->len + (size_t)n + 1, 1);
    if (o->st != TM_OK) return;
    va_start(ap, fmt);
    vsnprintf(s->p + s->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s->len += (size_t)n;
}

static const char *entity(unsigned char c) {
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    default: return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? "&#xfffd;" : NULL;
    }
}

void report_escaped(struct report_out *o, const char *text) { report_escaped_n(o, text, strlen(text)); }

void report_escaped_n(struct report_out *o, const char *text, size_t n) {
    const char *plain = text, *end = text + n;
    for (; text < end; text++) {
        const char *e = entity((unsigned char)*text);
        if (!e) continue;
        if (o->st == TM_OK) o->st = str_append(&o->text, plain, (size_t)(text - plain));
        if (o->st == TM_OK) o->st = str_append(&o->text, e, strlen(e));
        plain = text + 1;
    }
    if (o->st == TM_OK) o->st = str_append(&o->text, plain, (size_t)(text - plain));
}
