/* The side channel: heartbeats by UDP, so that a hung or cut MPI can still be reported on. Private to the room.
 *
 * Every rank sends to at most CHANNEL_MONITORS ranks spread over the world (all of them in a small one), so the cost per rank is constant.
 * A beat is accepted only with the right magic, size, job number and rank. One binary on one architecture: beats travel as structs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

struct par_group;

enum { CHANNEL_MONITORS = 8, BEAT_TEXT = 48, BEAT_WHY = 192 };

/* What a rank says of itself. */
struct beat {
    uint32_t magic;
    int32_t rank;
    uint64_t job;
    int64_t step;
    double waited_s;       /* how long the present communication lasts; < 0: in none */
    double noted_s;        /* age of the last par_note */
    int32_t peer;          /* world rank that it waits for, or -1 */
    char stage[BEAT_TEXT]; /* the last par_note */
    char operation[BEAT_TEXT];
    char waits_in[BEAT_TEXT]; /* "tree_sum over tp" */
    char host[BEAT_TEXT];
    int32_t
        failed; /* the error that it brought to the agreement it waits in, or 0. (No padding: beats go out as they are) */
    char why[BEAT_WHY]; /* and its message */
};

/* Open the socket and learn the monitors' addresses. Collective over the world's group. `host` numbers the machines. No network is no
 * error: the channel is then closed, and a watchdog knows its own rank only. */
enum status channel_exchange(struct par_group *world, int host);
void channel_close(void);
int channel_fd(void);                   /* -1 when closed */
int channel_monitors(void);             /* how many there are */
int channel_monitor_rank(int k);        /* the world rank of monitor k */
void channel_send(struct beat *b);      /* to all monitors; never blocks, losses are fine. Fills in magic, job, rank */
bool channel_receive(struct beat *out); /* the next valid beat; false when there is none now */
