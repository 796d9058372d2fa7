#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=60
# Three planted bugs in a kernel (kernels/emu/planted.cu) are caught by what checks the kernels, and the kernel without them passes everything:
# a missing barrier by the order of execution and by ThreadSanitizer, a write out of bounds by AddressSanitizer, a wrong sum by the host's bits.
set -u
n=0 bad=0
emu=${EMU%-*san}
[ -x "$EMU/planted" ] || { echo "1..0 # SKIP no emulated kernels here: make emu needs a CUDA toolkit's headers"; exit 0; }
ok() { # ok STATUS TEXT: with what the program said, where it is not what was expected
    n=$((n + 1))
    if [ "$1" -eq 0 ]; then echo "ok $n - $2"; else
        echo "not ok $n - $2"
        bad=1
        printf '%s\n' "$out" | sed 's/^/#   /' >&2
    fi
}
planted() { # planted SANITIZER BUG EXIT MESSAGE: how the program ends, and a line of what it says, which is shown
    local prog=$emu${1:+-$1}/planted rc=0 line
    if [ ! -x "$prog" ]; then
        n=$((n + 1))
        echo "ok $n - $2 # SKIP $prog is not built (make test-emu)"
        return
    fi
    out=$("$prog" "$2" 2>&1) || rc=$?
    line=$(grep -m 1 -E -- "$4" <<<"$out")
    ok $((rc != $3)) "${1:-plain}: $2 ends with $3 (got $rc)"
    [ -n "$line" ]
    ok $? "${1:-plain}: $2 says: ${line:-nothing like $4}"
}
export ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=exitcode=66
for order in 0 1 2 3; do
    export CUEMU_ORDER=$order
    planted "" sound 0 '^planted: sound: 0 of 64 rows differ'
    planted "" sum 1 '^planted: sum: 64 of 64 rows differ'
done
for order in 0 1; do # in these a warp runs on for as long as it can
    export CUEMU_ORDER=$order
    planted "" barrier 1 '^planted: barrier: [1-9][0-9]* of 64 rows differ'
done
export CUEMU_ORDER=0
planted tsan sound 0 '^planted: sound: 0 of 64 rows differ'
planted tsan barrier 66 'SUMMARY: ThreadSanitizer: data race kernels/emu/planted.cu:[0-9]+ in .*row_sum_k'
planted asan sound 0 '^planted: sound: 0 of 64 rows differ'
planted asan bounds 1 'SUMMARY: AddressSanitizer: .*kernels/emu/planted.cu:[0-9]+ in .*row_sum_k'
echo "1..$n"
exit $bad
