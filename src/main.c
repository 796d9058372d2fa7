/* temper: parse the command line, start MPI, run the deck's stages, map the status to the exit code. */
#include <stdio.h>

#include "base/log.h"
#include "base/stop.h"
#include "par/par.h"
#include "stage/cli.h"
#include "stage/measure.h"
#include "stage/run.h"

int main(int argc, char **argv) {
    struct stage_options o;
    bool finished;
    enum status st = stage_cli(argc, argv, &o, &finished); /* commands that never start MPI are done here */
    if (finished || st != TM_OK) {
        if (st != TM_OK) fprintf(stderr, "temper: %s\n", status_message());
        stage_cli_free(&o);
        return (int)st;
    }
    stop_catch_signals(); /* before MPI starts, which takes a while */
    st = par_start(&argc, &argv);
    if (st != TM_OK) {
        fprintf(stderr, "temper: %s\n", status_message());
        return (int)st;
    }
    log_set_rank(par_rank());
    st = o.probe ? stage_measure_all(&o) : stage_run_deck_all(&o);
    if (st == TM_STOPPED)
        log_warn("%s", status_message());
    else if (st != TM_OK && par_rank() == 0)
        log_error("%s: %s", status_name(st), status_message());
    par_finish();
    stage_cli_free(&o);
    return (int)st;
}
