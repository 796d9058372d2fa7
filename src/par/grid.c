/* The grid: sizes, places and groups. */
#include <string.h>

#include "base/mem.h"
#include "base/size.h"
#include "par/room.h"

/* ---- groups ---- */

/* Which world rank each rank of comm is: for messages. */
static enum status find_world_ranks(struct par_group *g) {
    MPI_Group all, mine;
    TRY_MPI(g, MPI_Comm_group(MPI_COMM_WORLD, &all));
    TRY_MPI(g, MPI_Comm_group(g->comm, &mine));
    for (int r = 0; r < g->size; r++) TRY_MPI(g, MPI_Group_translate_ranks(mine, 1, &r, all, &g->world_rank[r]));
    TRY_MPI(g, MPI_Group_free(&mine));
    TRY_MPI(g, MPI_Group_free(&all));
    return TM_OK;
}

static enum status group_fill(struct par_group *g) {
    TRY_MPI(g, MPI_Comm_rank(g->comm, &g->rank));
    TRY_MPI(g, MPI_Comm_size(g->comm, &g->size));
    size_t n = (size_t)g->size;
    TM_TRY(mem_alloc(&g->world_rank, n, sizeof *g->world_rank));
    TM_TRY(mem_alloc(&g->counts, 4 * n, sizeof *g->counts));
    TM_TRY(mem_alloc(&g->lengths, n, sizeof *g->lengths));
    TM_TRY(mem_alloc(&g->rows, n, sizeof *g->rows));
    if (n > 1) TM_TRY(mem_alloc(&g->scratch, CHUNK_BYTES, 1));
    return find_world_ranks(g);
}

enum status group_create(MPI_Comm comm, const char *name, struct par_group **out) {
    struct par_group *g;
    enum status st = mem_alloc(&g, 1, sizeof *g);
    *out = NULL;
    if (st != TM_OK) {
        MPI_Comm_free(&comm);
        return st;
    }
    g->name = name;
    g->comm = comm;
    st = group_fill(g);
    if (st != TM_OK) group_destroy(&g);
    *out = g;
    return st;
}

void group_destroy(struct par_group **p) {
    struct par_group *g = *p;
    if (!g) return;
    comms_close(g);
    if (!g->listener) MPI_Comm_free(&g->comm);
    mem_free(&g->world_rank);
    mem_free(&g->counts);
    mem_free(&g->lengths);
    mem_free(&g->rows);
    mem_free(&g->scratch);
    mem_free(p);
}

int par_group_rank(const struct par_group *g) { return g ? g->rank : 0; }
int par_group_size(const struct par_group *g) { return g ? g->size : 1; }

/* ---- the grid ---- */

static enum status check_sizes(int world, int tp, int cp, int pp) {
    const struct {
        const char *key;
        int value;
    } size[] = {{"grid.tp", tp}, {"grid.cp", cp}, {"grid.pp", pp}};
    for (size_t i = 0; i < 3; i++)
        if (size[i].value < 1) return TM_FAIL(TM_ERR_DECK, "%s = %d: expected >= 1", size[i].key, size[i].value);
    int64_t product;
    if (!size_mul_i64(tp, cp, &product) || !size_mul_i64(product, pp, &product) || world % product != 0)
        return TM_FAIL(TM_ERR_DECK, "grid.tp*%sgrid.pp = %.0f does not divide the %d rank%s", cp > 1 ? "grid.cp*" : "",
                       (double)tp * cp * pp, world, world == 1 ? "" : "s");
    return TM_OK;
}

enum status par_grid_imagine(int world, int rank, int tp, int cp, int pp, struct par_grid *out) {
    memset(out, 0, sizeof *out);
    TM_TRY(check_sizes(world, tp, cp, pp));
    if (rank < 0 || rank >= world) return TM_FAIL(TM_ERR_INTERNAL, "rank %d of a world of %d", rank, world);
    int dp = world / (tp * cp * pp);
    *out = (struct par_grid){
        .tp = tp,
        .cp = cp,
        .dp = dp,
        .pp = pp,
        .tp_rank = rank % tp,
        .cp_rank = rank / tp % cp,
        .dp_rank = rank / (tp * cp) % dp,
        .pp_rank = rank / (tp * cp * dp),
        .invariant = tp <= PAR_TP_SEGMENTS && (tp & (tp - 1)) == 0,
    };
    return TM_OK;
}

/* One split of the world; a failure to set the group up is this rank's own and is kept in *st, so that the next splits still meet. */
static void split(int color, const char *name, struct par_group **out, enum status *st) {
    struct par_group *w = group_world();
    MPI_Comm comm;
    enum status s = comm_check(MPI_Comm_split(w->comm, color, w->rank, &comm), "MPI_Comm_split", w);
    if (s == TM_OK) s = group_create(comm, name, out);
    if (*st == TM_OK) *st = s;
}

enum status par_grid_create_all(int tp, int cp, int pp, struct par_grid *out) {
    TM_TRY(par_grid_imagine(par_size(), par_rank(), tp, cp, pp, out)); /* fails alike on all ranks */
    struct par_grid *g = out;
    enum status st = TM_OK;
    if (!group_world()) return TM_FAIL(TM_ERR_INTERNAL, "a grid before par_start");
    g->world = group_world();
    int line = g->cp_rank + g->cp * (g->dp_rank + g->dp * g->pp_rank);
    split(line, "tp", &g->tp_group, &st);
    split(g->tp_rank + g->tp * (g->cp_rank + g->cp * g->pp_rank), "dp", &g->dp_group, &st);
    split(g->tp_rank + g->tp * (g->cp_rank + g->cp * g->dp_rank), "pp", &g->pp_group, &st);
    split(g->dp_rank, "model", &g->model_group, &st);
    st = par_agree_all(st);
    if (st != TM_OK) par_grid_destroy(out);
    return st;
}

void par_grid_destroy(struct par_grid *g) {
    group_destroy(&g->tp_group);
    group_destroy(&g->dp_group);
    group_destroy(&g->pp_group);
    group_destroy(&g->model_group);
    g->world = NULL;
}
