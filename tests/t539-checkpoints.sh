#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=60
# Looking after checkpoints: --inspect and --hash on runs, stages, steps, single files and damaged ones; scripts/checkpoints.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
prog=$BUILD/tests/t535-ckpt-demo
run=$dir/run stage=$dir/run/ckpt/00-demo
export TEMPER
prints() { # prints CODE TEXT ARGUMENTS...: temper ends with the code and says the text
    local code=$1 text=$2 rc
    shift 2
    "$TEMPER" "$@" >"$dir/log" 2>&1
    rc=$?
    [ $rc -eq "$code" ] || { cat "$dir/log"; echo "exit code $rc, expected $code"; return 1; }
    grep -Eq -- "$text" "$dir/log" || { cat "$dir/log"; return 1; }
}
script() { # script CODE TEXT ARGUMENTS...
    local code=$1 text=$2 rc
    shift 2
    scripts/checkpoints "$@" >"$dir/log" 2>&1
    rc=$?
    [ $rc -eq "$code" ] || { cat "$dir/log"; echo "exit code $rc, expected $code"; return 1; }
    grep -Eq -- "$text" "$dir/log" || { cat "$dir/log"; return 1; }
}
there() { test "$(cd "$stage" && echo step_*)" = "$1" || { ls "$stage"; return 1; }; }

mkdir -p "$run/ckpt"
check "a checkpoint" mpirun -np 2 "$prog" "$stage"
mv "$stage/step_00000007" "$dir/seven"
for s in 7 8 9 10 11; do cp -r "$dir/seven" "$stage/step_$(printf %08d $s)"; done
mkdir "$stage/step_00000012.tmp" "$stage/other"
one=$stage/step_00000007
hash=$("$TEMPER" --hash "$one")
check "a content hash" test ${#hash} = 16
check "of a stage's folder: of its newest" prints 0 "^$hash\$" --hash "$stage"
check "--inspect of a step" prints 0 'f32 +2 +64 +\[2, 8\] +layer/weight' --inspect "$one"
check "--inspect of a file: its pieces by their boxes" prints 0 'f32 +[0-9]+ +32 +\[0:2, 4:8\] +layer/weight' --inspect "$one/rank_00001.h5"
check "  from inside its folder" bash -c "cd $one && $TEMPER --inspect rank_00001.h5 | grep -q 'all as they were written'"
check "  the index is one too" prints 0 'all as they were written' --inspect "$one/index.h5"
check "--hash of a file: what to give instead" prints 2 'give its folder' --hash "$one/rank_00001.h5"
cp "$one/rank_00001.h5" "$one/rank_00009.h5"
check "  a file that is no part of it" prints 2 'is no file of the checkpoint' --inspect "$one/rank_00009.h5"
rm "$one/rank_00009.h5"
cp "$one/rank_00001.h5" "$dir/alone.h5"
check "  a file without its manifest" prints 11 'MANIFEST.json' --inspect "$dir/alone.h5"

# damage: 11 loses a byte of its data, 10 its end, 9 its manifest
at=$("$TEMPER" --inspect "$one/rank_00001.h5" | awk '$NF == "layer/weight" { print $2 }')
printf x | dd of="$stage/step_00000011/rank_00001.h5" bs=1 seek="$at" conv=notrunc status=none
truncate -s -1 "$stage/step_00000010/rank_00000.h5"
printf x | dd of="$stage/step_00000009/MANIFEST.json" bs=1 seek=200 conv=notrunc status=none
check "a damaged file is said to be" prints 12 'rank_00001.h5 is damaged: layer/weight, block 0' --inspect "$stage/step_00000011/rank_00001.h5"
check "  and by the hash of the whole" prints 12 'rank_00001.h5 is damaged: layer/weight' --hash "$stage/step_00000011"
check "a cut one" prints 12 'the manifest says' --inspect "$stage/step_00000010/rank_00000.h5"
check "a damaged manifest" prints 12 'MANIFEST.json: damaged' --inspect "$stage/step_00000009"
check "--inspect of a run: a line for each" prints 0 '^good .* 4 .*step_00000008$' --inspect "$run"
check "  the unfinished one" grep -Eq '^unfinished .*step_00000012.tmp' "$dir/log"
check "  the cut one, and why" grep -Eq '^damaged .*step_00000010: .*rank_00000.h5 has [0-9]+ bytes' "$dir/log"
check "  the one without a manifest" grep -Eq '^damaged .*step_00000009: .*damaged' "$dir/log"
check "nothing there" prints 2 'neither a run' --inspect "$stage/other"

# scripts/checkpoints
check "list is that" script 0 '^good .*step_00000008$' list "$run"
check "verify reads every byte" script 1 'damaged +.*step_00000011' verify "$run"
check "  and hashes what is good" grep -q "^good       $hash  $stage/step_00000008" "$dir/log"
check "prune only says what it would do" script 0 'would remove .*step_00000012.tmp' prune "$run"
check "  it keeps the newest good one" grep -q "^keep    $stage/step_00000008$" "$dir/log"
check "  and removed nothing" there "step_00000007 step_00000008 step_00000009 step_00000010 step_00000011 step_00000012.tmp"
check "prune --keep 2 --yes" script 0 '^removed .*step_00000011$' prune "$run" --keep 2 --yes
check "  leaves the two newest good ones" there "step_00000007 step_00000008"
check "prune --yes leaves one" script 0 '^removed .*step_00000007$' prune "$run" --yes
check "  the newest" there step_00000008
printf x | dd of="$stage/step_00000008/MANIFEST.json" bs=1 seek=200 conv=notrunc status=none
check "where none is good nothing is removed" script 0 'none of its checkpoints is good' prune "$run" --yes
check "  nothing" there step_00000008
echo "pid $$ on $(hostname)" >"$run/.lock"
check "a run that goes on is left alone" script 2 'is in use' prune "$run" --yes
check "usage" script 2 'prune RUN' prune
check "no run" script 2 'has no folder ckpt' list "$dir"
finish
