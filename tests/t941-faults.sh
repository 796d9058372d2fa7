#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=120
# Faults that no other test has: a checkpoint pieced together from two runs, a wall limit that passes in the middle of saves, two SIGTERMs, weights
# that make activations overflow, weights that are zero.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
model=$dir/tiny-llama/hf
words=(--set model.path="$model" --set teacher.path="$model" --set checkpoint.every=1)
tiny() { # tiny CODE RUN RANKS OPTIONS...
    ends "$1" "$3" "$decks/tiny.cfg" --set run.dir="$dir/$2" "${words[@]}" "${@:4}"
}
same() { facts "$dir/$1" >"$dir/this" && diff "$dir/reference" "$dir/this"; }
check "a model" make_model tiny-llama
check "the undisturbed run" tiny 0 whole 1
facts "$dir/whole" >"$dir/reference"

# --- a checkpoint whose files are of two runs, or of two saves
TEMPER_FAULT='stop:qad:*:4' check "a run that stops after two steps" tiny 75 run 2
TEMPER_FAULT='stop:qad:*:4' check "another run, of another seed" tiny 75 other 2 --set run.seed=8
cp -r "$dir/run" "$dir/kept"
step=run/ckpt/03-qad/step_0000000
cp "$dir/${step/run/other}2/rank_00001.h5" "$dir/${step}2/"
check "a shard of another run: exit code 12" tiny 12 run 2
check "  is named" says "step_00000002/rank_00001\.h5 is damaged"
cp "$dir/${step/run/kept}2/rank_00001.h5" "$dir/${step}2/"
cp "$dir/${step}1/MANIFEST.json" "$dir/${step}2/"
check "an older manifest beside newer shards: exit code 12" tiny 12 run 2
check "  is named" says "step_00000002"
cp "$dir/${step/run/kept}2/MANIFEST.json" "$dir/${step}2/"
check "put right again it goes on" tiny 0 run 2
check "  to the same bytes" same run

# --- stops
wall=0.2
case $BUILD in *san) wall=1.5 ;; esac # a sanitizer's start takes longer
began=$EPOCHREALTIME
check "on 2 ranks" tiny 0 timed 2 --set grid.tp=2
wall=$(awk -v w=$wall -v s="$began" -v e="$EPOCHREALTIME" 'BEGIN { t = (e - s) / 8; print (t > w ? t : w) }') # a busy machine's too
for ((starts = 1; starts < 30; starts++)); do # each start may do what fits between its beginning and the wall limit
    temper 2 "$decks/tiny.cfg" --set run.dir="$dir/wall" "${words[@]}" --set grid.tp=2 --set limits.wall_s=$wall --set limits.margin_s=0
    code=$?
    [ $code = 75 ] || break
done
check "a wall limit that passes at any moment: after $starts starts it is done" test $code = 0 -a $starts -gt 1
check "  with the same bytes" same wall
mpirun -np 1 "$TEMPER" "$decks/tiny.cfg" --set run.dir="$dir/twice" "${words[@]}" --set qad.steps=100000 </dev/null >"$dir/out" 2>"$dir/log" &
for _ in $(seq 500); do [ -s "$dir/twice/metrics.jsonl" ] && break; sleep 0.02; done
rank=$(ranks_of twice)
kill -STOP "$rank"
kill -TERM "$rank"
kill -CONT "$rank"
kill -TERM "$rank"
wait $!
code=$?
check "two SIGTERMs end it, at a checkpoint or at once" test $code = 75 -o $code = 143
check "  and it goes on" tiny 0 twice 1
check "  to the same bytes" same twice

# --- numbers
broken() { # broken TENSOR BYTES COUNT: a copy of the model with that tensor's first COUNT elements set
    local i at
    rm -rf "$dir/broken" "$dir/run"
    cp -r "$model" "$dir/broken"
    at=$("$compare" offset "$dir/broken/model.safetensors" "$1")
    for ((i = 0; i < $3; i++)); do printf '%b' "$2"; done | dd of="$dir/broken/model.safetensors" bs=1 seek="$at" conv=notrunc status=none
    words=(--set model.path="$dir/broken" --set teacher.path="$model")
}
broken model.layers.0.input_layernorm.weight '\0177\0177' 8 # 3.4e38 in bf16: the layer's products overflow
check "activations that overflow: exit code 15" tiny 15 run 2
check "  one message" test "$(grep -c '^error ' "$dir/log")" = 1
check "  says where" says 'stage=|nll|NaN|finite|infinit'
broken model.layers.1.mlp.up_proj.weight '\0\0' 512
check "blocks of zeros" tiny 0 run 2
check "  and an export whose scales are sound" "$TEMPER" --verify-export "$dir/run/export"
finish
