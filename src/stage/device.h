/* The device of a rank: which one it is, the cores near it, and what the ranks' devices say to each other by. */
#pragma once

#include "stage/run.h"

/* Opens r->dev by the deck; where that is a GPU, binds this process to the cores near it. Local. Errors: DEVICE, UNSUPPORTED, MEMORY. */
enum status stage_device_open(struct stage_run *r);
/* After r->grid and r->dev: the devices' own communicators where they serve, and a line of each rank's GPU in the log. Collective over the
 * world. Errors: DEVICE (two ranks on one GPU without device.share, ranks of different backends), COMM, TIMEOUT. */
enum status stage_device_join_all(struct stage_run *r);
