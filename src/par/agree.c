/* Agreement: one status for all ranks, with the guilty rank's message. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "par/room.h"

enum { MESSAGE_BYTES = 2048 };

/* Worse is larger: OK < STOPPED < errors by exit code. The exit code is the low byte. */
static int severity(enum status st) {
    int family = st == TM_OK ? 0 : st == TM_STOPPED ? 1 : 2;
    return family << 8 | (int)st;
}

/* Every rank gets the message of rank `guilty` of g. What this rank had to say itself is logged first, if that was something else. */
static enum status share_message(struct par_group *g, enum status mine, int guilty) {
    char own[MESSAGE_BYTES] = {0}, message[MESSAGE_BYTES] = {0}; /* all of them are sent */
    snprintf(own, sizeof own, "%s", mine == TM_OK ? "" : status_message());
    if (guilty == g->rank) memcpy(message, own, sizeof message);
    TRY_MPI(g, MPI_Bcast(message, sizeof message, MPI_CHAR, guilty, g->comm));
    if (guilty == g->rank) return TM_OK;
    message[sizeof message - 1] = '\0';
    if (*own && strcmp(own, message) != 0) log_warn("%s (%s)", own, status_name(mine));
    char prefixed[MESSAGE_BYTES + 32];
    snprintf(prefixed, sizeof prefixed, "rank %d: %s", g->world_rank[guilty], message);
    status_set_message(prefixed);
    return TM_OK;
}

static enum status agree(struct par_group *g, enum status mine) {
    struct {
        int severity, rank;
    } in = {severity(mine), g->rank}, out;
    TRY_MPI(g, MPI_Allreduce(&in, &out, 1, MPI_2INT, MPI_MAXLOC, g->comm)); /* ties: the lower rank */
    enum status worst = (enum status)(out.severity & 255);
    if (worst != TM_OK) TM_TRY(share_message(g, mine, out.rank));
    return worst;
}

enum status par_agree(struct par_group *g, enum status mine) {
    if (group_alone(g)) return mine;
    struct call c = call_begin(KIND_agree, g, -1, 2 * (int64_t)sizeof(int));
    if (mine != TM_OK && mine != TM_STOPPED) watch_failed(mine);
    return call_end(&c, agree(g, mine));
}

enum status par_agree_all(enum status mine) { return par_agree(group_world(), mine); }
