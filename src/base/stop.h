/* The wish to stop: a signal, a file that appears, a time that comes. Every long loop asks; what stops, stops by the status TM_STOPPED.
 *
 * SIGUSR1 wishes for a save, SIGUSR2 and SIGTERM for a stop; a second request to stop ends the process at once. All Local, of the main thread. */
#pragma once

#include <stdbool.h>

#include "base/status.h"

void stop_catch_signals(void);
/* The run has ended: srun ends the other ranks as soon as one exits with 75, and that must not change their exit codes. */
void stop_ignore_signals(void);
/* The existence of this file is a wish (looked for twice a second); NULL: none. The text is copied. */
void stop_set_file(const char *path);
/* From clock_seconds() = at on there is a wish, with `why` (a literal) as its reason; 0: never. */
void stop_set_time(double at, const char *why);
/* The reason, for a message ("a signal"), or NULL. */
const char *stop_reason(void);
/* Did SIGUSR1 come since the last call? */
bool stop_take_save(void);
/* TM_STOPPED when there is a wish: for loops whose work is done again by the next start. Fault for tests: stop:<site>. */
enum status stop_check(const char *site);
