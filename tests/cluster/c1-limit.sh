#!/usr/bin/env bash
# CLUSTER limit=300
# Jobs under Slurm: one to its end; one whose time runs out (signal, checkpoint, exit code 75, requeue, resume, the same bytes), by srun and
# by mpirun; one that makes no progress ends; one that is cancelled is not queued again, and goes on when it is submitted again.
set -u
# shellcheck source=tests/cluster/cluster.sh
. "$(dirname "$0")/cluster.sh"
with_slurm 2
job_deck 30
two=(--nodes=2 --ntasks-per-node=1)

submit plain "${two[@]}"
check "a job on 2 nodes" completes 90
check "  left the bytes of a run on one rank" same plain
check "  saw 2 ranks" job_says 'temper [^ ]+ ranks=2'

# Slurm looks at time limits every 30 s, so the signal comes within 30 s of its time: two jobs at once, held until then.
for how in pmix mpirun; do
    MPI_TYPE=$how submit "$how" "${two[@]}" --time=1 --signal=B:USR2@55
    declare "job_$how=$job"
    check "$how: a job that will not be done in time" hold "$how"
done
for how in pmix mpirun; do
    log=$dir/$how.job
    check "$how: its time is nearly over: a signal" wait_for 60 job_says 'jobs: .* SIGUSR2'
    release "$how"
done
for how in pmix mpirun; do
    job=job_$how job=${!job} log=$dir/$how.job
    check "$how: completes" completes 90
    check "  after a checkpoint and exit code 75" job_says 'temper ended with exit code 75'
    check "  and a requeue" restarts_are 1
    check "  going on from the checkpoint" job_says 'resumed step=[0-9]+'
    check "  with the bytes of the undisturbed run" same "$how"
done

# A start that stops before it did anything is queued twice again.
TEMPER_FAULT='stop:before:*:1' submit stuck "${two[@]}"
check "a job without progress ends" wait_for 90 ended
check "  as failed, with exit code 1" test "$(field JobState) $(field ExitCode)" = "FAILED 1:0"
check "  after 3 starts" test "$(grep -c 'temper ended with exit code 75' "$log")" = 3
check "  and says so" job_says 'jobs: 2 restarts in a row made no progress'
submit stuck "${two[@]}"
check "  submitted again without the obstacle it completes" completes 90
check "  with the bytes of the undisturbed run" same stuck

submit cancelled "${two[@]}"
check "a job that will be cancelled" hold cancelled
scancel "$job"
release cancelled
check "  ends" wait_for 60 ended
check "  as cancelled" state_is CANCELLED
check "  with no rank left" wait_for 20 gone cancelled
check "  and is not queued again" test -z "$(squeue -h -j "$job" -t pending,running -o %T 2>/dev/null)"
submit cancelled "${two[@]}"
check "  submitted again it completes" completes 90
check "  going on from the checkpoint" job_says 'resumed step=[0-9]+'
check "  with the bytes of the undisturbed run" same cancelled

# The deck's errors come before a rank starts.
job=$(sbatch --parsable --ntasks-per-node=1 --cpus-per-task=1 --output="$dir/bad.job" jobs/short.sbatch "$decks/broken.cfg") log=$dir/bad.job
check "a broken deck" wait_for 30 ended
check "  ends with exit code 2" test "$(field ExitCode)" = 2:0
check "  and no job step" test -z "$(grep 'jobs: .* start' "$log")"
# Ranks that do not find each other (the wrong --mpi).
MPI_TYPE=none submit alone "${two[@]}"
check "ranks that do not find each other" wait_for 60 ended
check "  fail" state_is FAILED
check "  with a hint" job_says 'srun started 2 tasks(, but MPI sees each as a world of one rank| without PMIx).*srun --mpi=pmix'
finish
