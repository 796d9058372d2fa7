#!/usr/bin/env bash
# TEST ranks=2 backends=cuda tier=1 limit=60
# Communicators of the devices' own that go wrong: ranks that make different calls are told so by the emulation; a message that is queued on a
# device and never sent ends the job within the deadline, with exit code 22 and the names of the ranks.
set -u
# shellcheck source=tests/tap.sh
. "$(dirname "$0")/tap.sh"
trial() { # trial HOW DEADLINE PATTERN...: the log says each
    local pattern
    SECONDS=0
    log=$(mpirun -np "$RANKS" "$BUILD/tests/t413-comms" "$1" "$2" 2>&1)
    code=$?
    ok $((SECONDS > 20)) "$1: within 20 s (took $SECONDS)"
    for pattern in "${@:3}"; do
        grep -Eq "$pattern" <<<"$log"
        ok $? "  says: $pattern"
    done
}
trial mismatch 30 'emulated NCCL: world rank [01], rank [01] of 2 of communicator 0\.1: the calls do not match: here (broadcast of 400 int8 from 0|all-reduce of 100 int32 \(max\)) \(number 0\), on rank [01] (broadcast of 400 int8 from 0|all-reduce of 100 int32 \(max\)) \(number 0\)'
ok $((code == 0)) "  exit code $code"
trial sizes 30 'the calls do not match: here all-reduce of 10[01] int32 \(max\) \(number 0\), on rank [01] all-reduce of 10[01] int32 \(max\)'
trial queued 1.5 'watchdog: rank 0 on [^ ]+ has waited [0-9.]+ s in a queued (send|recv) over pp \(2 ranks\): the deadline is 1\.5 s' \
    'watchdog: rank 1 on [^ ]+ is in no communication: stage=qad step=7 operation="tree"' 'watchdog: ending the job: a deadline passed \(22\)'
is "$code" 22 "  exit code"
finish
