/* Communicators of the devices' own (NCCL on GPUs), for the message-passing room: between ranks that each have a device.
 *
 * What is queued here runs after what the device was given before, and the call returns at once; operations that are queued later see the
 * result. Addresses are of device memory. Errors: COMM, TIMEOUT (the deadline), DEVICE; those of a transfer itself come later, at
 * dev_comm_poll. All ranks of a communicator make the same calls in the same order with equal arguments. Local on the device, collective over
 * the communicator, unless said otherwise. */
#pragma once

#include "dev/dev.h"

struct dev_comm;

enum { DEV_COMM_ID = 128 };

struct dev_comm_options {
    const void *id; /* DEV_COMM_ID bytes that one of the ranks made with dev_comm_id and gave to the others */
    int ranks, rank;
    size_t scratch;    /* bytes of device memory that come with it: dev_comm_scratch */
    bool side;         /* serves dev_comm_start alone */
    double deadline_s; /* for making and for ending it; 0 = none */
};

/* Whether the device has them: false on every backend but cuda, and there when the plugin was built without NCCL. Local. */
bool dev_comm_serves(const struct dev *d);
enum status dev_comm_id(struct dev *d, void *id); /* Local */
enum status dev_comm_open(struct dev *d, const struct dev_comm_options *o, struct dev_comm **out);
void dev_comm_close(struct dev_comm **c);                 /* before the device is closed */
dptr dev_comm_scratch(struct dev_comm *c, size_t *bytes); /* Local */

/* From any thread. Abort lets a transfer that waits for a lost peer end. Poll tells errors that came after their call, and since how many
 * seconds the last transfer is queued and not done (0: it is done). Local. */
enum status dev_comm_abort(struct dev_comm *c);
enum status dev_comm_poll(struct dev_comm *c, double *seconds);

/* Messages: those between begin and end travel together, in any order. */
enum status dev_comm_group_begin(struct dev_comm *c);
enum status dev_comm_group_end(struct dev_comm *c);
enum status dev_comm_send(struct dev_comm *c, dptr x, size_t bytes, int to);
enum status dev_comm_recv(struct dev_comm *c, dptr x, size_t bytes, int from);
/* out[ranks][bytes] <- `mine` of each rank; mine may be its own place in out. */
enum status dev_comm_gather(struct dev_comm *c, dptr mine, dptr out, size_t bytes);
enum status dev_comm_bcast(struct dev_comm *c, dptr x, size_t bytes, int root);
/* In place, fp32, as the functions of the same names in par.h: exact in any order. */
enum status dev_comm_sum_one_nonzero(struct dev_comm *c, dptr x, int64_t n);
enum status dev_comm_max(struct dev_comm *c, dptr x, int64_t n);
enum status dev_comm_argmax(struct dev_comm *c, dptr value, dptr index, int64_t n);

/* A message beside the queue: it begins after what is queued now and runs while later operations do. dev_comm_wait, once for each start,
 * makes what is queued after it wait for the message. Messages of one communicator keep their order. */
enum status dev_comm_start(struct dev_comm *c, bool send, dptr x, size_t bytes, int peer, void **ticket);
enum status dev_comm_wait(struct dev_comm *c, void *ticket);

/* Sums beside the queue: between begin and end, operations that want no work space and calls of this communicator are queued beside what the
 * device was given before (which they wait for) and what it is given later. After dev_comm_join, what is queued waits for all of them. No
 * copies from or to the host between begin and end; every begin that gave OK needs its end. */
enum status dev_comm_beside_begin(struct dev_comm *c);
enum status dev_comm_beside_end(struct dev_comm *c);
enum status dev_comm_join(struct dev_comm *c);
/* Under dev_options.profile, after dev_comm_join: waits for the device; when the stretches since the last call (*n, at most `most`) began and ended,
 * in seconds from the beginning of the first. Elsewhere *n is 0. */
enum status dev_comm_times(struct dev_comm *c, double (*times)[2], int most, int *n);

/* Which GPU this is, as the PCI bus has it ("0000:17:00.0"); "" on other backends. Local. */
const char *dev_address(const struct dev *d);
/* The same of device number `device` of dev_cuda_devices, before it is opened: 32 bytes. Local. */
enum status dev_cuda_address(int device, char *out);
