/* JSON in the style of Python's json.dump. */
#include "hub/pretty.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* Decode one UTF-8 character of more than one byte; 0 when it is damaged (overlong, surrogate, cut, too large). */
static int decode(const unsigned char *p, unsigned *code) {
    int n = p[0] >= 0xf0 && p[0] < 0xf8 ? 4 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xc0 && p[0] < 0xe0 ? 2 : 0;
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (n == 0) return 0;
    *code = p[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        *code = *code << 6 | (p[i] & 0x3f);
    }
    bool surrogate = *code >= 0xd800 && *code < 0xe000;
    return *code < least[n] || *code > 0x10ffff || surrogate ? 0 : n;
}

enum status hub_json_string(const char *text, bool ascii, struct str *out) {
    static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
    TM_TRY(str_append(out, "\"", 1));
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        const char *found = strchr(plain, *p);
        unsigned code = *p;
        int n = *p < 0x80 ? 1 : decode(p, &code);
        if (n == 0) return TM_FAIL(TM_ERR_FORMAT, "\"%s\" is not UTF-8", text);
        if (found)
            TM_TRY(str_printf(out, "\\%c", escaped[found - plain]));
        else if (code >= 0x10000 && ascii)
            TM_TRY(str_printf(out, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10), 0xdc00 + (code & 0x3ff)));
        else if (code < 0x20 || (code >= 0x7f && ascii))
            TM_TRY(str_printf(out, "\\u%04x", code));
        else
            TM_TRY(str_append(out, p, (size_t)n));
        p += n;
    }
    return str_append(out, "\"", 1);
}

/* repr() of a float: the shortest digits that read back, in plain notation for exponents -4 to 15. */
static enum status print_real(double x, struct str *out) {
    char digits[40];
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, x);
    while (strtod(digits, NULL) != x && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16)
        return str_printf(out, "%s", digits); /* printf's exponent has two digits, as repr's */
    int decimals = precision - exponent;
    return str_printf(out, "%.*f", decimals > 1 ? decimals : 1, x);
}

static enum status newline(int blanks, struct str *out) { return str_printf(out, "\n%*s", blanks, ""); }

static enum status print_value(json_t *j, int indent, int depth, struct str *out);

static enum status print_object(json_t *j, int indent, int depth, struct str *out) {
    const char *key;
    json_t *value;
    bool first = true;
    json_object_foreach(j, key, value) {
        TM_TRY(str_append(out, first ? "{" : ",", 1));
        TM_TRY(newline(indent * (depth + 1), out));
        TM_TRY(hub_json_string(key, true, out));
        TM_TRY(str_append(out, ": ", 2));
        TM_TRY(print_value(value, indent, depth + 1, out));
        first = false;
    }
    if (first) return str_append(out, "{}", 2);
    TM_TRY(newline(indent * depth, out));
    return str_append(out, "}", 1);
}

static enum status print_array(json_t *j, int indent, int depth, struct str *out) {
    size_t n = json_array_size(j);
    if (n == 0) return str_append(out, "[]", 2);
    for (size_t i = 0; i < n; i++) {
        TM_TRY(str_append(out, i ? "," : "[", 1));
        TM_TRY(newline(indent * (depth + 1), out));
        TM_TRY(print_value(json_array_get(j, i), indent, depth + 1, out));
    }
    TM_TRY(newline(indent * depth, out));
    return str_append(out, "]", 1);
}

static enum status print_value(json_t *j, int indent, int depth, struct str *out) {
    switch (json_typeof(j)) {
    case JSON_OBJECT: return print_object(j, indent, depth, out);
    case JSON_ARRAY: return print_array(j, indent, depth, out);
    case JSON_STRING: return hub_json_string(json_string_value(j), true, out);
    case JSON_INTEGER: return str_printf(out, "%lld", (long long)json_integer_value(j));
    case JSON_REAL: return print_real(json_real_value(j), out);
    case JSON_TRUE: return str_append(out, "true", 4);
    case JSON_FALSE: return str_append(out, "false", 5);
    default: return str_append(out, "null", 4);
    }
}

enum status hub_json_text(json_t *j, int indent, struct str *out) { return print_value(j, indent, 0, out); }

enum status hub_write_json(const char *path, json_t *j, int indent) {
    struct str text = {0};
    enum status st = hub_json_text(j, indent, &text);
    if (st == TM_OK) st = str_append(&text, "\n", 1);
    if (st == TM_OK) st = file_write(path, text.p, text.len);
    str_free(&text);
    return st;
}
