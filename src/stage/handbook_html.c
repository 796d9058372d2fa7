/* The handbook as one HTML file: contents at the side, nothing from elsewhere, light and dark. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/version.h"
#include "stage/handbook.h"

static const char *const style[] = {
#include "stage/report_style.def"
    ,
#include "stage/handbook_style.def"
};

struct page {
    struct report_out *o;
    enum book_kind open; /* ITEM: in a list; ROW: in a table; END: in neither */
    char chapter[64];    /* anchor of the last chapter */
};

/* "Exit codes" -> "exit-codes" */
static void slug(const char *text, char out[64]) {
    size_t n = 0;
    for (; *text && n + 1 < 64; text++)
        if (isalnum((unsigned char)*text))
            out[n++] = (char)tolower((unsigned char)*text);
        else if (n && out[n - 1] != '-')
            out[n++] = '-';
    while (n && out[n - 1] == '-') n--;
    out[n] = 0;
}

/* A section's anchor begins with its chapter's. */
static void anchor(struct page *p, const struct book_piece *x, char out[160]) {
    char word[64];
    slug(x->text, word);
    if (x->kind == BOOK_CHAPTER) memcpy(p->chapter, word, sizeof word);
    snprintf(out, 160, "%s%s%s", p->chapter, x->kind == BOOK_CHAPTER ? "" : ".", x->kind == BOOK_CHAPTER ? "" : word);
}

/* Text with `code`. */
static void text(struct report_out *o, const char *s) {
    bool code = false;
    for (const char *end; (end = strchr(s, '`')) != NULL; s = end + 1) {
        report_escaped_n(o, s, (size_t)(end - s));
        code = !code;
        report_printf(o, code ? "<code>" : "</code>");
    }
    report_escaped(o, s);
}

static void element(struct report_out *o, const char *tag, const char *s) {
    report_printf(o, "<%s>", tag);
    text(o, s);
    report_printf(o, "</%s>\n", tag);
}

static void cells(struct report_out *o, const struct book_piece *x) {
    report_printf(o, x->kind == BOOK_HEAD ? "<thead><tr>" : "<tr>");
    for (int i = 0; i < x->n; i++) element(o, x->kind == BOOK_HEAD ? "th" : "td", x->cell[i]);
    report_printf(o, x->kind == BOOK_HEAD ? "</tr></thead><tbody>\n" : "</tr>\n");
}

/* Lines "set | message" as a table. */
static void refused(struct report_out *o, const char *s) {
    report_printf(
        o, "<div class=\"scroll\"><table><thead><tr><th>set</th><th>what temper says</th></tr></thead><tbody>\n");
    while (*s) {
        const char *end = s + strcspn(s, "\n"), *bar = strstr(s, " | ");
        if (!bar || bar > end) bar = end;
        report_printf(o, "<tr><td><code>");
        report_escaped_n(o, s, (size_t)(bar - s));
        report_printf(o, "</code></td><td>");
        if (bar < end) report_escaped_n(o, bar + 3, (size_t)(end - bar - 3));
        report_printf(o, "</td></tr>\n");
        s = *end ? end + 1 : end;
    }
    report_printf(o, "</tbody></table></div>\n");
}

static void close_open(struct page *p, enum book_kind next) {
    if (p->open == BOOK_ITEM && next != BOOK_ITEM) report_printf(p->o, "</ul>\n");
    if (p->open == BOOK_ROW && next != BOOK_ROW) report_printf(p->o, "</tbody></table></div>\n");
    if (next != p->open) p->open = BOOK_END;
}

static void body(void *context, const struct book_piece *x) {
    struct page *p = context;
    char id[160];
    close_open(p, x->kind);
    switch (x->kind) {
    case BOOK_CHAPTER:
    case BOOK_SECTION:
        anchor(p, x, id);
        report_printf(p->o, "<%s id=\"%s\">", x->kind == BOOK_CHAPTER ? "h1" : "h2", id);
        text(p->o, x->text);
        report_printf(p->o, "</%s>\n", x->kind == BOOK_CHAPTER ? "h1" : "h2");
        break;
    case BOOK_TEXT: element(p->o, "p", x->text); break;
    case BOOK_ITEM:
        if (p->open != BOOK_ITEM) report_printf(p->o, "<ul>\n");
        p->open = BOOK_ITEM;
        element(p->o, "li", x->text);
        break;
    case BOOK_CODE:
        if (!strcmp(x->mark, "refused") || !strcmp(x->mark, "unsupported")) {
            refused(p->o, x->text);
            break;
        }
        report_printf(p->o, "<pre%s>", !strcmp(x->mark, "deck") ? " class=\"deck\"" : "");
        report_escaped(p->o, x->text);
        report_printf(p->o, "</pre>\n");
        break;
    case BOOK_HEAD: report_printf(p->o, "<div class=\"scroll\"><table>"); /* fall through */
    case BOOK_ROW:
        cells(p->o, x);
        p->open = BOOK_ROW;
        break;
    case BOOK_END: break;
    }
}

/* The contents: chapters, and under each its sections. */
static void contents(void *context, const struct book_piece *x) {
    struct page *p = context;
    char id[160];
    if (x->kind != BOOK_CHAPTER && x->kind != BOOK_SECTION) return;
    anchor(p, x, id);
    report_printf(p->o, "<a class=\"%s\" href=\"#%s\">", x->kind == BOOK_CHAPTER ? "chapter" : "section", id);
    text(p->o, x->text);
    report_printf(p->o, "</a>\n");
}

enum status stage_handbook(struct str *out) {
    struct report_out o = {0};
    struct page nav = {.o = &o, .open = BOOK_END}, page = {.o = &o, .open = BOOK_END};
    report_printf(&o, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                      "<title>temper: the handbook</title>\n<style>");
    for (size_t i = 0; i < sizeof style / sizeof *style; i++) report_printf(&o, "%s", style[i]);
    report_printf(&o, "</style></head>\n<body class=\"book\">\n<nav><p>temper <span>");
    report_escaped(&o, version_string());
    report_printf(&o, "</span></p>\n");
    enum status st = stage_book_read(contents, &nav);
    report_printf(&o, "</nav>\n<main>\n");
    if (st == TM_OK) st = stage_book_read(body, &page);
    report_printf(&o, "</main>\n</body></html>\n");
    if (st == TM_OK) st = o.st;
    if (st == TM_OK) st = str_append(out, o.text.p, o.text.len);
    str_free(&o.text);
    return st;
}
