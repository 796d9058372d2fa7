/* JSON read from files that others wrote: jansson with a size limit, duplicate keys refused and errors that name the file and key. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Parse a file (at most max_bytes) or a buffer (`name` goes into messages). The caller frees with json_decref.
 * Errors: IO, FORMAT (syntax with line and column, duplicate key). */
enum status json_read_file(const char *path, size_t max_bytes, json_t **out);
enum status json_read_buffer(const char *text, size_t n, const char *name, json_t **out);

/* Typed look-up of obj[key]. An absent key or null gives `absent` (get) or raises FORMAT (need); another type raises FORMAT. `where`
 * names the file in messages. json_get_f64 takes integers too. Strings are borrowed from obj. */
enum status json_get_i64(const json_t *obj, const char *key, const char *where, int64_t absent, int64_t *out);
enum status json_get_f64(const json_t *obj, const char *key, const char *where, double absent, double *out);
enum status json_get_bool(const json_t *obj, const char *key, const char *where, bool absent, bool *out);
enum status json_get_str(const json_t *obj, const char *key, const char *where, const char *absent, const char **out);
enum status json_need_i64(const json_t *obj, const char *key, const char *where, int64_t *out);
