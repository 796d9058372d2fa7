/* Measuring messages between ranks, and files. */
#pragma once

#include "deck/machine.h"
#include "par/par.h"

/* Sets m->node and m->network: half of a round trip of 8 bytes, and the rate of a sum of 8 MiB over all ranks (its 2 (P - 1) / P n bytes of a rank
 * over the seconds; where ranks are on several hosts that is the network's, and a round trip of 4 MiB the node's). Nothing of one rank alone.
 * Collective over the world. */
enum status links_measure_all(const struct par_grid *g, struct dev *d, struct deck_machine *m);
/* Sets m->files.write_gbs and read_gbs: one rank of each host writes 64 MiB to `folder` with fsync, and reads them back from the disk. Collective
 * over the world. Errors: IO. */
enum status links_measure_files_all(const char *folder, struct deck_machine *m);
