#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=60
# Processes that srun started as worlds of one rank are told so; an mpirun inside a job step, and a step of one task, are fine.
set -u
. tests/tap.sh
program=$BUILD/tests/t400-coll
log=$(SLURM_NTASKS=4 SLURM_STEP_ID=0 "$program" start 2>&1)
ok $(($? != 1)) "four tasks, four worlds of one: refused"
grep -q 'ERR_DECK: srun started 4 tasks, but MPI sees each as a world of one rank.*--mpi=pmix' <<<"$log"
ok $? "with a hint"
log=$(SLURM_NTASKS=4 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 "$program" start 2>&1)
ok $? "a step of one task in a job of four"
log=$(SLURM_NTASKS=4 "$program" start 2>&1)
ok $? "a batch script that runs it without srun"
log=$(SLURM_NTASKS=4 SLURM_STEP_ID=0 mpirun -np 1 "$program" start 2>&1)
ok $? "mpirun -np 1 inside a step"
finish
