/* TEST ranks=1,3 tier=1 */
/* par/: a healthy job under the watchdog ends as without it. With arguments it is the job that t408 watches:
 * t407-watchdog DEADLINE RANK sleep|stop|fail, or with RANK STATUS one that aborts. */
#include <signal.h>
#include <unistd.h>

#include "base/clock.h"
#include "tap_mpi.h"

/* Rank `guilty` stays away from a collective, asleep, stopped or with an error; all have said where they are. */
static int hang(double deadline, int guilty, const char *how) {
    struct par_grid g;
    if (par_grid_create_all(1, 1, 1, &g) != TM_OK || par_watchdog_start(deadline) != TM_OK) return 1;
    par_note("ptq", 3, par_rank() == guilty ? "forward" : "reduce");
    usleep((useconds_t)(fmin(2, deadline / 2) * 1e6)); /* two heartbeats */
    if (par_rank() == guilty && !strcmp(how, "stop")) raise(SIGSTOP);
    if (par_rank() == guilty && !strcmp(how, "sleep")) sleep(60);
    if (par_rank() == guilty) (void)par_agree_all(TM_FAIL(TM_ERR_DEVICE, "the device of this rank is lost"));
    int64_t one = 1;
    (void)par_reduce_i64(!strcmp(how, "fail") ? g.dp_group : g.world, &one, 1, PAR_SUM);
    par_finish();
    return 0;
}

int main(int argc, char **argv) {
    if (tap_mpi_start(&argc, &argv)) return 1;
    if (argc == 3) {
        if (par_rank() == atoi(argv[1])) par_abort((enum status)atoi(argv[2]));
        sleep(60);
    }
    if (argc == 4) return hang(atof(argv[1]), atoi(argv[2]), argv[3]);
    is_status(par_watchdog_start(-1), TM_ERR_DECK);
    is_status(par_watchdog_start(NAN), TM_ERR_DECK);
    is_status(par_watchdog_start(0), TM_OK);
    double start = clock_seconds();
    must(par_watchdog_start(2));
    for (int i = 0; i < 40; i++) {
        par_note("healthy", i, "agree");
        if (par_rank() == i % par_size()) usleep(15000);
        if (par_agree_all(TM_OK) != TM_OK) break;
    }
    if (par_size() > 1) usleep(2300000); /* longer than the deadline, but in no communication */
    is_status(par_agree_all(TM_OK), TM_OK);
    par_watchdog_stop();
    par_watchdog_stop();
    must(par_watchdog_start(5)); /* again; par_finish ends it */
    ok(par_size() == 1 || clock_seconds() - start > 2, "40 steps of 15 ms and a pause pass a deadline of 2 s");
    return tap_mpi_done();
}
