#!/usr/bin/env bash
# CLUSTER limit=300
# A sweep as an array job: four points, of which two stop on the way and go on and two fail; a table by a job that depends on all of them. Submitted
# again when the cause is gone, only what is missing runs. The points' bytes are those of starts by hand.
set -u
# shellcheck source=tests/cluster/cluster.sh
. "$(dirname "$0")/cluster.sh"
with_slurm 2
check "a model" make_model tiny-llama
words=(--set model.path="$dir/tiny-llama/hf" --set teacher.path="$dir/tiny-llama/hf" --set checkpoint.every=1)
for d in array hand; do
    sed "s|run/tiny|$dir/$d|" "$decks/tiny.cfg" >"$dir/$d.cfg"
    echo "sweep = ( { key = \"qad.optim.lr\"; values = [ 1e-3, 5e-4 ]; }, { key = \"qad.teacher.path\"; values = [ \"$dir/tiny-llama/hf\", \"$dir/later\" ]; } );" >>"$dir/$d.cfg"
done
check "it has 4 points" test "$("$TEMPER" "$dir/array.cfg" --sweep-count)" = 4

run_dir() { "$TEMPER" "$dir/$1.cfg" "${words[@]}" --sweep-point "$2" --check | sed 's/.*run directory //'; } # run_dir DECK POINT
left() { echo "$("$TEMPER" --hash "$1/ckpt/03-qad") $(bytes_of "$1/export")"; }                                    # left RUN
sweep() { # sweep: the array, and after it the table; their numbers in $array and $table
    array=$(sbatch --parsable --array=0-3%2 --time=60 --nodes=1 --ntasks-per-node=2 --cpus-per-task=1 --output="$dir/%a.job" \
        jobs/sweep.sbatch "$dir/array.cfg" "${words[@]}")
    table=$(sbatch --parsable --dependency="afterany:$array" --output="$dir/table.job" jobs/collect.sbatch "$dir/array.cfg" "${words[@]}")
    job=$table log=$dir/table.job
}
code_of() { job=${array}_$1 && field ExitCode; } # code_of POINT
[ -x scripts/collect ] || { printf '#!/bin/sh\nls -d %s*/*/export\n' "$dir/array" >"$dir/collect" && chmod +x "$dir/collect" && export COLLECT=$dir/collect; }

TEMPER_FAULT='stop:qad:*:3' sweep
check "an array of 4 points, and a table after it" completes 120
for p in 0 2; do
    check "point $p completed" test "$(code_of $p)" = 0:0
    check "  after a stop and a requeue of its own" grep -q 'temper ended with exit code 75' "$dir/$p.job"
    check "by hand it ends" ends 0 1 "$dir/hand.cfg" "${words[@]}" --sweep-point $p
    check "  with the same bytes" test "$(left "$(run_dir array $p)")" = "$(left "$(run_dir hand $p)")"
done
for p in 1 3; do
    check "point $p failed: exit code 11" test "$(code_of $p)" = 11:0
    check "  says why" grep -q "error rank=0 .*$dir/later" "$dir/$p.job"
done
cp -r "$dir/tiny-llama/hf" "$dir/later"
before=$(cat "$(run_dir array 0)/ledger.jsonl" "$(run_dir array 2)/ledger.jsonl" | grep -c '"finished"')
sweep
job=$table
check "again, with what they lacked" completes 120
for p in 0 1 2 3; do check "  point $p completed" test "$(code_of $p)" = 0:0; done
check "  the points that were done ran nothing" test "$(cat "$(run_dir array 0)/ledger.jsonl" "$(run_dir array 2)/ledger.jsonl" | grep -c '"finished"')" = "$before"
check "  the same teacher by another path gives the same bytes" test "$(left "$(run_dir array 1)")" = "$(left "$(run_dir array 0)")"
finish
