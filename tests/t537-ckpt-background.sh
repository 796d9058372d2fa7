#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# Checkpoints in the background in a whole deck: the same bytes as saves in line on every grid; errors of the writer; kill -9 while it writes;
# the interval from the time between failures; waves; what --plan says.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
prog=$BUILD/tests/t536-ckpt-background
model=$dir/tiny-llama/hf
words=(--set model.path="$model" --set teacher.path="$model" --set checkpoint.every=1)
later=(--set checkpoint.background=true --set checkpoint.verify=true)
run() { # run CODE NAME GRID...
    local code=$1 name=$2
    ends "$code" "$3" "$decks/tiny.cfg" --set run.dir="$dir/$name" "${words[@]}" "${@:4}"
}
same() { facts "$dir/$1" >"$dir/this" && diff "$dir/reference" "$dir/this"; }
kept() { echo "$(cd "$dir/$1/ckpt/03-qad" && echo step_*)"; }

# errors of the thread and of what follows it: the same status on all ranks, the one before stays
fails() { env "TEMPER_FAULT=$1" mpirun -np 3 "$prog" fails "$dir/s" "$2"; }
check "a checkpoint" mpirun -np 3 "$prog" save "$dir/s"
check "a bit is lost on the way to the disk: verification finds it" fails ckpt:flip:1:1 "read back after writing: "
check "a write fails on rank 1" fails ckpt:write:1:2 'rank_00001.h5: No space left'
check "the rename fails" fails ckpt:rename:0:1 rename
if [ "${TIER:-1}" -ge 2 ]; then
    check "the disk is full on rank 2" fails file:write:2:1 'rank_00002.h5: No space left'
    check "the index fails" fails ckpt:index:0:1 index.h5
    check "the manifest fails" fails ckpt:manifest:0:1 MANIFEST.json
fi

check "a model" make_model tiny-llama
check "saves in line" run 0 line 1
facts "$dir/line" >"$dir/reference"
check "in the background, one rank" run 0 one 1 "${later[@]}"
check "  left the same" same one
check "  the same checkpoints stay" test "$(kept one)" = "$(kept line)"
check "  it says what it cost" says 'stage=qad checkpoint step=2 bytes=[0-9]+ seconds=[0-9.]+ path=.* stalled=[0-9.]+$'
check "in the background, tp 2 x pp 2, one writer at a time" run 0 four 4 --set grid.tp=2 --set grid.pp=2 --set checkpoint.writers=1 "${later[@]}"
check "  left the same" same four
for f in index.h5 rank_00000.h5; do
    check "  $f of a save in the background is that of a save in line" cmp "$dir/line/ckpt/03-qad/step_00000003/$f" "$dir/one/ckpt/03-qad/step_00000003/$f"
done

# the writer's error ends the run at a boundary, with its message; the next start goes on
TEMPER_FAULT=ckpt:write:1:90 check "a writer fails: exit code 11" run 11 error 2 --set grid.tp=2 "${later[@]}"
check "  with its message" says 'error rank=0 .*rank 1: cannot write .*rank_00001.h5: No space left'
check "  the next start goes on" run 0 error 1 "${later[@]}"
check "  and left the same" same error
deaths=(die-write:1:90)
[ "${TIER:-1}" -lt 2 ] || deaths+=(die-manifest:0:5 die-rename:0:5)
for at in "${deaths[@]}"; do
    TEMPER_FAULT=ckpt:$at temper 2 "$decks/tiny.cfg" --set run.dir="$dir/$at" "${words[@]}" --set grid.pp=2 "${later[@]}"
    check "killed at $at" test ! -e "$dir/$at/results.json" -o -d "$dir/$at/ckpt"
    check "  goes on" run 0 "$at" 2 "${later[@]}"
    check "  and left the same" same "$at"
done

# Daly: the interval that is logged is the formula of what is logged
check "by the time between failures" run 0 mtbf 1 --set checkpoint.every=0 --set checkpoint.mtbf_h=24
line=$(grep -E 'stage=qad a save every [0-9.]+ s: one costs [0-9.e-]+ s, checkpoint.mtbf_h = 24' "$dir/log" | head -n 1)
check "  the interval follows from the cost: ${line##*stage=}" awk -v l="$line" 'BEGIN { match(l, /every [0-9.]+/); t = substr(l, RSTART + 6, RLENGTH - 6) + 0
    match(l, /costs [0-9.e-]+/); c = substr(l, RSTART + 6, RLENGTH - 6) + 0; m = 24 * 3600; x = c / (2 * m)
    want = sqrt(2 * c * m) * (1 + sqrt(x) / 3 + x / 9) - c; exit !(c > 0 && t > 0.98 * want && t < 1.02 * want) }'
check "  said once" test "$(grep -c 'stage=qad a save every' "$dir/log")" = 1
check "  left the same" same mtbf

# --plan: the copy is counted, files are told
plan() { "$TEMPER" "$decks/tiny.cfg" --plan --set model.path="$model" --set teacher.path="$model" "$@" 2>&1; }
buffers() { awk '/^stage qad/ { on = 1 } on && /host buffers/ { print $3; exit }'; }
check "--plan tells the files" grep -q 'at most 4 files a checkpoint (one a writer, index and manifest), the largest' <(plan --as-ranks 2 --set grid.tp=2)
check "--plan counts the copy" awk -v a="$(plan | buffers)" -v b="$(plan --set checkpoint.background=true | buffers)" 'BEGIN { exit !(b > a) }'
finish
