#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=600
# inputs/sweep-formats-austen.cfg: an array of jobs in random order and the local runner write the same table, but for the times. Tier 1 cuts its
# rows short; tier 2 runs it as it is.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export OMP_NUM_THREADS=1
deck=inputs/sweep-formats-austen.cfg
words=(--set datasets.train.seq_length=32 --set datasets.calib.seq_length=32 --set datasets.tune.seq_length=32 --set datasets.calib.samples=4
    --set datasets.tune.samples=4 --set batch.global=4 --set qad.steps=2 --set schedule.warmup=0)
[ "${TIER:-1}" -lt 2 ] || words=()
sweep() { # sweep RUN ARGUMENTS...
    timeout -k 5 500 "$TEMPER" "$deck" --set run.dir="$dir/$1" ${words[@]+"${words[@]}"} "${@:2}" </dev/null >"$dir/out" 2>"$dir/log"
}
timeless() { sed -E 's/^(([^,]*,){9})[^,]*,/\1-,/' "$1/sweep.csv"; }
array() { # the points as jobs of an array, in random order
    for i in $(seq 0 11 | shuf --random-source=<(yes "$RANDOM")); do sweep array --sweep-point "$i" || return 1; done
}
check "12 points" test "$("$TEMPER" "$deck" --sweep-count)" = 12
check "all are good decks" sweep array --check
check "an array of jobs" array
check "  collected" sweep array --sweep-collect
check "  all done" test "$(cut -d , -f 4 "$dir/array/sweep.csv" | grep -c '^done$')" = 12
check "the local runner" sweep runner --sweep-run -j 2
timeless "$dir/array" >"$dir/array.csv"
timeless "$dir/runner" >"$dir/runner.csv"
check "  the same table" diff "$dir/array.csv" "$dir/runner.csv"
check "  of different results" test "$(tail -n +2 "$dir/array.csv" | cut -d , -f 7 | sort -u | wc -l)" = 12
check "  with one best" test "$(grep -c ',best,' "$dir/array.csv")" = 1
for run in array runner; do
    check "$run: the teacher was evaluated once" test "$(grep -c '"finished":"teacher"' "$dir/$run/shared-teacher-0000/ledger.jsonl")" = 1
    check "$run: each format was calibrated once" test "$(cat "$dir/$run"/shared-after-ptq-*/ledger.jsonl | grep -c '"finished":"ptq"')" = 4
done

# What a shared stage wrote to the run's directory is where later stages look for it.
for i in $(seq 40); do echo "It was a truth universally acknowledged, that sentence $i stood here. "; done >"$dir/text.txt"
cat >"$dir/convert.cfg" <<END
version = 1; run = { dir = "$dir/convert"; }; model = { path = "$PWD/inputs/models/austen-3m"; };
datasets = { d = { sources = ( { path = "@run/corpus"; } ); seq_length = 16; }; };
stages = ( { do = "convert"; input = "$dir/text.txt"; output = "corpus"; tokenizer = "$PWD/inputs/models/austen-3m"; },
           { do = "train"; data = "d"; steps = 2; }, { do = "evaluate"; data = "d"; } );
sweep = ( { key = "train.optim.lr"; values = [ 1.0e-4, 1.0e-3 ]; } );
END
check "points that train on a corpus which they share" "$TEMPER" "$dir/convert.cfg" --sweep-run -j 2
check "  which is there once" test "$(find "$dir/convert" -type f -name 'corpus.bin')" = "$dir/convert/shared-convert-0000/corpus.bin"
check "  and the sweep may be moved" mv "$dir/convert" "$dir/moved"
check "  with its links" cmp "$dir/moved/point-0001/corpus.bin" "$dir/moved/shared-convert-0000/corpus.bin"
finish
