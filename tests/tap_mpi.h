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

/* The device of this run: TEMPER_TEST_BACKEND, one thread; of several GPUs the one of this rank. */
static inline enum status tap_device(struct dev **out) {
    const char *name = getenv("TEMPER_TEST_BACKEND");
    enum dev_backend b = dev_backend_named(name);
    int n = 1;
    if (b == DEV_CUDA) TM_TRY(dev_cuda_devices(&n));
    return dev_open(
        &(struct dev_options){.backend = b, .threads = 1, .device = par_local_rank() % n, .invariant = true}, out);
}

/* The same, and the grid knows it: with a GPU for each rank they have communicators of their own. */
static inline void tap_devices_all(struct par_grid *g, struct dev **out) {
    const char *devices = getenv("CUEMU_DEVICES");
    enum status st = par_agree_all(tap_device(out));
    if (st == TM_OK) st = par_grid_devices_all(g, *out, true, 20);
    must(st);
    bool own = dev_backend(*out) == DEV_CUDA && par_size() > 1 && devices && atoi(devices) >= par_size();
    ok(par_grid_has_comms(g) == own, "the devices have %s", own ? "communicators of their own" : "none of their own");
}
