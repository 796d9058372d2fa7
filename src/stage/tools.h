/* Small commands on the command line that need no ranks. All are Local. */
#pragma once

#include "base/str.h"

/* --list WHAT: what this build knows. Errors: DECK (names what can be listed). */
enum status stage_list(const char *what, struct str *out);
/* --hash PATH: the order-free content hash of a checkpoint (a step folder, or the newest of a stage's folder) or of the safetensors in a
 * directory; equal on every grid. Errors: IO, FORMAT, DECK. */
enum status stage_hash(const char *path, struct str *out);
