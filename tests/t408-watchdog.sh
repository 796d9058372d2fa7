#!/usr/bin/env bash
# TEST ranks=3 tier=1 limit=60
# The watchdog ends a job in which one rank never comes, within the deadline, with exit code 22, and names that rank; and one in which a rank
# failed where the others wait for it, soon, with its error. par_abort ends all.
set -u
. tests/tap.sh
host=$(hostname)
trial() { # trial RANK sleep|stop WHAT-THE-LOG-SAYS
    local start rc seconds
    start=$(date +%s%N)
    log=$(mpirun -np "$RANKS" "$BUILD/tests/t407-watchdog" 1.2 "$1" "$2" 2>&1)
    rc=$?
    seconds=$((($(date +%s%N) - start) / 1000000))
    ok $((rc != 22)) "rank $1 $2: exit code 22 (got $rc)"
    ok $((seconds >= 10000)) "within 10 s (took $seconds ms)" # deadline 1.2 s, start 0.5 s, mpirun's clearing up 1 s
    grep -Eq "$3" <<<"$log"
    ok $? "the log names it: $3"
    grep -Eq 'rank [0-9] on [^ ]+ has waited [0-9.]+ s in reduce over world \(3 ranks\): the deadline is 1\.2 s' <<<"$log"
    ok $? "and says what was waited for"
}
trial 1 sleep '^error rank=0 .*watchdog: rank 1 on '"$host"' is in no communication: stage=ptq step=3 operation="forward" for [0-9.]+ s'
[ "$(grep -c 'has waited' <<<"$log")" -eq 1 ]
ok $? "one report"
[ "$(grep -c 'waits in reduce over world (3 ranks)' <<<"$log")" -eq 2 ]
ok $? "the other two wait"
trial 2 stop '^error rank=0 .*watchdog: rank 2 on '"$host"' is silent for [0-9.]+ s; last: stage=ptq step=3 operation="forward"'
trial 0 stop '^error rank=1 .*watchdog: rank 0 on '"$host"' is silent for [0-9.]+ s; last: stage=ptq step=3'
start=$SECONDS
log=$(mpirun -np "$RANKS" "$BUILD/tests/t407-watchdog" 40 1 fail 2>&1)
rc=$?
ok $((rc != 20)) "rank 1 fails while others wait in a sum: its exit code 20 (got $rc)"
ok $((SECONDS - start > 25)) "long before the deadline (took $((SECONDS - start)) s)"
grep -q '^error rank=0 .*ERR_DEVICE: rank 1: the device of this rank is lost$' <<<"$log"
ok $? "with its message"
[ "$(grep -cE 'watchdog: rank [02] on [^ ]+ waits in reduce over dp \(3 ranks\)' <<<"$log")" -eq 2 ]
ok $? "and who waits for it"
for code in 15 75 0; do # 0 would look like success: an internal error (30) instead
    log=$(mpirun -np "$RANKS" "$BUILD/tests/t407-watchdog" 1 $code 2>&1)
    rc=$?
    ok $((rc != (code ? code : 30))) "par_abort($code): exit code $rc"
done
finish
