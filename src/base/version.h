/* Which build this is. */
#pragma once

/* `git describe` of the sources, or "unknown". */
const char *version_string(void);
