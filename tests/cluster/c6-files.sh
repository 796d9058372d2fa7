#!/usr/bin/env bash
# CLUSTER limit=400
# Files and clocks that go wrong, by a preloaded library: every call of a save fails with every errno on one rank alone, and all ranks agree and keep
# the checkpoint before; short writes and interrupted calls change nothing; a wall clock that runs backwards, directories that may not be written.
set -u
# shellcheck source=tests/cluster/cluster.sh
. "$(dirname "$0")/cluster.sh"
save=$BUILD/tests/t531-ckpt-save
export TEMPER_TEST_BACKEND=host
lib=$dir/faultio.so
command -v cc >/dev/null || skip_all "no C compiler here"
cc -std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -shared -fPIC -o "$lib" tests/cluster/faultio.c -ldl || skip_all "the library does not build here"

with() { # with FAULT COMMAND...: under the library, on paths of $dir/s
    FAULTIO=$1 FAULTIO_PATH=${at:-$dir/s} "${@:2}"
}
on() { # on RANKS PROGRAM...: with the library in the ranks alone
    mpirun -np "$1" env LD_PRELOAD="$lib" "${@:2}"
}
step_is() { # step_is STEP: what a load finds, with the right bits
    mpirun -np 1 "$save" load "$dir/s" "$hash" >"$dir/load" 2>&1 && grep -q "^step=$1 " "$dir/load" || { cat "$dir/load" && return 1; }
}
fails() { # fails FAULT ERROR: a save of step 2 on 3 ranks ends with ERR_IO on all and that text (or HDF5's own)
    with "$1" on 3 "$save" fail "$dir/s" 2 ERR_IO >"$dir/fail" 2>&1 && grep -Eq "message: .*($2|HDF5)" "$dir/fail" || { cat "$dir/fail" && return 1; }
}
check "a checkpoint" mpirun -np 3 "$save" save "$dir/s" 1
mpirun -np 1 "$save" load "$dir/s" - >"$dir/load" 2>/dev/null
hash=$(sed -n 's/^step=.* hash=\([0-9a-f]*\) .*/\1/p' "$dir/load")
for row in "ENOSPC No space left" "EDQUOT quota exceeded" "EIO Input/output error" "EFAULT Bad address" "EROFS Read-only file system"; do
    read -r error text <<<"$row"
    for call in open:1:1 pwrite:2:1 fsync:1:1 close:1:1 rename:1:0 rename:2:0; do
        IFS=: read -r name nth rank <<<"$call"
        check "$error in $name on rank $rank" fails "$name:$error:$nth:$rank" "$text"
    done
    check "  step 1 is there, right to the bit" step_is 1
    check "  and no step 2" test ! -e "$dir/s/step_00000002"
done
check "every write is short" with short on 3 "$save" save "$dir/s" 3
for call in pwrite write; do
    check "$call writes half of its bytes, every time" with $call:short:1 on 3 "$save" save "$dir/s" 3
    check "  the right bits" step_is 3
    check "$call is interrupted every second time" with $call:EINTR:2 on 3 "$save" save "$dir/s" 4
    check "  the right bits" step_is 4
    rm -rf "$dir"/s/step_0000000[34]
done
check "fsync is interrupted every second time" with fsync:EINTR:2 on 3 "$save" save "$dir/s" 5
check "  the right bits" step_is 5
check "close is interrupted every second time" with close:EINTR:2 on 3 "$save" save "$dir/s" 6
check "  the right bits" step_is 6

# The whole program.
job_deck 4
run() { # run CODE RUN FAULT [RANKS]
    local code
    at=$dir/$2 with "$3" on "${4:-2}" "$TEMPER" "$decks/tiny.cfg" --set run.dir="$dir/$2" "${words[@]}" </dev/null >"$dir/out" 2>"$dir/log"
    code=$?
    [ $code = "$1" ] || { echo "exit code $code, expected $1" && tail -n 20 "$dir/log" && return 1; }
}
check "a wall clock that goes back an hour at every look" run 0 clock clock
check "  changes no byte" same clock
for call in write pwrite; do
    check "$call that writes half, in all of a job" run 0 short-$call $call:short:1
    check "  changes no byte" same short-$call
    check "$call that is interrupted" run 0 eintr-$call $call:EINTR:2
    check "  changes no byte" same eintr-$call
done
for nth in 1 4 9 16 25; do
    for call in write:ENOSPC pwrite:EDQUOT fsync:EIO rename:EIO open:EACCES; do
        name=${call%:*}-$nth
        run 11 "$name" "$call:$nth" >"$dir/first" 2>&1 || run 0 "$name" "$call:100000" >>"$dir/first" 2>&1
        check "the ${nth}th $call of a rank: exit code 11, or there are fewer" test $? = 0
        check "  the next start completes" run 0 "$name" none
        check "  with the bytes of the undisturbed run" same "$name"
        rm -rf "${dir:?}/$name"
    done
done

# Directories: one that may not be written, an export that is there already.
if command -v setpriv >/dev/null && [ "$(id -u)" = 0 ]; then
    mkdir "$dir/locked" && chmod 755 "$dir" "$dir/locked"
    check "a run directory of somebody else" bash -c "setpriv --reuid=65534 --regid=65534 --clear-groups '$TEMPER' '$decks/tiny.cfg' --set run.dir='$dir/locked/run' ${words[*]} >'$dir/log' 2>&1; test \$? = 11"
    check "  is named" says "cannot create directory .*/locked/run: Permission denied"
fi
check "a finished run" run 0 twice none
rm -r "$dir/twice/ledger.jsonl" "$dir/twice/ckpt"
check "an export that is there already is replaced" run 0 twice none
check "  by the same bytes" same twice
finish
