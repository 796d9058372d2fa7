/* A growing byte string, and small string helpers. */
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/size.h"

enum status str_append(struct str *s, const void *bytes, size_t n) {
    size_t need;
    if (!size_add(s->len, n, &need) || !size_add(need, 1, &need))
        return TM_FAIL(TM_ERR_MEMORY, "string of more than SIZE_MAX bytes");
    TM_TRY(mem_grow(&s->p, &s->cap, need, 1));
    if (n) memcpy(s->p + s->len, bytes, n);
    s->len += n;
    s->p[s->len] = 0;
    return TM_OK;
}

enum status str_printf(struct str *s, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    enum status st =
        n < 0 ? TM_FAIL(TM_ERR_INTERNAL, "bad format %s", fmt) : mem_grow(&s->p, &s->cap, s->len + (size_t)n + 1, 1);
    if (st == TM_OK) {
        vsnprintf(s->p + s->len, (size_t)n + 1, fmt, again);
        s->len += (size_t)n;
    }
    va_end(again);
    return st;
}

void str_clear(struct str *s) {
    s->len = 0;
    if (s->p) s->p[0] = 0;
}

void str_free(struct str *s) {
    mem_free(&s->p);
    s->len = s->cap = 0;
}

bool str_glob(const char *p, const char *t) {
    const char *star = NULL, *back = NULL; /* the last '*' and the text position it was tried at */
    while (*t) {
        const char *close = *p == '[' ? strchr(p + 1, ']') : NULL;
        if (*p == '*') {
            star = p++;
            back = t;
        } else if (close && memchr(p + 1, *t, (size_t)(close - p - 1))) {
            p = close + 1;
            t++;
        } else if (!close && (*p == '?' || *p == *t)) {
            p++;
            t++;
        } else if (star) {
            p = star + 1;
            t = ++back;
        } else {
            return false;
        }
    }
    while (*p == '*') p++;
    return !*p;
}

int str_distance(const char *a, const char *b) {
    enum { LIMIT = 64 };
    int row[LIMIT + 1];
    size_t n = strnlen(a, LIMIT), m = strnlen(b, LIMIT);
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

enum status str_copy(char *out, size_t cap, const char *text) {
    size_t n = strlen(text);
    if (n >= cap) return TM_FAIL(TM_ERR_INTERNAL, "\"%.200s\" is longer than %zu characters", text, cap - 1);
    memcpy(out, text, n + 1);
    return TM_OK;
}

enum status str_prefix(char *text, size_t cap, const char *prefix) {
    size_t n = strlen(text), k = strlen(prefix);
    if (n + k >= cap) return TM_FAIL(TM_ERR_INTERNAL, "\"%s%s\" is longer than %zu characters", prefix, text, cap - 1);
    memmove(text + k, text, n + 1);
    memcpy(text, prefix, k);
    return TM_OK;
}

enum status str_path(char *out, size_t cap, const char *dir, const char *name) {
    int n = name[0] == '/' || !dir[0] ? snprintf(out, cap, "%s", name)
                                      : snprintf(out, cap, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", name);
    if (n < 0 || (size_t)n >= cap) return TM_FAIL(TM_ERR_DECK, "path too long: %s/%s", dir, name);
    return TM_OK;
}
