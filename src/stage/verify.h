/* --verify-export DIR: is an exported directory complete and sound? */
#pragma once

#include "base/str.h"

/* Check that every tensor of the directory can be read, is finite, that every scale is finite and positive, and that both JSON files are there and
 * agree on the algorithm. Appends a summary to out. Local. Errors: IO, FORMAT, NUMERIC (file, tensor, value). */
enum status stage_verify_export(const char *dir, struct str *out);
