#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# Stopping and going on: kill -9 at random moments, a stop at every boundary, SIGUSR2, the STOP file, another grid: the run ends with the
# bytes, metrics and numbers of one that was never stopped.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
trials=3
[ "${TIER:-1}" -lt 2 ] || trials=20
model=$dir/tiny-llama/hf
grids=("1" "2 --set grid.tp=2" "2 --set grid.pp=2" "2" "4 --set grid.tp=2 --set grid.pp=2")
words=(--set model.path="$model" --set teacher.path="$model" --set checkpoint.every=1)

run() { # run CODE NAME GRID...: one start of the deck in $dir/NAME ends with the code
    local code=$1 name=$2
    ends "$code" "$3" "$decks/tiny.cfg" --set run.dir="$dir/$name" "${words[@]}" "${@:4}"
}
same() { # same NAME: the run left what the uninterrupted one left
    facts "$dir/$1" >"$dir/this" && diff "$dir/reference" "$dir/this"
}
children() { cat "/proc/$1/task/$1/children" 2>/dev/null; }
wait_for() { # wait_for SECONDS COMMAND...: until it succeeds
    local i
    for ((i = 0; i < $1 * 50; i++)); do
        "${@:2}" && return 0
        sleep 0.02
    done
    return 1
}
is_gone() { ! kill -0 "$1" 2>/dev/null; }
start() { # start NAME GRID...: in the background; $job is mpirun
    mpirun -np "$2" "$TEMPER" "$decks/tiny.cfg" --set run.dir="$dir/$1" "${words[@]}" "${@:3}" </dev/null >"$dir/out" 2>"$dir/log" &
    job=$!
}
has_lines() { [ "$(cat "$1" 2>/dev/null | wc -l)" -ge "$2" ]; }
reached() { has_lines "$dir/$1/metrics.jsonl" "$2" || is_gone "$job"; }

check "a model" make_model tiny-llama
check "the uninterrupted run" run 0 whole 1
facts "$dir/whole" >"$dir/reference"
check "its facts" test "$(grep -cE '^(01-ptq|03-qad) [0-9a-f]{16}$|^[0-9a-f]{64} ' "$dir/reference")" = 5
check "the same command on a finished run does nothing" run 0 whole 1
check "  and changes nothing" same whole

# a stop at boundaries of every stage, each start on another grid
k=0
for at in before:1 before:2 ptq:1 ptq:3 quantized:2 qad:1 qad:3 qad:2 after:2 export:1 export:2; do
    read -ra grid <<<"${grids[k++ % ${#grids[@]}]}"
    TEMPER_FAULT="stop:${at/:/:*:}" check "a stop at boundary $at of $((${grid[0]})) ranks: exit code 75" run 75 steps "${grid[@]}"
    check "  in that stage" says "stage=${at%:*} .*stopped"
    grep stopped "$dir/log" >>"$dir/stops"
done
check "  some in calibrate between batches" grep -q "stage ptq stopped after [1-7] of 8 batches" "$dir/stops"
check "  and in distill between steps" grep -q "stage qad stopped after step [1-3] of 4" "$dir/stops"
check "  going on" run 0 steps 2
check "  and left the same" same steps

# real signals, and the file
start usr2 2 --set grid.tp=2
wait_for 30 reached usr2 2
kill -USR2 $job
wait $job
check "SIGUSR2 to mpirun: exit code 75" test $? = 75
check "  going on on 4 ranks" run 0 usr2 4 --set grid.tp=2 --set grid.pp=2
check "  left the same" same usr2
mkdir -p "$dir/stop"
touch "$dir/stop/STOP"
check "run/STOP: exit code 75" run 75 stop 2
check "  is removed" test ! -e "$dir/stop/STOP"
check "  going on" run 0 stop 2 --set grid.pp=2
check "  left the same" same stop

# N + N = 2N: the deck cut in two, and the stage cut in two
head -n 14 "$decks/tiny.cfg" | sed '14s/,$/ );/' >"$dir/half.cfg"
check "a deck with the first two stages" ends 0 1 "$dir/half.cfg" --set run.dir="$dir/cut" "${words[@]}"
check "  then the whole deck" run 0 cut 1
check "  left the same" same cut

# kill -9: one rank, or mpirun
RANDOM=${TEMPER_TEST_SEED:-$$}
echo "# TEMPER_TEST_SEED=${TEMPER_TEST_SEED:-$$}"
for ((t = 1; t <= trials; t++)); do
    read -ra grid <<<"${grids[RANDOM % ${#grids[@]}]}"
    read -ra other <<<"${grids[RANDOM % ${#grids[@]}]}"
    at=$((RANDOM % 4))
    start "kill$t" "${grid[@]}"
    wait_for 30 reached "kill$t" $at
    sleep "0.0$((RANDOM % 10))"
    read -ra ranks < <(children $job) || ranks=()
    victim=$job
    [ ${#ranks[@]} = 0 ] || [ $((RANDOM % 3)) = 0 ] || victim=${ranks[RANDOM % ${#ranks[@]}]}
    kill -9 "$victim" 2>/dev/null
    wait $job 2>/dev/null
    for p in ${ranks[@]+"${ranks[@]}"}; do check "  rank $p is gone" wait_for 30 is_gone "$p"; done
    check "killed on '${grid[*]}' at metrics line $at+: goes on on '${other[*]}'" run 0 "kill$t" "${other[@]}"
    check "  and left the same" same "kill$t"
    rm -rf "$dir/kill$t"
done
finish
