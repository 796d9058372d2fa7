/* temper --probe: a machine file of the computer that it runs on. */
#pragma once

#include "stage/run.h"

/* Runs small stages of this program in a folder of its own in the working directory (removed at the end), and takes the seconds that the device's
 * counters and the stages themselves have; measures memory, messages between the ranks and files beside them. About 20 s. Writes o->out, or prints.
 * Collective over the world. Errors: IO, and those of the stages. */
enum status stage_measure_all(const struct stage_options *o);
