/* JSON as the Python programs around Hugging Face write it (json.dump with an indent), so that our files can be compared with theirs by
 * bytes: keys in their given order, ", " never at line ends, every element on its own line, floats as repr() gives them (shortest text
 * that reads back to the same double: 1e-05, 10000.0, 0.02). All functions are Local. */
#pragma once

#include "base/json.h"
#include "base/str.h"

/* Append the text of `j`, without a final newline; indent in blanks (2 as transformers, 4 as ModelOpt). Texts are escaped to ASCII.
 * Errors: MEMORY, FORMAT (a text that is not UTF-8). */
enum status hub_json_text(json_t *j, int indent, struct str *out);
/* The same, with a newline at the end, durably into a file. Errors: also IO. */
enum status hub_write_json(const char *path, json_t *j, int indent);
/* Append a quoted JSON string. ascii: \uXXXX for everything above 0x7e (Python's default); else UTF-8 stays (serde's way). */
enum status hub_json_string(const char *text, bool ascii, struct str *out);
