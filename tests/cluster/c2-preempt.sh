#!/usr/bin/env bash
# CLUSTER limit=200
# Preemption: a job of a higher partition takes the nodes; the lower one stops at a checkpoint, is queued again and ends with the same bytes.
set -u
# shellcheck source=tests/cluster/cluster.sh
. "$(dirname "$0")/cluster.sh"
with_slurm 2
job_deck 30

trial() { # trial NAME SBATCH-OPTIONS...: a job that is preempted
    local low
    submit "$1" --partition=low --nodes=2 --ntasks-per-node=1 "${@:2}"
    low=$job
    check "$1: a job in the lower partition" hold "$1"
    high=$(sbatch --parsable --partition=high --nodes=2 --exclusive --output=/dev/null --wrap 'sleep 1')
    check "  is asked to stop for one in the higher" wait_for 30 job_says 'jobs: .* SIGUSR2|STEP .* CANCELLED|JOB .* CANCELLED'
    release "$1"
    job=$high
    check "  which then runs" completes 60
    job=$low
    check "  the lower one goes on and completes" completes 90
    check "  after a requeue" restarts_are 1
    check "  from its checkpoint" job_says 'resumed step=[0-9]+'
    check "  with the bytes of the undisturbed run" same "$1"
}
trial asked
MPI_TYPE=mpirun trial by-mpirun
trial unasked --signal=USR1@60 # Slurm then sends that to the ranks alone, which go on: the kill after GraceTime is what ends them
finish
