/* Values of keys as text: deck syntax for echo and comparison, and what a key takes, for messages and help. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deck/table.h"

/* The next word of "a|b|c" at *at; false at the end. */
static bool words_next(const char **at, const char **word, size_t *n) {
    while (**at == '|') (*at)++;
    if (!**at) return false;
    *word = *at;
    *n = strcspn(*at, "|");
    *at += *n;
    return true;
}

bool deck_words_have(const char *words, const char *text) {
    const char *at = words, *word;
    size_t n;
    while (words && words_next(&at, &word, &n))
        if (strlen(text) == n && !memcmp(word, text, n)) return true;
    return false;
}

/* A word as the deck writes it: "fp32", but true and false without quotes. */
static enum status print_word(const char *word, size_t n, struct str *out) {
    bool bare = (n == 4 && !memcmp(word, "true", 4)) || (n == 5 && !memcmp(word, "false", 5));
    return str_printf(out, bare ? "%.*s" : "\"%.*s\"", (int)n, word);
}

enum status deck_words_print(const char *words, struct str *out) {
    const char *at = words, *word, *between = "";
    size_t n;
    while (words_next(&at, &word, &n)) {
        TM_TRY(str_printf(out, "%s", between));
        TM_TRY(print_word(word, n, out));
        between = ", ";
    }
    return TM_OK;
}

enum status deck_print_int(int64_t v, struct str *out) {
    /* libconfig reads 32 bits unless an L follows */
    return str_printf(out, v >= INT32_MIN && v <= INT32_MAX ? "%lld" : "%lldL", (long long)v);
}

enum status deck_print_float(double v, struct str *out) {
    char text[40];
    int digits = 0;
    if (v == trunc(v) && fabs(v) < 1e15) return str_printf(out, "%.1f", v);
    do snprintf(text, sizeof text, "%.*g", ++digits, v); /* the shortest that reads back */
    while (digits < 17 && strtod(text, NULL) != v);
    return str_printf(out, "%s%s", text, strpbrk(text, ".ein") ? "" : ".0");
}

enum status deck_print_text(const char *text, struct str *out) {
    TM_TRY(str_append(out, "\"", 1));
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            TM_TRY(str_printf(out, "\\%c", *c));
        else if (*c == '\n')
            TM_TRY(str_printf(out, "\\n"));
        else if (*c < 32 || *c == 127)
            TM_TRY(str_printf(out, "\\x%02x", *c));
        else
            TM_TRY(str_append(out, c, 1));
    }
    return str_append(out, "\"", 1);
}

static enum status print_element(const struct key *k, struct list l, int i, struct str *out) {
    switch (k->type) {
    case KEY_INTS: return deck_print_int(((int64_t *)l.v)[i], out);
    case KEY_FLOATS: return deck_print_float(((double *)l.v)[i], out);
    case KEY_VALUES: return str_printf(out, "%s", ((const char **)l.v)[i]);
    default: return deck_print_text(((const char **)l.v)[i], out);
    }
}

static enum status print_array(const struct key *k, const void *field, struct str *out) {
    struct list l = deck_list_get(field);
    /* values of a sweep may be of different types, which only a list may hold */
    const char *open = k->type == KEY_VALUES ? "(" : "[", *close = k->type == KEY_VALUES ? ")" : "]";
    TM_TRY(str_printf(out, "%s ", open));
    for (int i = 0; i < l.n; i++) {
        if (i) TM_TRY(str_printf(out, ", "));
        TM_TRY(print_element(k, l, i, out));
    }
    return str_printf(out, "%s%s", l.n ? " " : "", close);
}

enum status deck_print_value(const struct key *k, const void *field, struct str *out) {
    const char *text;
    switch (k->type) {
    case KEY_INT: return deck_print_int(*(const int64_t *)field, out);
    case KEY_FLOAT: return deck_print_float(*(const double *)field, out);
    case KEY_BOOL: return str_printf(out, *(const bool *)field ? "true" : "false");
    case KEY_WORD: text = *(const char *const *)field; return print_word(text, strlen(text), out);
    case KEY_TEXT:
    case KEY_INPUT:
    case KEY_OUTPUT:
    case KEY_FOLDER: return deck_print_text(*(const char *const *)field, out);
    default: return print_array(k, field, out);
    }
}

/* "int >= 1", "float in [0, 1)"; a bound of 1e18 or more is none. */
static enum status print_bounds(const char *what, const struct key *k, struct str *out) {
    bool low = k->lo > -1e18, high = k->hi < 1e18;
    if (low && high && k->lo == k->hi) return str_printf(out, "%s %.15g", what, k->lo);
    if (low && high)
        return str_printf(out, "%s in %c%.15g, %.15g%c", what, k->lo_open ? '(' : '[', k->lo, k->hi,
                          k->hi_open ? ')' : ']');
    if (low) return str_printf(out, "%s %s %.15g", what, k->lo_open ? ">" : ">=", k->lo);
    return str_printf(out, "%s", what);
}

enum status deck_key_print_expected(const struct key *k, struct str *out) {
    switch (k->type) {
    case KEY_INT: return print_bounds("int", k, out);
    case KEY_FLOAT: return print_bounds("float", k, out);
    case KEY_BOOL: return str_printf(out, "true or false");
    case KEY_TEXT: return str_printf(out, "text");
    case KEY_WORD: TM_TRY(str_printf(out, "one of ")); return deck_words_print(k->words, out);
    case KEY_INPUT:
    case KEY_OUTPUT:
    case KEY_FOLDER:
        TM_TRY(str_printf(out, "a path%s", k->words ? " or " : ""));
        return k->words ? deck_words_print(k->words, out) : TM_OK;
    case KEY_INTS: return print_bounds("an array of int", k, out);
    case KEY_FLOATS: return print_bounds("an array of float", k, out);
    case KEY_TEXTS: return str_printf(out, "a text or an array of texts");
    case KEY_INPUTS: return str_printf(out, "a path or an array of paths");
    case KEY_VALUES: return str_printf(out, "an array or list of values");
    case KEY_GROUP: return str_printf(out, "a group { ... }");
    case KEY_LIST: return str_printf(out, "a list ( { ... }, ... )");
    case KEY_NAMED: return str_printf(out, "groups by name { name = { ... }; ... }");
    }
    return TM_OK;
}
