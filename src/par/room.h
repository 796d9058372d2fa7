/* Private to the room: groups, the accounting and watching of calls, MPI's return codes. */
#pragma once

#include <mpi.h>

#include "dev/comm.h"
#include "par/channel.h"
#include "par/par.h"

enum par_kind {
#define KIND(name) KIND_##name,
#include "par/kinds.def" // IWYU pragma: keep
#undef KIND
    KIND_COUNT
};

/* Counts of MPI 3.1 are int: longer transfers are made in chunks of this size. Also the scratch memory of a group, which is taken once
 * when the group is made, so that no collective allocates (a rank that fails to would strand the others). */
enum { CHUNK_BYTES = 4 << 20, CHUNK_F32 = CHUNK_BYTES / 4 };
/* Tags above PAR_MAX_TAG, for messages of this room itself. */
enum { TAG_TREE = PAR_MAX_TAG + 1, TAG_BOX, TAG_ID };

struct par_request {
    bool used, send;
    MPI_Request mpi;
    struct dev *dev;
    dptr x;
    int64_t bytes;
    void *host; /* mapped until the wait */
    int peer;
    struct dev_comm *comm; /* which carries it; NULL: MPI */
    void *ticket;
};

/* The communicators that the devices of a group have for themselves (comm.c). Neighbours on the ring of ranks have one for each direction,
 * so that a message that waits holds up no other. */
enum { NEXT, BEFORE, NEIGHBOURS };
enum { COMM_SENDER, COMM_RECEIVER }; /* the ranks of a communicator of one direction */
struct group_comms {
    struct dev_comm *all;                                 /* of the whole group; NULL: MPI serves */
    struct dev_comm *send[NEIGHBOURS], *recv[NEIGHBOURS]; /* NULL: MPI */
    dptr scratch;                                         /* device memory of `all` */
    int64_t chunk;                                        /* its size in floats */
    double began; /* when the first sum beside the queue was; 0: none since the last join */
};

struct par_group {
    const char *name; /* "world", "tp", ...: a literal */
    MPI_Comm comm;    /* owned */
    int rank, size;
    int *world_rank;                     /* [size] */
    int *counts;                         /* [4 * size]: scratch for the v-collectives */
    int64_t *lengths;                    /* [size]: scratch of comms_gather's callers */
    float **rows;                        /* [size]: scratch of the local tree */
    void *scratch;                       /* CHUNK_BYTES; NULL in a group of one */
    const struct par_listener *listener; /* an imagined group: there is no comm */
    struct group_comms comms;
    struct par_request request[PAR_MAX_REQUESTS];
};

/* Takes over `comm`; frees it on failure. Local, apart from MPI_Comm_free. */
enum status group_create(MPI_Comm comm, const char *name, struct par_group **out);
void group_destroy(struct par_group **g);
struct par_group *group_world(void); /* NULL before par_start */
/* A NULL group (an imagined grid, or MPI not started) has nobody to talk to, like a group of one. */
static inline bool group_alone(const struct par_group *g) { return !g || g->size == 1 || g->listener; }
/* imagine.c: is it an imagined group? Then the traffic was told. */
bool group_told(const struct par_group *g, enum par_traffic_kind kind, int64_t bytes, int peer, int tag);

/* A group call, for the counters and the watchdog: begin, work, return call_end(&c, status). `peer` is a rank of the group or -1. */
struct call {
    enum par_kind kind;
    double start;
};
struct call call_begin(enum par_kind kind, const struct par_group *g, int peer, int64_t bytes);
enum status call_end(const struct call *c, enum status st);

/* TRY_MPI(g, MPI_X(...)): return ERR_COMM with the call's name, the group and MPI's own words unless it succeeds. */
enum status comm_check(int rc, const char *call, const struct par_group *g);
#define TRY_MPI(g, call) TM_TRY(comm_check((call), #call, (g)))

/* coll.c, uncounted. */
enum status coll_bcast(struct par_group *g, void *bytes, int64_t n, int root);
enum status coll_check_root(const struct par_group *g, int root);
/* Blocking transfers of any length over a group (p2p.c), uncounted: what par_send and the boxes use. */
enum status p2p_send(struct par_group *g, const void *bytes, int64_t n, int to, int tag);
enum status p2p_recv(struct par_group *g, void *bytes, int64_t n, int from, int tag);

/* comm.c: close what a group has; which communicator carries messages to (send) or from rank `peer`, NULL: MPI. */
void comms_close(struct par_group *g);
struct dev_comm *comms_to(const struct par_group *g, int peer, bool send);
/* device.c: gather counts[r] floats of rank r to all on g->comms.all, in rank order. */
enum status comms_gather(struct par_group *g, struct dev *d, dptr mine, dptr out, const int64_t *counts);

/* The watchdog's view (watchdog.c): what the main thread waits for. Both cost one branch while the watchdog is off. */
void watch_enter(enum par_kind kind, const struct par_group *g, int peer);
void watch_progress(void); /* an MPI call has returned: the clock starts again */
void watch_leave(void);
/* This rank waits with an error in an agreement. Where the others wait in something else, which it left, nobody will ever go on: after a while
 * the watchdog ends the job with that error. */
void watch_failed(enum status st);
/* A device's own communicator to keep an eye on, from its opening to its closing; `g` names it. INTERNAL: too many. */
enum status watch_comm(struct dev_comm *c, const struct par_group *g);
void watch_comm_end(const struct dev_comm *c);
