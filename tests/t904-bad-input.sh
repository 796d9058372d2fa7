#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# Bad input: deck, model, data, checkpoint, environment. The exit code, one message that names the file, line or tensor, no hang, and what
# was good stays good.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export RUN_LIMIT=30
model=$dir/tiny-llama/hf

deck() { # deck [STAGE...]: a good deck, or one with these stages, in $dir/deck.cfg; MODEL, DATA, MORE change it
    local stages='{ do = "evaluate"; data = "d"; }'
    [ $# = 0 ] || stages=$*
    cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; };
model = { path = "${MODEL:-$model}"; ${TOK:+tokenizer = \"$dir/tok\";} };
datasets = { d = { sources = ( { path = "${DATA:-mock}"; } ); seq_length = 16; samples = 2; }; };
${MORE:-}
stages = ( $stages );
END
}
one_error() { [ "$(grep -c '^error ' "$dir/log")" = 1 ] || { echo "$(grep -c '^error ' "$dir/log") error lines"; return 1; }; }
# bad WHAT CODE MESSAGE [RANKS ARGUMENTS...]: the deck ends with the code and one message that matches
bad() {
    local what=$1 code=$2 message=$3
    shift 3
    [ $# != 0 ] || set -- 2
    rm -rf "$dir/run"
    check "$what: exit code $code" ends "$code" "$1" "${file:-$dir/deck.cfg}" "${@:2}"
    check "  says $message" says "^error rank=[0-9]+ .*$message"
    check "  once" one_error
}
good() { # good WHAT: the deck as it is runs
    rm -rf "$dir/run"
    check "$1" ends 0 2 "$dir/deck.cfg"
}

check "a model" make_model tiny-llama
check "another model" make_model uneven-llama
deck
good "the good deck"

# --- deck
file=$dir/none.cfg bad "no deck" 2 "none\.cfg.*No such file"
echo 'version = 1; run = { dir = "x"' >"$dir/syntax.cfg"
file=$dir/syntax.cfg bad "syntax" 2 "syntax\.cfg:[12]: syntax error"
MORE='optim = { learning_rat = 1e-3; };' deck
bad "unknown key" 2 "deck\.cfg:4: .*learning_rat.*"
MORE='batch = { micro = "two"; };' deck
bad "wrong type" 2 'deck\.cfg:4: batch\.micro = "two": expected'
MORE='batch = { micro = 0; };' deck
bad "out of range" 2 "deck\.cfg:4: batch\.micro = 0: expected"
deck '{ do = "evaluat"; data = "d"; }'
bad "unknown stage" 2 'deck\.cfg:5: .*"evaluat".*evaluate'
deck '{ do = "evaluate"; name = "a"; data = "d"; }, { do = "evaluate"; name = "a"; data = "d"; }'
bad "two stages of one name" 2 'deck\.cfg:5: .*"a"'
deck '{ do = "evaluate"; data = "dd"; }'
bad "a data set that is not there" 2 'deck\.cfg:5: .*"dd"'
deck
bad "tp does not divide the ranks" 2 "tp.*3.*2|2 ranks.*3" 2 --set grid.tp=3
bad "tp x pp does not divide the ranks" 2 "3 ranks" 3 --set grid.pp=2
bad "more pipeline stages than layers" 2 "pp = 4.* 3 layers|3 layers.*4" 4 --set grid.pp=4
bad "dp against the ranks" 2 "grid\.dp = 3" 2 --set grid.dp=3
check "the run directory was not touched" test ! -e "$dir/run/ckpt"

# --- model
broken() { # broken: a copy of the model to be damaged, $MODEL
    rm -rf "$dir/broken"
    cp -r "$model" "$dir/broken"
    MODEL=$dir/broken deck
}
patch() { printf '%b' "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; } # patch FILE OFFSET BYTES
MODEL=$dir/nowhere deck
bad "no model" 11 "nowhere.*No such file"
broken
truncate -s -100 "$dir/broken/model.safetensors"
bad "truncated safetensors" 12 "broken/model\.safetensors.*(end|bytes)"
broken
at=$("$compare" offset "$dir/broken/model.safetensors" model.layers.1.mlp.up_proj.weight)
patch "$dir/broken/model.safetensors" $((at + 4)) '\0300\0177' # bf16 NaN
bad "a NaN weight" 15 "broken/model\.safetensors.*model\.layers\.1\.mlp\.up_proj\.weight"
broken
read -r from to < <(LC_ALL=C grep -aoE '"model\.norm\.weight":\{[^}]*\}' "$dir/broken/model.safetensors" | grep -oE '[0-9]+,[0-9]+\]' | tr ',]' '  ')
LC_ALL=C sed -i "1s/\[$from,$to\]/$(printf '[%*d,%*d]' ${#from} $((from - 256)) ${#to} $((to - 256)))/" "$dir/broken/model.safetensors"
bad "overlapping offsets" 12 "broken/model\.safetensors.*model\.norm\.weight"
broken
sed -i 's/"intermediate_size": *256/"intermediate_size": 512/' "$dir/broken/config.json"
bad "a wrong shape" 13 "model\.layers\.0\.mlp\.(gate|up|down)_proj\.weight"
broken
sed -i 's/"model_type": *"llama"/"model_type": "gpt9"/' "$dir/broken/config.json"
bad "an unsupported family" 14 'broken/config\.json.*"gpt9".*supported: .*llama.*qwen3'
broken
echo '{' >"$dir/broken/config.json"
bad "a broken config.json" 12 "broken/config\.json"
deck '{ do = "export"; flavour = "hf"; dir = "sharded"; shard_size = 300000; }'
good "a sharded copy"
mv "$dir/run/sharded" "$dir/sharded"
MODEL=$dir/sharded deck
good "  loads"
rm "$dir/sharded/model-00002-of-"*
bad "a missing shard" 11 "sharded/model-00002-of-.*No such file"

# --- data
u64() { local i; for i in "$@"; do printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $((i & 255)) $((i >> 8)); done; }
shards() { # shards LENGTH ID: 2 sequences of 64 tokens u16 of that id; the index gives the second one LENGTH tokens
    local i
    printf '%b' "MMIDIDX\0\0$(u64 1)\x08$(u64 2 3)\x40\0\0\0$(printf '\\x%02x\\x%02x\\0\\0' $(($1 & 255)) $(($1 >> 8)))$(u64 0 128 0 1 2)" >"$dir/t.idx"
    for ((i = 0; i < 128; i++)); do printf '%b' "\x$(printf %02x $(($2 & 255)))\x$(printf %02x $(($2 >> 8)))"; done >"$dir/t.bin"
}
DATA=$dir/t deck
shards 64 5
good "token shards"
truncate -s -10 "$dir/t.bin"
bad "a truncated .bin" 12 "t\.(idx|bin).*"
shards 1000 5
bad "an .idx that points past the end" 12 "t\.(idx|bin).*"
shards 64 500
bad "a token id that is not in the vocabulary" 3 "/t.*id 500: the vocabulary has 96"
rm "$dir/t.bin"
bad "no .bin" 11 "t\.bin.*No such file"
DATA=$dir/none.txt deck
bad "no text" 3 "none\.txt"
printf 'One text, and then the other text that tells what the one text told.\n' >"$dir/some.txt"
deck "{ do = \"convert\"; input = \"$dir/some.txt\"; output = \"$dir/tok\"; vocab_size = 270; }"
good "a tokenizer"
: >"$dir/empty.txt"
printf 'good\nbad \377\376\n' >"$dir/latin.txt"
TOK=1 DATA=$dir/empty.txt deck
bad "an empty text" 3 "empty\.txt"
TOK=1 DATA=$dir/latin.txt deck
bad "invalid UTF-8" 3 "latin\.txt"
deck "{ do = \"convert\"; input = \"$dir/latin.txt\"; tokenizer = \"$dir/tok\"; output = \"$dir/latin\"; }"
bad "invalid UTF-8 in convert" 3 "latin\.txt"
check "  left no shards" test ! -e "$dir/latin.idx"

# --- checkpoints
words=(--set model.path="$model" --set teacher.path="$model" --set checkpoint.every=1)
tiny() { # tiny CODE RANKS ARGUMENTS...: tiny.cfg in $dir/tiny
    ends "$1" "$2" "$decks/tiny.cfg" --set run.dir="$dir/tiny" "${words[@]}" "${@:3}"
}
refused() { # refused WHAT CODE MESSAGE [ARGUMENTS...]
    check "$1: exit code $2" tiny "$2" 2 "${@:4}"
    check "  says $3" says "^error rank=[0-9]+ .*$3"
    check "  once" one_error
}
check "an uninterrupted run" tiny 0 2
facts "$dir/tiny" >"$dir/reference"
rm -rf "$dir/tiny"
TEMPER_FAULT='stop:qad:*:4' check "a run that stops in distill" tiny 75 2
check "  with a checkpoint of step 2" test -e "$dir/tiny/ckpt/03-qad/step_00000002/rank_00001.h5"
cp -r "$dir/tiny" "$dir/kept"
newest=$dir/tiny/ckpt/03-qad/step_00000002
patch "$newest/rank_00000.h5" 400000 '\0125\0252\0125\0252'
refused "a flipped byte" 12 "step_00000002/rank_00000\.h5 is damaged"
cp "$dir/kept/ckpt/03-qad/step_00000002/rank_00000.h5" "$newest/"
refused "another deck" 2 "tiny was begun with another deck" --set optim.lr=3e-3
check "  names the key" says "stage qad: optim\.lr was 0\.001 and is 0\.003"
refused "another model" 2 "other content of model\.path" --set model.path="$dir/uneven-llama/hf"
refused "another teacher" 2 "other content of teacher\.path" --set teacher.path="$dir/uneven-llama/hf"
mv "$model" "$dir/moved"
cp -r "$dir/moved" "$model"
at=$("$compare" offset "$model/model.safetensors" model.norm.weight)
patch "$model/model.safetensors" "$at" '\0'
refused "one byte of the model changed" 2 "other content of model\.path"
rm -rf "$model"
mv "$dir/moved" "$model"
check "none of these harmed it: the run goes on" tiny 0 2
facts "$dir/tiny" >"$dir/this"
check "  and ends as if nothing had been" diff "$dir/reference" "$dir/this"
for lost in MANIFEST.json rank_00001.h5; do
    rm -rf "$dir/tiny"
    cp -r "$dir/kept" "$dir/tiny"
    rm "$newest/$lost"
    check "a checkpoint without its $lost does not count: the one before is taken" tiny 0 2
    check "  with a warning that names it" says "^warn rank=0 .*passed over: .*step_00000002/$lost"
    check "  from step 1" says "resumed step=1"
    facts "$dir/tiny" >"$dir/this"
    check "  and ends the same" diff "$dir/reference" "$dir/this"
done
rm -rf "$dir/tiny"
cp -r "$dir/kept" "$dir/tiny"
check "--allow-mismatch takes another deck" tiny 0 2 --set optim.lr=3e-3 --allow-mismatch optim.lr
rm -rf "$dir/tiny"
cp -r "$dir/kept" "$dir/tiny"
refused "another model, allowed, but of another shape" 13 "step_00000002: .*model\.embed_tokens\.weight has extent 96 on axis 0, 97 expected" \
    --set model.path="$dir/uneven-llama/hf" --set teacher.path="$dir/uneven-llama/hf" --allow-mismatch model.path --allow-mismatch teacher.path
check "  back to the first model" tiny 0 2 --allow-mismatch model.path --allow-mismatch teacher.path
facts "$dir/tiny" >"$dir/this"
check "  ends the same" diff "$dir/reference" "$dir/this"

# --- environment
for fault in ckpt:space:0:2 file:write:0:3 ckpt:write:1:3 ckpt:manifest:0:2 ckpt:rename:0:2; do
    rm -rf "$dir/tiny"
    TEMPER_FAULT=$fault refused "no space, $fault" 11 "tiny/|MANIFEST"
done
check "  then there is space: it goes on" tiny 0 2
facts "$dir/tiny" >"$dir/this"
check "  and ends the same" diff "$dir/reference" "$dir/this"
rm -rf "$dir/tiny"
TEMPER_FAULT=train:data:2:3 check "one rank fails alone: exit code 3" tiny 3 4
check "  one message, of that rank" says "^error rank=[0-9]+ .*injected fault"
check "  once" one_error
check "  the run goes on" tiny 0 4
facts "$dir/tiny" >"$dir/this"
check "  and ends the same" diff "$dir/reference" "$dir/this"
rm -rf "$dir/tiny"
for grid in tp pp dp; do # dp: what is left of two ranks
    set -- --set "grid.$grid=2"
    [ $grid != dp ] || set --
    TEMPER_FAULT=train:forward:1:3 check "one of two ranks ($grid) fails inside a step: exit code 20" tiny 20 2 "$@" --set limits.deadline_s=8
    check "  with its message" says "^error rank=0 .*ERR_DEVICE: rank 1: injected fault: train:forward"
done
deck
TEMPER_FAULT=dev:alloc:1:2 bad "no memory on one rank" 10 "out of memory"
bad "a run directory under a file" 11 "deck\.cfg/run" 2 --set run.dir="$dir/deck.cfg/run"
mkdir "$dir/readonly"
chmod a-w "$dir/readonly"
if [ ! -w "$dir/readonly" ]; then bad "a run directory that may not be written" 11 "readonly" 2 --set run.dir="$dir/readonly/run"; fi

# two jobs on one run directory
MORE='optim = { lr = 1e-5; };' deck '{ do = "train"; data = "d"; steps = 1000000; }'
rm -rf "$dir/run"
mpirun -np 1 "$TEMPER" "$dir/deck.cfg" </dev/null >"$dir/out1" 2>"$dir/log1" &
job=$!
for _ in $(seq 500); do [ -s "$dir/run/metrics.jsonl" ] && break; sleep 0.02; done
check "two jobs on one run directory: exit code 2" ends 2 1 "$dir/deck.cfg"
check "  says who has it" says "^error .*$dir/run.*(used|running|process|job)"
touch "$dir/run/STOP"
wait $job
check "  the first one was not harmed" test $? = 75
finish
