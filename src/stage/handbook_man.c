/* The man page: the same chapters as roff for man(1). */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/version.h"
#include "stage/handbook.h"

struct man {
    struct report_out *o;
    bool web;                  /* in a chapter that is not for the page */
    enum book_kind last;       /* after a heading a paragraph needs no request of its own */
    char head[BOOK_CELLS][32]; /* of the table */
};

/* One piece of text: what roff would take for a request or an escape is escaped. */
static void plain(struct report_out *o, const char *s, size_t n, bool line_start) {
    for (size_t i = 0; i < n; i++) {
        if ((line_start && i == 0) || (i > 0 && s[i - 1] == '\n'))
            if (s[i] == '.' || s[i] == '\'') report_printf(o, "\\&");
        if (s[i] == '\\')
            report_printf(o, "\\e");
        else if (s[i] == '-')
            report_printf(o, "\\-");
        else
            report_printf(o, "%c", s[i]);
    }
}

/* Text with `code`, in bold. */
static void words(struct report_out *o, const char *s) {
    bool code = false, start = true;
    for (const char *end; (end = strchr(s, '`')) != NULL; s = end + 1) {
        plain(o, s, (size_t)(end - s), start);
        start = start && end == s;
        code = !code;
        report_printf(o, code ? "\\fB" : "\\fR");
    }
    plain(o, s, strlen(s), start);
}

static void text(struct report_out *o, const char *s) {
    words(o, s);
    report_printf(o, "\n");
}

/* A row: its first cell hangs, the others follow; in wide tables with the names of their columns, but for the meaning. */
static void row(const struct man *m, const struct book_piece *x) {
    struct report_out *o = m->o;
    bool any = false;
    report_printf(o, ".TP\n\\fB");
    for (const char *c = x->cell[0]; *c; c++)
        if (*c != '`') plain(o, c, 1, c == x->cell[0]);
    report_printf(o, "\\fR\n");
    for (int i = 1; i < x->n; i++) {
        bool named = x->n > 3 && strcmp(m->head[i], "meaning") != 0;
        if (!*x->cell[i]) continue;
        if (named)
            report_printf(o, any ? "; %s: " : "%s: ", m->head[i]);
        else if (any)
            report_printf(o, "\n.br\n");
        words(o, x->cell[i]);
        any = true;
    }
    report_printf(o, any ? "\n" : "\\&\n");
}

static void piece(void *context, const struct book_piece *x) {
    struct man *m = context;
    struct report_out *o = m->o;
    if (x->kind == BOOK_CHAPTER) m->web = x->web;
    if (m->web) return;
    bool after_heading = m->last == BOOK_CHAPTER || m->last == BOOK_SECTION;
    m->last = x->kind;
    switch (x->kind) {
    case BOOK_CHAPTER:
        report_printf(o, ".SH ");
        for (const char *c = x->text; *c; c++) report_printf(o, "%c", toupper((unsigned char)*c));
        report_printf(o, "\n");
        break;
    case BOOK_SECTION:
        report_printf(o, ".SS ");
        text(o, x->text);
        break;
    case BOOK_TEXT:
        if (!after_heading) report_printf(o, ".PP\n");
        text(o, x->text);
        break;
    case BOOK_ITEM:
        report_printf(o, ".IP \\(bu 2\n");
        text(o, x->text);
        break;
    case BOOK_CODE:
        report_printf(o, "%s.RS 2\n.nf\n", after_heading ? "" : ".PP\n");
        plain(o, x->text, strlen(x->text), true);
        report_printf(o, "\n.fi\n.RE\n");
        break;
    case BOOK_HEAD:
        for (int i = 0; i < x->n; i++) snprintf(m->head[i], sizeof m->head[i], "%s", x->cell[i]);
        break;
    case BOOK_ROW: row(m, x); break;
    case BOOK_END: break;
    }
}

enum status stage_man(struct str *out) {
    struct report_out o = {0};
    struct man m = {.o = &o};
    report_printf(&o, ".TH TEMPER 1 \"\" \"temper %s\" \"temper\"\n.SH NAME\n", version_string());
    report_printf(&o, "temper \\- make a trained transformer smaller and faster without losing it\n");
    enum status st = stage_book_read(piece, &m);
    if (st == TM_OK) st = o.st;
    if (st == TM_OK) st = str_append(out, o.text.p, o.text.len);
    str_free(&o.text);
    return st;
}
