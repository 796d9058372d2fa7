/* A growing byte string, and small string helpers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* p is always NUL-terminated once anything was added; zero-initialise: struct str s = {0}. */
struct str {
    char *p;
    size_t len, cap;
};

enum status str_append(struct str *s, const void *bytes, size_t n);
enum status str_printf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_clear(struct str *s); /* length 0, memory kept */
void str_free(struct str *s);

/* Shell-style match of the whole of `text`: '*' any run, '?' one character, [abc] one of. */
bool str_glob(const char *pattern, const char *text);
/* Edit distance (Levenshtein), for "did you mean" hints. */
int str_distance(const char *a, const char *b);
/* Copy into a fixed buffer; raises INTERNAL with both texts named when it does not fit. */
enum status str_copy(char *out, size_t cap, const char *text);
/* Put `prefix` in front of the text in a fixed buffer; raises INTERNAL when it does not fit. */
enum status str_prefix(char *text, size_t cap, const char *prefix);
/* Join directory and name with one '/', unless `name` is absolute. */
enum status str_path(char *out, size_t cap, const char *dir, const char *name);
