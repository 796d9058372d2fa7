/* Groups of an imagined grid: who would talk to whom, told to a listener, with nobody there. */
#include "base/mem.h"
#include "par/room.h"

static enum status imagine(const char *name, int size, int rank, const struct par_listener *l, struct par_group **out) {
    if (size == 1) return TM_OK;
    TM_TRY(mem_alloc(out, 1, sizeof **out));
    **out = (struct par_group){.name = name, .comm = MPI_COMM_NULL, .rank = rank, .size = size, .listener = l};
    return TM_OK;
}

enum status par_grid_listen(struct par_grid *g, const struct par_listener *l) {
    enum status st = imagine("tp", g->tp, g->tp_rank, l, &g->tp_group);
    if (st == TM_OK) st = imagine("dp", g->dp, g->dp_rank, l, &g->dp_group);
    if (st == TM_OK) st = imagine("pp", g->pp, g->pp_rank, l, &g->pp_group);
    if (st != TM_OK) par_grid_destroy(g);
    return st;
}

bool group_told(const struct par_group *g, enum par_traffic_kind kind, int64_t bytes, int peer, int tag) {
    if (!g || !g->listener) return false;
    g->listener->tell(g->listener->context, &(struct par_traffic){kind, g->name, g->size, peer, tag, bytes});
    return true;
}
