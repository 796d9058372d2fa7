/* Monotonic time. */
#pragma once

/* Seconds since an arbitrary start, monotonic, never 0. */
double clock_seconds(void);
