#!/usr/bin/env bash
# CLUSTER limit=400
# The main job on three hosts over TCP: a host that is killed, a cable cut for good, one cut and healed, a slow one, packets that are refused. The job
# ends within its deadline and says which rank on which host was where, or goes on; the next start resumes to the same bytes.
set -u
# shellcheck source=tests/cluster/cluster.sh
. "$(dirname "$0")/cluster.sh"
with_hosts 3
job_deck 30
deadline=4
words+=(--set grid.tp=2 --set grid.pp=2 --set "limits.deadline_s=$deadline")

start() { # start RUN: in the background, rank 0 and 1 on h1, 2 on h2, 3 on h3; $job is its mpirun
    scripts/hosts mpirun --host h1:2,h2:1,h3:1 -np 4 "$TEMPER" "$decks/tiny.cfg" --set run.dir="$dir/$1" "${words[@]}" \
        </dev/null >"$dir/out" 2>"$dir/log" &
    job=$!
}
finishes() { # finishes RUN: a start that ends with 0
    start "$1"
    wait $job || { echo "exit code $?" && tail -n 20 "$dir/log" && return 1; }
}
stops() { # stops SECONDS CODE...: the job ends within, with one of the codes
    local end=$((SECONDS + $1)) code
    while kill -0 $job 2>/dev/null; do
        [ $SECONDS -lt $end ] || { echo "not within $1 s" && kill -KILL $job && return 1; }
        sleep 0.1
    done
    wait $job
    code=$?
    [[ " ${*:2} " == *" $code "* ]] || { echo "exit code $code, expected one of ${*:2}" && return 1; }
}
resumes() { # resumes RUN: nothing of it is left; the next start goes on to the same bytes
    check "  no rank is left on any host" wait_for 20 gone "$1"
    check "  the next start completes" finishes "$1"
    check "  going on from the checkpoint" says 'resumed step=[0-9]+'
    check "  with the bytes of the undisturbed run" same "$1"
}
named='stage=[a-z]+ step=[0-9]+ operation="[a-z0-9 _-]+" for [0-9.]+ s'

check "three hosts over TCP" finishes plain
check "  with the bytes of a run on one rank" same plain

# Rank 0 reports: the deadline, its turn, and what mpirun takes to clear up.
start killed
check "a host is killed: the job is under way" hold killed
scripts/hosts kill h2
release killed
check "  it ends" stops 20 205 22 137
resumes killed

start cut
check "a cable is cut for good: the job is under way" hold cut
scripts/hosts cut h3
release cut
check "  the watchdog ends it within its deadline" wait_for $((deadline + 8)) says 'watchdog: ending the job: a deadline passed \(22\)'
check "  names the lost rank and its host" says "watchdog: rank 3 on h3 is silent for [0-9.]+ s; last: $named"
check "  and those that wait" says "watchdog: rank [0-2] on h[12] waits in .* since [0-9.]+ s: $named"
check "  no rank is left on any host" wait_for 30 gone cut
kill -KILL $job # mpirun itself waits 8 minutes for h3
wait $job 2>/dev/null
scripts/hosts heal h3
resumes cut

# What jobs/common.sh sets for mpirun, with shorter times: mpirun notices first (the deadline is longer here) and ends.
export OMPI_MCA_oob_tcp_keepalive_time=3 OMPI_MCA_oob_tcp_keepalive_intvl=1 OMPI_MCA_oob_tcp_keepalive_probes=3
plain=("${words[@]}")
words+=(--set limits.deadline_s=25)
start noticed
words=("${plain[@]}")
check "a cable is cut for good, and mpirun looks: the job is under way" hold noticed
scripts/hosts cut h2
release noticed
check "  it ends" stops 30 22 205
scripts/hosts heal h2
resumes noticed
unset OMPI_MCA_oob_tcp_keepalive_time OMPI_MCA_oob_tcp_keepalive_intvl OMPI_MCA_oob_tcp_keepalive_probes

start healed
check "a cable is cut for 2 s: the job is under way" hold healed
scripts/hosts cut h2
release healed
sleep 2
scripts/hosts heal h2
check "  it goes on and completes" stops 60 0
check "  with the bytes of the undisturbed run" same healed

start slow
check "a slow cable: the job is under way" hold slow
scripts/hosts rate h2 20mbit
release slow
check "  it completes" stops 90 0
check "  with the bytes of the undisturbed run" same slow
scripts/hosts rate h2 full

if command -v nft >/dev/null; then
    start refused
    check "a host refuses all packets: the job is under way" hold refused
    scripts/hosts reject h2
    release refused
    check "  it ends" stops $((deadline + 16)) 22 205 21 1 137
    scripts/hosts accept h2
    resumes refused
fi
finish
