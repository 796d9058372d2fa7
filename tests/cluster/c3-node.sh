#!/usr/bin/env bash
# CLUSTER limit=300
# Nodes that die under a job: Slurm queues it again when the node has not answered for SlurmdTimeout; a node that comes back before leaves a hung
# job, which temper's watchdog ends.
set -u
# shellcheck source=tests/cluster/cluster.sh
. "$(dirname "$0")/cluster.sh"
with_slurm 2
job_deck 30
for dead in h2 h1; do # h1: where the script of the job runs too
    submit "dead-$dead" --nodes=2 --ntasks-per-node=1
    check "$dead dies: a job on 2 nodes" hold "dead-$dead"
    scripts/hosts kill $dead
    release "dead-$dead"
    check "  is queued again" wait_for 60 restarts_are 1
    scripts/slurm-cluster node $dead
    check "  runs when the node is back, and completes" completes 90
    check "  going on from the checkpoint" job_says 'resumed step=[0-9]+'
    check "  with the bytes of the undisturbed run" same "dead-$dead"
done

# The node is back before Slurm misses it, without the job's ranks: nobody tells the others.
more=(--set limits.deadline_s=4)
submit back --nodes=2 --ntasks-per-node=1
check "h2 dies and is back at once: a job on 2 nodes" hold back
scripts/hosts kill h2
scripts/slurm-cluster node h2
release back
check "  ends" wait_for 90 ended
check "  as failed, by the watchdog" job_says 'watchdog: ending the job: a deadline passed \(22\)'
check "  which names the lost rank and its host" job_says 'watchdog: rank 1 on h2 is silent for [0-9.]+ s; last: stage=[a-z]+ step=[0-9]+ operation='
check "  is not queued again" test "$(field JobState) $(field Restarts)" = "FAILED 0"
submit back --nodes=2 --ntasks-per-node=1
check "  submitted again it completes" completes 90
check "  with the bytes of the undisturbed run" same back
finish
