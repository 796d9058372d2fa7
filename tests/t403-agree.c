/* TEST ranks=1,2,4 tier=1 */
/* par/: agreement over every pattern of statuses: the worst wins, errors before a clean stop, the lowest rank among equals. */
#include "tap_mpi.h"

enum { KINDS = 4 };
/* In rising order of severity: 75 is the largest exit code and still the mildest of the three. */
static const enum status status_of[KINDS] = {TM_OK, TM_STOPPED, TM_ERR_DATA, TM_ERR_NUMERIC};

static void pattern(int code) {
    int p = par_size(), kind[4], worst = 0, guilty = 0;
    for (int r = 0; r < p; r++, code /= KINDS) {
        kind[r] = code % KINDS;
        if (kind[r] > worst) {
            worst = kind[r];
            guilty = r;
        }
    }
    char text[64], want[64];
    enum status mine = status_of[kind[par_rank()]];
    if (mine != TM_OK) (void)TM_FAIL(mine, "%s here", status_name(mine));
    enum status all = par_agree_all(mine);
    snprintf(text, sizeof text, "%s", status_message());
    char prefix[16] = "";
    if (guilty != par_rank()) snprintf(prefix, sizeof prefix, "rank %d: ", guilty);
    snprintf(want, sizeof want, "%s%s here", prefix, status_name(status_of[worst]));
    ok(all == status_of[worst] && (worst == 0 || !strcmp(text, want)), "%d%d%d%d: %s \"%s\"", kind[0],
       p > 1 ? kind[1] : 0, p > 2 ? kind[2] : 0, p > 3 ? kind[3] : 0, status_name(all), worst ? text : "");
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    freopen("/dev/null", "w", stderr); /* the losers' warnings */
    int patterns = 1;
    for (int r = 0; r < par_size(); r++) patterns *= KINDS;
    for (int i = 0; i < patterns; i++) pattern(i);
    struct par_grid g;
    if (par_size() == 4) {
        must(par_grid_create_all(2, 1, 1, &g));
        enum status mine = TM_OK;
        if (par_rank() == 3) mine = TM_FAIL(TM_ERR_IO, "disk");
        bool hit = par_rank() >= 2;
        is_status(par_agree(g.tp_group, mine), hit ? TM_ERR_IO : TM_OK);
        if (par_rank() == 2) is_str(status_message(), "rank 3: disk", "a group names the world rank");
        par_grid_destroy(&g);
    }
    is_status(par_agree(NULL, TM_ERR_DECK), TM_ERR_DECK);
    return tap_mpi_done();
}
