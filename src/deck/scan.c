/* A look at a deck's text before libconfig 1.5 reads it, for what that library would take silently: integers that wrap at 32
 * bits, a NUL that ends a string, included files that are absent or never end. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "deck/source.h"

enum {
    INCLUDE_DEPTH = 10 /* libconfig's own limit */,
    INCLUDES_MAX = 256 /* they may include each other many times */
};

struct scan {
    struct report *report;
    const char *file; /* included file, NULL = the deck */
    const char *set;  /* "--set ..." when the text is one's value, else NULL */
    const char *at;
    int line, depth;
    bool *refused;
    int *includes; /* so far */
};

static enum status say(const struct scan *s, const char *what, const char *token, size_t n) {
    if (s->set) return deck_report_error_set(s->report, s->set, "%.*s %s", (int)n, token, what);
    return deck_report_error_line(s->report, s->file, s->line, "%.*s %s", (int)n, token, what);
}

/* A number at s->at (its first digit; `token` may be a sign before it). */
static enum status scan_number(struct scan *s, const char *token) {
    bool hex = s->at[0] == '0' && (s->at[1] == 'x' || s->at[1] == 'X');
    const char *p = s->at + (hex ? 2 : 0);
    while (hex ? isxdigit((unsigned char)*p) : isdigit((unsigned char)*p)) p++;
    s->at = p;
    if (!hex && (*p == '.' || *p == 'e' || *p == 'E')) { /* a float: skip what belongs to it */
        while (isalnum((unsigned char)*p) || *p == '.' || ((*p == '-' || *p == '+') && (p[-1] == 'e' || p[-1] == 'E')))
            p++;
        s->at = p;
        return TM_OK;
    }
    errno = 0;
    bool fits64, fits32;
    if (hex) {
        unsigned long long v = strtoull(token, NULL, 16);
        fits64 = !errno && v <= INT64_MAX;
        fits32 = v <= INT32_MAX;
    } else {
        long long v = strtoll(token, NULL, 10);
        fits64 = !errno;
        fits32 = v >= INT32_MIN && v <= INT32_MAX;
    }
    bool is_long = *p == 'L';
    while (*s->at == 'L') s->at++;
    if (!fits64) return say(s, "does not fit 64 bits", token, (size_t)(p - token));
    if (!fits32 && !is_long) return say(s, "does not fit 32 bits: write an L behind it", token, (size_t)(p - token));
    return TM_OK;
}

/* What an included file must not include, or leave open: libconfig goes on in the same state behind it. */
static enum status refuse(const struct scan *s, const char *what, const char *token, size_t n) {
    *s->refused = true;
    return say(s, what, token, n);
}

/* A string from its opening quote. */
static enum status scan_string(struct scan *s) {
    const char *quote = s->at;
    for (s->at++; *s->at && *s->at != '"'; s->at++) {
        if (*s->at == '\n') s->line++;
        if (*s->at != '\\' || !s->at[1]) continue;
        s->at++;
        if (!strncmp(s->at, "x00", 3)) TM_TRY(say(s, "in a string: NUL cannot be part of one", "\\x00", 4));
    }
    if (!*s->at && s->file)
        return refuse(s, "...: the included file ends inside this string", quote, strnlen(quote, 16));
    if (*s->at) s->at++;
    return TM_OK;
}

static enum status scan_text(struct scan *s);

/* Does the file lie outside of the deck's folder? One that is not there does not. */
static bool leads_out(const char *dir, const char *path) {
    char base[PATH_MAX], file[PATH_MAX];
    if (!realpath(*dir ? dir : ".", base) || !realpath(path, file)) return false;
    size_t n = strlen(base);
    return strncmp(base, file, n) || (n > 1 && file[n] != '/');
}

/* @include "name" from the '@'. A backslash would mean something to libconfig, which must not see another name than this scan. */
static enum status scan_include(struct scan *s) {
    const char *quote = s->at + strcspn(s->at, "\"\n");
    size_t n = *quote == '"' ? strcspn(quote + 1, "\"\n") : 0;
    s->at = quote;
    if (*quote != '"') return TM_OK; /* libconfig says what is wrong */
    if (quote[1 + n] != '"') return refuse(s, ": the name of an include ends on its line", quote, n + 1);
    s->at = quote + 1 + n + 1;
    const char *rest = s->at + strspn(s->at, " \t\r");
    if (*rest && !strchr("\n#", *rest) && strncmp(rest, "//", 2) != 0)
        return refuse(s, ": only a comment may follow an include on its line", quote, n + 2);
    char name[1024], path[2048], *text;
    if (*s->refused) return TM_OK; /* nothing of it will be read */
    if (++*s->includes > INCLUDES_MAX) return refuse(s, ": more than 256 includes", quote, n + 2);
    if (n >= sizeof name) return refuse(s, "...: include name too long", quote, 64);
    memcpy(name, quote + 1, n);
    name[n] = 0;
    if (s->depth >= INCLUDE_DEPTH) return refuse(s, ": includes nested deeper than 10", quote, n + 2);
    if (name[0] == '/') return refuse(s, ": an include is relative to the deck's folder", quote, n + 2);
    if (strchr(name, '\\')) return refuse(s, ": no backslash may be in the name of an include", quote, n + 2);
    TM_TRY(str_path(path, sizeof path, s->report->dir, name));
    if (leads_out(s->report->dir, path)) return refuse(s, ": an include must lie in the deck's folder", quote, n + 2);
    size_t length;
    enum status st = deck_source_text(path, &text, &length);
    if (st == TM_ERR_MEMORY) return st;
    if (st != TM_OK) {
        *s->refused = true; /* libconfig ends the process over a folder */
        return deck_report_error_line(s->report, s->file, s->line, "@include \"%s\": %s", name, status_message());
    }
    struct scan inner = {.report = s->report,
                         .file = name,
                         .at = text,
                         .line = 1,
                         .depth = s->depth + 1,
                         .refused = s->refused,
                         .includes = s->includes};
    st = scan_text(&inner);
    mem_free(&text);
    return st;
}

static enum status scan_comment(struct scan *s) {
    const char *begin = s->at;
    if (s->at[0] == '/' && s->at[1] == '*') {
        for (s->at += 2; *s->at && !(s->at[0] == '*' && s->at[1] == '/'); s->at++) s->line += *s->at == '\n';
        if (!*s->at && s->file)
            return refuse(s, "...: the included file ends inside this comment", begin, strnlen(begin, 16));
        if (*s->at) s->at += 2;
    } else {
        s->at += strcspn(s->at, "\n");
    }
    return TM_OK;
}

static enum status scan_text(struct scan *s) {
    while (*s->at) {
        const char *p = s->at;
        unsigned char c = (unsigned char)*p;
        if (c == '#' || (c == '/' && (p[1] == '/' || p[1] == '*'))) {
            TM_TRY(scan_comment(s));
        } else if (c == '"') {
            TM_TRY(scan_string(s));
        } else if (c == '@' && !s->set) {
            TM_TRY(scan_include(s));
        } else if (isalpha(c) || c == '*' || c == '_') {
            while (isalnum((unsigned char)*s->at) || (*s->at && strchr("-_*", *s->at))) s->at++;
        } else if (isdigit(c)) {
            TM_TRY(scan_number(s, p));
        } else if ((c == '-' || c == '+') && isdigit((unsigned char)p[1])) {
            s->at++;
            TM_TRY(scan_number(s, p));
        } else if (c == '.' && isdigit((unsigned char)p[1])) {
            s->at++;
            while (isalnum((unsigned char)*s->at)) s->at++; /* .5, .5e3; a signed exponent is a number by itself */
        } else {
            s->line += c == '\n';
            s->at++;
        }
    }
    return TM_OK;
}

enum status deck_source_scan(const char *text, const char *set, struct report *report, bool *refused) {
    int includes = 0;
    struct scan s = {.report = report, .set = set, .at = text, .line = 1, .refused = refused, .includes = &includes};
    *refused = false;
    return scan_text(&s);
}

enum status deck_source_text(const char *path, char **text, size_t *n) {
    enum { MAX_BYTES = 1 << 20 };
    *text = NULL;
    TM_TRY(file_read(path, MAX_BYTES, text, n));
    if (strlen(*text) == *n) return TM_OK;
    size_t at = strlen(*text);
    mem_free(text);
    return TM_FAIL(TM_ERR_DECK, "%s: NUL byte at offset %zu: this is no text file", path, at);
}
