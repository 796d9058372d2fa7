/* Collected errors and warnings of a deck. */
#include "deck/report.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum place { IN_DECK, IN_INCLUDE, IN_SET };

struct report_line {
    enum place place;
    int line;
    size_t order; /* as found, so that sorting is stable */
    bool is_error;
    struct str file, text; /* text is the whole line */
};

static enum status add(struct report *r, enum place place, const char *file, int line, bool is_error, const char *fmt,
                       va_list ap) {
    TM_TRY(mem_grow(&r->v, &r->cap, r->n + 1, sizeof *r->v));
    struct report_line *l = &r->v[r->n];
    *l = (struct report_line){.place = place, .line = line, .order = r->n, .is_error = is_error};
    r->n++;
    TM_TRY(str_printf(&l->file, "%s", file));
    if (place == IN_INCLUDE && r->dir && *r->dir) TM_TRY(str_printf(&l->text, "%s/", r->dir));
    TM_TRY(str_printf(&l->text, "%s:", file));
    if (line > 0) TM_TRY(str_printf(&l->text, "%d:", line));
    TM_TRY(str_printf(&l->text, is_error ? " " : " warning: "));
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    struct str *t = &l->text;
    if (n < 0) return TM_FAIL(TM_ERR_INTERNAL, "bad format %s", fmt);
    TM_TRY(mem_grow(&t->p, &t->cap, t->len + (size_t)n + 1, 1));
    vsnprintf(t->p + t->len, (size_t)n + 1, fmt, ap);
    t->len += (size_t)n;
    return TM_OK;
}

static enum status add_at(struct report *r, const config_setting_t *at, bool is_error, const char *fmt, va_list ap) {
    const char *set = at ? config_setting_get_hook(at) : NULL;
    const char *file = at ? config_setting_source_file(at) : NULL;
    if (set) return add(r, IN_SET, set, 0, is_error, fmt, ap);
    return add(r, file ? IN_INCLUDE : IN_DECK, file ? file : r->name, at ? (int)config_setting_source_line(at) : 0,
               is_error, fmt, ap);
}

enum status deck_report_error(struct report *r, const config_setting_t *at, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    enum status st = add_at(r, at, true, fmt, ap);
    va_end(ap);
    return st;
}

enum status deck_report_warning(struct report *r, const config_setting_t *at, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    enum status st = add_at(r, at, false, fmt, ap);
    va_end(ap);
    return st;
}

enum status deck_report_error_line(struct report *r, const char *file, int line, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    enum status st = add(r, file ? IN_INCLUDE : IN_DECK, file ? file : r->name, line, true, fmt, ap);
    va_end(ap);
    return st;
}

enum status deck_report_error_set(struct report *r, const char *set, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    enum status st = add(r, IN_SET, set, 0, true, fmt, ap);
    va_end(ap);
    return st;
}

bool deck_report_has_source_error(const struct report *r, const config_setting_t *at) {
    const char *set = config_setting_get_hook(at), *file = config_setting_source_file(at);
    const char *where = set ? set : file ? file : r->name;
    int line = set ? 0 : (int)config_setting_source_line(at);
    for (size_t i = 0; i < r->n_source; i++)
        if (r->v[i].line == line && !strcmp(r->v[i].file.p, where)) return true;
    return false;
}

static int by_place(const void *pa, const void *pb) {
    const struct report_line *a = pa, *b = pb;
    if (a->place != b->place) return a->place < b->place ? -1 : 1;
    int files = a->place == IN_INCLUDE ? strcmp(a->file.p, b->file.p) : 0;
    if (files) return files;
    if (a->line != b->line) return a->line < b->line ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* A rule broken at the top level is found again in each stage that inherits it: the line is the same, said once. */
static bool said_before(const struct report *r, size_t i) {
    for (size_t j = 0; j < i; j++)
        if (!strcmp(r->v[j].text.p, r->v[i].text.p)) return true;
    return false;
}

enum status deck_report_finish(struct report *r, struct str *out) {
    const char *first = NULL;
    int more = -1;
    if (r->n) qsort(r->v, r->n, sizeof *r->v, by_place);
    for (size_t i = 0; i < r->n; i++) {
        if (said_before(r, i)) continue;
        if (r->v[i].is_error && !first) first = r->v[i].text.p;
        more += r->v[i].is_error;
        if (out) TM_TRY(str_printf(out, "%s\n", r->v[i].text.p));
    }
    if (!first) return TM_OK;
    if (more) return TM_FAIL(TM_ERR_DECK, "%s (and %d more)", first, more);
    return TM_FAIL(TM_ERR_DECK, "%s", first);
}

void deck_report_free(struct report *r) {
    for (size_t i = 0; i < r->n; i++) {
        str_free(&r->v[i].file);
        str_free(&r->v[i].text);
    }
    mem_free(&r->v);
    r->n = r->cap = 0;
}
