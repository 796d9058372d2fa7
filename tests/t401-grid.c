/* TEST ranks=1,8 tier=1 */
/* par/: places on the grid, groups, sizes that do not fit. */
#include "tap_mpi.h"

static void places(void) {
    struct par_grid g;
    /* rank = tp + TP*(cp + CP*(dp + DP*pp)), written out for TP2 DP2 PP2 */
    static const int place[8][3] = {{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {1, 1, 0},
                                    {0, 0, 1}, {1, 0, 1}, {0, 1, 1}, {1, 1, 1}};
    for (int r = 0; r < 8; r++) {
        must(par_grid_imagine(8, r, 2, 1, 2, &g));
        ok(g.tp_rank == place[r][0] && g.dp_rank == place[r][1] && g.pp_rank == place[r][2] && g.cp_rank == 0,
           "rank %d of 2x2x2", r);
    }
    ok(g.dp == 2 && !g.tp_group && !g.world, "an imagined grid has sizes and no groups");
    must(par_grid_imagine(1024, 1023, 8, 2, 4, &g));
    ok(g.dp == 16 && g.tp_rank == 7 && g.cp_rank == 1 && g.dp_rank == 15 && g.pp_rank == 3, "the last of 1024");
    must(par_grid_imagine(1024, 8 * (1 + 2 * (5 + 16 * 2)) + 3, 8, 2, 4, &g));
    ok(g.tp_rank == 3 && g.cp_rank == 1 && g.dp_rank == 5 && g.pp_rank == 2, "one in the middle");
    static const int tp[] = {1, 2, 3, 4, 6, 8, 16};
    static const bool invariant[] = {true, true, false, true, false, true, false};
    for (int i = 0; i < 7; i++) {
        must(par_grid_imagine(96, 0, tp[i], 1, 1, &g));
        ok(g.invariant == invariant[i], "TP %d %s the fixed tree", tp[i], invariant[i] ? "keeps" : "leaves");
    }
}

static void bad_sizes(void) {
    struct par_grid g;
    is_status(par_grid_imagine(4, 0, 3, 1, 2, &g), TM_ERR_DECK);
    is_str(status_message(), "grid.tp*grid.pp = 6 does not divide the 4 ranks", "message");
    is_status(par_grid_imagine(8, 0, 2, 3, 1, &g), TM_ERR_DECK);
    is_str(status_message(), "grid.tp*grid.cp*grid.pp = 6 does not divide the 8 ranks", "message with cp");
    is_status(par_grid_imagine(4, 0, 0, 1, 2, &g), TM_ERR_DECK);
    is_str(status_message(), "grid.tp = 0: expected >= 1", "message");
    is_status(par_grid_imagine(4, 0, 1, 1, -2, &g), TM_ERR_DECK);
    is_status(par_grid_imagine(4, 0, 1 << 30, 1 << 30, 1 << 30, &g), TM_ERR_DECK);
    is_status(par_grid_imagine(4, 0, 65536, 65536, 1, &g), TM_ERR_DECK);
    is_status(par_grid_imagine(4, 4, 1, 1, 1, &g), TM_ERR_INTERNAL);
    is_status(par_grid_create_all(par_size() + 1, 1, 1, &g), TM_ERR_DECK);
}

/* Every group lists the world ranks that it should, in order: the tp index runs first. */
static void groups(void) {
    struct par_grid g;
    int r = par_rank();
    must(par_grid_create_all(2, 1, 2, &g));
    struct {
        struct par_group *group;
        int size, rank, first, step;
    } want[] = {{g.tp_group, 2, r % 2, r - r % 2, 1},
                {g.dp_group, 2, r / 2 % 2, r - r / 2 % 2 * 2, 2},
                {g.pp_group, 2, r / 4, r % 4, 4},
                {g.world, 8, r, 0, 1}};
    for (size_t i = 0; i < 4; i++) {
        int64_t mine = r, all[8];
        is_int(par_group_size(want[i].group), want[i].size, "group size");
        is_int(par_group_rank(want[i].group), want[i].rank, "group rank");
        must(par_allgather_bytes(want[i].group, &mine, sizeof mine, all));
        bool right = true;
        for (int k = 0; k < want[i].size; k++) right &= all[k] == want[i].first + want[i].step * k;
        ok(right, "group %zu has the right members", i);
    }
    int64_t mine = r, all[4], d = r / 2 % 2 * 2;
    must(par_allgather_bytes(g.model_group, &mine, sizeof mine, all));
    ok(par_group_size(g.model_group) == 4 && all[0] == d && all[1] == d + 1 && all[2] == d + 4 && all[3] == d + 5,
       "model group: one DP replica");
    par_grid_destroy(&g);
    ok(!g.tp_group && !g.world, "destroyed");
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    places();
    bad_sizes();
    if (par_size() == 8) groups();
    return tap_mpi_done();
}
