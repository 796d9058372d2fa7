/* JSON read from files that others wrote. */
#include "base/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

enum status json_read_buffer(const char *text, size_t n, const char *name, json_t **out) {
    json_error_t e;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!*out) return TM_FAIL(TM_ERR_FORMAT, "%s:%d:%d: not valid JSON: %s", name, e.line, e.column, e.text);
    return TM_OK;
}

enum status json_read_file(const char *path, size_t max_bytes, json_t **out) {
    char *text;
    size_t n;
    *out = NULL;
    TM_TRY(file_read(path, max_bytes, &text, &n));
    enum status st = json_read_buffer(text, n, path, out);
    mem_free(&text);
    return st;
}

static const json_t *find(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v) ? v : NULL;
}

static enum status wrong(const char *where, const char *key, const char *expected) {
    return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" is not %s", where, key, expected);
}

enum status json_get_i64(const json_t *obj, const char *key, const char *where, int64_t absent, int64_t *out) {
    const json_t *v = find(obj, key);
    if (v && !json_is_integer(v)) return wrong(where, key, "an integer");
    *out = v ? json_integer_value(v) : absent;
    return TM_OK;
}

enum status json_get_f64(const json_t *obj, const char *key, const char *where, double absent, double *out) {
    const json_t *v = find(obj, key);
    if (v && !json_is_number(v)) return wrong(where, key, "a number");
    *out = v ? json_number_value(v) : absent;
    return TM_OK;
}

enum status json_get_bool(const json_t *obj, const char *key, const char *where, bool absent, bool *out) {
    const json_t *v = find(obj, key);
    if (v && !json_is_boolean(v)) return wrong(where, key, "true or false");
    *out = v ? json_is_true(v) : absent;
    return TM_OK;
}

enum status json_get_str(const json_t *obj, const char *key, const char *where, const char *absent, const char **out) {
    const json_t *v = find(obj, key);
    if (v && !json_is_string(v)) return wrong(where, key, "a string");
    *out = v ? json_string_value(v) : absent;
    return TM_OK;
}

enum status json_need_i64(const json_t *obj, const char *key, const char *where, int64_t *out) {
    if (!find(obj, key)) return TM_FAIL(TM_ERR_FORMAT, "%s: \"%s\" is missing", where, key);
    return json_get_i64(obj, key, where, 0, out);
}
