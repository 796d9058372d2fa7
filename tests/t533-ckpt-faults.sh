#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=180
# ckpt/: other rank counts read and hash the same; errors at every point of a save; ranks killed in the middle: the previous checkpoint stays loadable.
set -u
export TEMPER_TEST_BACKEND=guard # (t531 runs on the host backend)
export OMPI_MCA_odls_base_sigkill_timeout=0 # the others of a killed rank follow at once
prog=$BUILD/tests/t531-ckpt-save
dir=$(mktemp -d /tmp/temper-faults-XXXXXX)
trap 'rm -rf "$dir"' EXIT
n=0 failed=0
check() { # check WHAT COMMAND...: one TAP line
    n=$((n + 1))
    local what=$1
    shift
    if "$@" >"$dir/now" 2>&1; then
        echo "ok $n - $what"
    else
        echo "not ok $n - $what"
        failed=1
        sed 's/^/#   /' "$dir/now" | head -n 40
    fi
    mv "$dir/now" "$dir/out"
}
ranks() { # ranks N MODE...
    local np=$1
    shift
    mpirun -np "$np" "$prog" "$@"
}
killed() { ! "$@"; }
step_is() { # step_is STEP: `load` on one rank finds that step with the right bits
    ranks 1 load "$dir/s" "$hash" >"$dir/load" 2>&1 && grep -q "^step=$1 " "$dir/load" || { cat "$dir/load"; return 1; }
}

# the same bytes in, whoever cuts them: save on 4, 2, 1; load on 1, 2, 4
check "4 ranks save" ranks 4 save "$dir/s" 1
ranks 1 load "$dir/s" - >"$dir/load" 2>/dev/null
hash=$(sed -n 's/^step=.* hash=\([0-9a-f]*\) .*/\1/p' "$dir/load")
check "hash of what 4 ranks saved: $hash" test ${#hash} = 16
check "2 ranks load it" ranks 2 load "$dir/s" "$hash"
check "1 rank saves" ranks 1 save "$dir/one" 1
check "4 ranks load it, same hash" ranks 4 load "$dir/one" "$hash"
check "2 ranks save" ranks 2 save "$dir/two" 1
check "3 ranks load it, same hash" ranks 3 load "$dir/two" "$hash"

# an error anywhere: the same status on every rank, no .tmp, step 1 as before
fails() { # fails FAULT WORD: saving step 2 on 3 ranks ends in ERR_IO with a message that has WORD
    env "TEMPER_FAULT=$1" mpirun -np 3 "$prog" fail "$dir/s" 2 ERR_IO >"$dir/fail" 2>&1 && grep "message: .*$2" "$dir/fail" || { cat "$dir/fail"; return 1; }
}
check "no space: both numbers" fails ckpt:space:0:1 'wants space, 0 bytes are free'
check "a write fails on rank 1" fails ckpt:write:1:2 'rank_00001.h5: No space left'
check "the disk is full in pwrite" fails file:write:2:1 'rank_00002.h5: No space left'
check "the index fails" fails ckpt:index:0:1 index.h5
check "the manifest fails" fails ckpt:manifest:0:1 MANIFEST.json
check "the rename fails" fails ckpt:rename:0:1 rename
check "  after all of them step 1 is there, right to the bit" step_is 1
check "  and no step 2" test ! -e "$dir/s/step_00000002"

# kill -9 at chosen points
check "a rank dies between two writes" killed env TEMPER_FAULT=ckpt:die-write:1:3 mpirun -np 3 "$prog" save "$dir/s" 2
check "  it left a .tmp" test -d "$dir/s/step_00000002.tmp"
check "  step 1 is loadable" step_is 1
check "rank 0 dies after the manifest, before the rename" killed env TEMPER_FAULT=ckpt:die-manifest:0:1 mpirun -np 2 "$prog" save "$dir/s" 3
check "  step 1 is loadable" step_is 1
check "rank 0 dies while step 1 is being replaced" killed env TEMPER_FAULT=ckpt:die-rename:0:1 mpirun -np 2 "$prog" save "$dir/s" 1
check "  the old one has stepped aside" test -d "$dir/s/step_00000001.old" -a ! -e "$dir/s/step_00000001"
check "  and is loadable" step_is 1
check "the next save succeeds" ranks 3 save "$dir/s" 4
check "  clears the .tmp away" test "$(echo "$dir"/s/*.tmp)" = "$dir/s/*.tmp"
check "  and is the newest" step_is 4

# kill -9 from outside, whenever it hits; CKPT_KILLS=20 for a long trial
check "a start for the loop" ranks 1 save "$dir/loop" 1
for trial in $(seq "${CKPT_KILLS:-1}"); do
    rm -f "$dir"/loop.pid.*
    mpirun -np 2 "$prog" loop "$dir/loop" $((10000 * trial)) >/dev/null 2>&1 &
    for _ in $(seq 400); do # until its first save is there
        compgen -G "$dir/loop/step_*${trial}[0-9][0-9][0-9][0-9]/MANIFEST.json" >/dev/null && break
        sleep 0.05
    done
    sleep "0.$((RANDOM % 5 + 2))"
    kill -9 "$(cat "$dir/loop.pid.$((trial % 2))")"
    wait $!
    check "killed at random ($trial): the newest is loadable" ranks 1 load "$dir/loop" "$hash"
    check "  and was saved by the killed run" grep -qE "^step=${trial}[0-9]{4} " "$dir/out"
done
echo "1..$n"
exit $failed
