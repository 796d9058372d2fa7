/* TAP under mpirun: rank 0 prints; a failure on any rank is shown on its stderr and fails the program on all.
 *
 *     int main(int argc, char **argv) {
 *         if (tap_mpi_start(&argc, &argv)) return 1;
 *         ...                        // the same assertions, in the same order, on all ranks
 *         return tap_mpi_done();
 *     } */
#pragma once

#include "base/mem.h"
#include "dev/dev.h"
#include "par/par.h"
#include "tap.h"

/* MPI and its plugins keep memory to the end, past what a leak checker can tell; ours is counted (tap_mpi_done). */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }

/* Start MPI. Returns 1, with the reason printed, if that fails. */
static inline int tap_mpi_start(int *argc, char ***argv) {
    enum status st = par_start(argc, argv);
    if (st != TM_OK) {
        printf("Bail out! %s: %s\n", status_name(st), status_message());
        return 1;
    }
    tap_quiet_ = par_rank() != 0;
    return 0;
}

/* Agree on the failures, end MPI, check that all memory was given back, print the plan. The exit code, on every rank. */
static inline int tap_mpi_done(void) {
    enum status mine = TM_OK;
    if (tap_failed_) mine = TM_FAIL(TM_ERR_INTERNAL, "%d of %d assertions failed", tap_failed_, tap_count_);
    enum status all = par_agree_all(mine);
    ok(all == TM_OK, "no assertion failed on any of %d ranks", par_size());
    par_finish();
    ok(mem_bytes() == 0, "all memory is given back (%zu bytes left)", mem_bytes());
    return tap_done();
}

/* The device of this run: TEMPER_TEST_BACKEND, one thread. */
static inline enum status tap_device(struct dev **out) {
    const char *name = getenv("TEMPER_TEST_BACKEND");
    enum dev_backend b = dev_backend_named(name);
    return dev_open(&(struct dev_options){.backend = b, .threads = 1, .invariant = true}, out);
}
