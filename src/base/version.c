/* Which build this is: the makefile defines TEMPER_VERSION for this file alone. */
#include "base/version.h"

const char *version_string(void) { return TEMPER_VERSION; }
