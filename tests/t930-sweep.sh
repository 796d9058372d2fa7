#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# Sweeps: what points share is made once, also when all start at once, and gives the bytes of a run by itself; the local runner and an array
# of jobs give the same table; what is missing is done and nothing else; failing, stopped and killed points are said as they are.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export OMP_NUM_THREADS=1
RUN_LIMIT=120
model=$dir/tiny-llama/hf

cat >"$dir/sweep.cfg" <<END
@include "tiny.cfg"
sweep = ( { key = "quant.preset"; values = [ "nvfp4", "fp8" ]; },
          { key = "qad.optim.lr"; from = 1e-4; to = 1e-2; count = 3; scale = "log"; } );
END
cp "$decks/tiny.cfg" "$dir"
words=(--set model.path="$model" --set teacher.path="$model" --set qad.steps=2)
alone() { # alone CODE ARGUMENTS...: temper without mpirun
    local code=$1 rc
    timeout -k 5 "$RUN_LIMIT" "$TEMPER" "${@:2}" </dev/null >"$dir/out" 2>"$dir/log"
    rc=$?
    [ "$rc" -eq "$code" ] || { echo "exit code $rc, expected $code"; cat "$dir/out"; return 1; }
}
sweep() { # sweep CODE RUN ARGUMENTS...: temper on the sweep in $dir/RUN
    alone "$1" "$dir/sweep.cfg" --set run.dir="$dir/$2" "${words[@]}" "${@:3}"
}
prints() { grep -Eq -- "$1" "$dir/out" || { echo "no line matches: $1"; cat "$dir/out"; return 1; }; }
is() { [ "$1" = "$2" ] || { echo "$1, expected $2"; return 1; }; }
count() { grep -c -- "$1" "$2" 2>/dev/null || true; }
timeless() { sed -E 's/^(([^,]*,){9})[^,]*,/\1-,/' "$1/sweep.csv"; } # without the seconds
field() { sed -n "$(($2 + 2))p" "$1/sweep.csv" | cut -d , -f "$3"; } # field RUN POINT COLUMN
states() { tail -n +2 "$1/sweep.csv" | cut -d , -f 4 | sort | uniq -c | xargs; }
clear() { rm -f "$dir/log"; } # before a start in the background: what its log says is then its own
wait_for() { # wait_for SECONDS COMMAND...: until it succeeds
    local i
    for ((i = 0; i < $1 * 20; i++)); do
        "${@:2}" && return 0
        sleep 0.05
    done
    return 1
}

check "a model" make_model tiny-llama

# --- the list
check "--sweep-list" sweep 0 a --sweep-list
check "  has a line a point, with its values and directory" prints '^4 +.*/a/point-0004  quant.preset = "fp8", qad.optim.lr = 0.001$'
check "  says what is shared by all" prints '^# shared: before once for all points$'
check "  and by some" prints '^# shared: ptq, quantized once for each value of quant.preset$'
check "--sweep-count" sweep 0 a --sweep-count
check "  counts them" prints '^6$'
check "--check reads every point" sweep 0 a --check
check "  and names the bad one" sweep 2 a --set qad.batch.global=4 --set 'sweep=({key="qad.batch.micro"; values=[1, 3];})' --check
check "  by its number" says "point 1: .*batch.global: 4 is no multiple of batch.micro"
check "a sweep is not run as one" sweep 2 a
check "  but by point or --sweep-run" says "is a sweep of 6 points: choose one with --sweep-point"
check "a table before anything ran" sweep 0 a --sweep-collect
check "  has all points missing" is "$(states "$dir/a")" "6 missing"
check "-j without --sweep-run" sweep 2 a -j 2
check "-j 0" sweep 2 a --sweep-run -j 0
check "--sweep-run below mpirun" ends 2 1 "$dir/sweep.cfg" --set run.dir="$dir/a" "${words[@]}" --sweep-run
check "  says why" says "run it without mpirun"
check "--sweep-collect without a sweep" alone 2 "$dir/tiny.cfg" --set run.dir="$dir/none" "${words[@]}" --sweep-collect

# --- all points of an array at once
jobs=()
for i in 4 0 5 2 1 3; do
    mkdir -p "$dir/b"
    "$TEMPER" "$dir/sweep.cfg" --set run.dir="$dir/b" "${words[@]}" --sweep-point $i </dev/null >"$dir/b$i.out" 2>"$dir/b$i.log" &
    jobs+=($!)
done
rc=0
for p in "${jobs[@]}"; do wait "$p" || rc=$?; done
check "six points that start at once" is $rc 0
check "  their table" sweep 0 b --sweep-collect
check "  all are done" is "$(states "$dir/b")" "6 done"
check "  one evaluated the teacher" is "$(count '"finished":"before"' "$dir/b/shared-before-0000/ledger.jsonl")" 1
check "  one calibrated each format" is "$(cat "$dir"/b/shared-quantized-000?/ledger.jsonl | grep -c '"finished":"ptq"')" 2
check "  the others waited, and said for whom" grep -Eq "waiting for what this point shares with others: .*locked by process [0-9]+" "$dir"/b?.log
check "  and took it over" is "$(cat "$dir"/b/point-000?/ledger.jsonl | grep -c '"finished":"ptq".*"shared":')" 6

# --- a run by itself gives the same bytes
check "point 4 as a run by itself" alone 0 "$dir/tiny.cfg" --set run.dir="$dir/plain" "${words[@]}" --set quant.preset=fp8 --set qad.optim.lr=1e-3
facts "$dir/plain" >"$dir/plain.facts"
facts "$dir/b/point-0004" >"$dir/point.facts"
check "  leaves the same" diff "$dir/plain.facts" "$dir/point.facts"
result() { "$TEMPER" --version >/dev/null; sed -n "/\"$2\"/,/}/s/.*\"$3\": *\([-+.0-9e]*\).*/\1/p" "$1/results.json"; }
near() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && a - b <= 1e-8 && b - a <= 1e-8) }' || { echo "$1, expected $2"; return 1; }; }
check "the table has the run's NLL before" near "$(field "$dir/b" 4 6)" "$(result "$dir/plain" before nll)"
check "  and after" near "$(field "$dir/b" 4 7)" "$(result "$dir/plain" after nll)"
check "  and KL" near "$(field "$dir/b" 4 8)" "$(result "$dir/plain" after kl)"
check "  and bits" near "$(field "$dir/b" 4 9)" "$(result "$dir/plain" after bits_per_weight)"
check "  and steps" is "$(field "$dir/b" 4 5)" 2
best=$(tail -n +2 "$dir/b/sweep.csv" | sort -t , -g -k 8 | head -n 1 | cut -d , -f 1)
check "the smallest KL is marked" is "$(field "$dir/b" "$best" 12)" best

# --- the local runner
check "--sweep-run -j 2" sweep 0 a --sweep-run -j 2
check "  ran all" is "$(states "$dir/a")" "6 done"
timeless "$dir/a" >"$dir/a.csv"
timeless "$dir/b" >"$dir/b.csv"
check "  its table is that of the array" diff "$dir/a.csv" "$dir/b.csv"
check "  and made each thing once" is "$(cat "$dir"/a/shared-*/ledger.jsonl | grep -c '"finished":"ptq"' || true)" 2
check "again" sweep 0 a --sweep-run
check "  there is nothing to do" prints "^6 of 6 points are done already"
rm -rf "$dir/a/point-0003"
check "without point 3" sweep 0 a --sweep-run
check "  only that is done again" is "$(count ' began on ' "$dir/out") $(count '^point 3 of 6 began' "$dir/out")" "1 1"
timeless "$dir/a" >"$dir/a.csv"
check "  with the same result" diff "$dir/a.csv" "$dir/b.csv"
check "another point left out" sweep 0 a --set 'sweep_without=({where="qad.optim.lr=1e-4";})' --sweep-run
check "  does not move the others" prints "^4 of 4 points are done already"
check "on two ranks" sweep 0 two --set grid.tp=2 --set 'sweep_without=({where="quant.preset=nvfp4";}, {where="qad.optim.lr=1e-4";}, {where="qad.optim.lr=1e-2";})' --sweep-run
check "  by mpirun" prints "^point 0 of 1 began on 2 ranks"
check "  to the same numbers" is "$(sed -n 2p "$dir/two/sweep.csv" | cut -d , -f 6-9)" "$(sed -n 6p "$dir/b/sweep.csv" | cut -d , -f 6-9)"

if [ "${TIER:-1}" -ge 2 ]; then # all six at once, on two ranks each
    jobs=() rc=0
    for i in 4 0 5 2 1 3; do
        mpirun -np 2 "$TEMPER" "$dir/sweep.cfg" --set run.dir="$dir/twelve" "${words[@]}" --set grid.pp=2 --sweep-point $i </dev/null >"$dir/t$i.out" 2>"$dir/t$i.log" &
        jobs+=($!)
    done
    for p in "${jobs[@]}"; do wait "$p" || rc=$?; done
    check "six points of two ranks that start at once" is $rc 0
    check "  their table" sweep 0 twelve --sweep-collect
    timeless "$dir/twelve" >"$dir/twelve.csv"
    check "  is that of one rank" diff "$dir/twelve.csv" "$dir/b.csv"
fi

# --- a failing point
fails=(--set 'sweep=({key="qad.gradients_out"; values=["", "/dev/null/x"];})')
check "a point that fails: its exit code" sweep 11 fail "${fails[@]}" --sweep-run -j 2
check "  the others run" is "$(tail -n +2 "$dir/fail/sweep.csv" | cut -d , -f 3 | xargs)" "done failed"
check "  its code is in the table" is "$(sed -n 3p "$dir/fail/sweep.csv" | cut -d , -f 10)" 11
check "  its message is on the page" grep -q "/dev/null/x" "$dir/fail/sweep.html"
check "scripts/collect" env TEMPER="$TEMPER" scripts/collect "$dir/sweep.cfg" --set run.dir="$dir/fail" "${words[@]}" "${fails[@]}"

# --- stopping all, killing one
three=(--set 'sweep_without=({where="quant.preset=fp8";})')
TEMPER_FAULT="stop:qad:*:2" check "points that stop: exit code 75" sweep 75 stop "${three[@]}" --sweep-run -j 2
check "  are stopped" is "$(states "$dir/stop")" "3 stopped"
check "  and go on" sweep 0 stop "${three[@]}" --sweep-run -j 2
check "  to the same table" is "$(cut -d , -f 1-9 "$dir/stop/sweep.csv")" "$(head -n 4 "$dir/b.csv" | cut -d , -f 1-9)"

long=(--set qad.steps=100000 --set 'sweep=({key="qad.optim.lr"; values=[1e-4, 1e-3];})')
"$TEMPER" "$dir/sweep.cfg" --set run.dir="$dir/int" "${words[@]}" "${long[@]}" --sweep-run -j 2 </dev/null >"$dir/out" 2>"$dir/log" &
runner=$!
learns() { [ -s "$dir/int/point-0000/metrics.jsonl" ] && [ -s "$dir/int/point-0001/metrics.jsonl" ]; }
check "two long points begin" wait_for 60 learns
sweep 0 int "${long[@]}" --sweep-collect
check "  and are running" is "$(tail -n +2 "$dir/int/sweep.csv" | cut -d , -f 3 | xargs)" "running running"
kill -INT $runner
wait $runner
check "Ctrl-C: exit code 75" is $? 75
check "  both wrote a checkpoint" is "$(tail -n +2 "$dir/int/sweep.csv" | cut -d , -f 3 | xargs)" "stopped stopped"
clear
"$TEMPER" "$dir/sweep.cfg" --set run.dir="$dir/int" "${words[@]}" "${long[@]}" --sweep-point 1 </dev/null >"$dir/out" 2>"$dir/log" &
victim=$!
resumed() { grep -q "resumed step" "$dir/log"; }
check "one goes on" wait_for 60 resumed
kill -9 $victim
wait $victim 2>/dev/null
check "killed" sweep 0 int "${long[@]}" --sweep-collect
check "  it is broken off" is "$(tail -n +2 "$dir/int/sweep.csv" | cut -d , -f 3 | xargs)" "stopped broken off"

# --- who makes what others wait for dies
wide=(--set datasets.mock.samples=1000000 --set 'sweep=({key="qad.optim.lr"; values=[1e-4, 1e-3];})' --set 'stages=({do="calibrate"; name="ptq"; data="mock";}, {do="distill"; name="qad"; data="mock"; steps=1;})')
"$TEMPER" "$dir/sweep.cfg" --set run.dir="$dir/dead" "${words[@]:0:4}" "${wide[@]}" --sweep-point 0 </dev/null >"$dir/out0" 2>"$dir/log0" &
holder=$!
holds() { [ -s "$dir/dead/shared-ptq-0000/.lock" ] && grep -q "stage=ptq" "$dir/log0"; }
check "one makes what is shared" wait_for 60 holds
check "another has a deadline: exit code 22" alone 22 "$dir/sweep.cfg" --set run.dir="$dir/dead" "${words[@]:0:4}" "${wide[@]}" --sweep-point 1 --set limits.wait_s=0.5
check "  and says for whom" says "waited [01] s \(limits.wait_s\) for what this point shares with others: .*process $holder"
clear
"$TEMPER" "$dir/sweep.cfg" --set run.dir="$dir/dead" "${words[@]:0:4}" "${wide[@]}" --sweep-point 1 </dev/null >"$dir/out1" 2>"$dir/log" &
waiter=$!
waits() { grep -q "waiting for what" "$dir/log"; }
check "a third waits" wait_for 60 waits
kill -9 $holder
wait $holder 2>/dev/null
goes_on() { grep -q "has ended before its end: this point goes on with it" "$dir/log"; }
check "the first is killed: the waiting one goes on with it" wait_for 60 goes_on
kill -USR2 $waiter
wait $waiter
check "  and stops when told: exit code 75" is $? 75
check "  the table" alone 0 "$dir/sweep.cfg" --set run.dir="$dir/dead" "${words[@]:0:4}" "${wide[@]}" --sweep-collect
check "  says so of both" is "$(tail -n +2 "$dir/dead/sweep.csv" | cut -d , -f 3 | xargs)" "missing stopped"
finish
