#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# A stop is heard in every stage and in every long loop of one: exit code 75, and the same command goes on to the same bytes. Real signals, a
# second one, the end of a batch job, the wall limit.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
check "a model" make_model tiny-llama
check "a GGUF" "$BUILD/tests/e2e-gguf" "$PWD/inputs/models/austen-3m" "$dir/austen.gguf"
for i in 1 2 3 4 5 6 7 8 9; do printf 'a text about %s\n\n' $i $((i * i)); done >"$dir/a.txt"
model=$dir/tiny-llama/hf
cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "run"; seed = 3; };
model = { path = "$model"; }; teacher = { path = "$model"; };
datasets = { mock = { sources = ( { path = "mock"; } ); seq_length = 24; samples = 8; }; };
quant = { preset = "nvfp4"; }; batch = { micro = 1; global = 4; }; numerics = { dp_segments = 2; };
optim = { lr = 1e-3; }; checkpoint = { every = 1; background = true; };
stages = ( { do = "convert"; name = "tok"; input = "a.txt"; output = "tok"; vocab_size = 270; },
           { do = "convert"; name = "shards"; input = "a.txt"; output = "data/x"; tokenizer = "@run/tok"; },
           { do = "convert"; name = "gguf-hf"; input = "austen.gguf"; output = "hf"; shard_size = 4000000; },
           { do = "calibrate"; name = "ptq"; data = "mock"; stats_out = "stats.safetensors"; },
           { do = "evaluate"; name = "quantized"; data = "mock"; from = "ptq"; logits_out = "logits.safetensors"; },
           { do = "distill"; name = "qad"; data = "mock"; from = "ptq"; steps = 3; eval_data = "mock"; eval_every = 2; gradients_out = "gradients.safetensors"; },
           { do = "generate"; name = "gen"; from = "qad"; prompts = "prompts.safetensors"; max_new_tokens = 20; stop_at_eos = false; output = "text.jsonl"; },
           { do = "export"; name = "out"; from = "qad"; dir = "export"; } );
END
{ # two prompts of five tokens, a safetensors file
    header='{"input_ids":{"dtype":"I32","shape":[2,5],"data_offsets":[0,40]}}'
    printf '%b' "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0$header"
    for id in 1 17 42 5 95 1 3 9 27 81; do printf '%b' "\\x$(printf %02x $id)\\0\\0\\0"; done
} >"$dir/prompts.safetensors"
left() { # left RUN: what depends on neither stops nor the grid
    local f
    for f in 03-ptq 05-qad; do echo "$f $("$TEMPER" --hash "$1/ckpt/$f")"; done
    (cd "$1" && sha256sum ./*.safetensors data/* tok/* text.jsonl hf/*.safetensors)
    echo "export $(bytes_of "$1/export")"
    sed -E 's/,? *"seconds": *[-+.0-9e]+//' "$1/metrics.jsonl"
}
run() { # run CODE NAME ARGUMENTS...
    local code=$1 name=$2
    ends "$code" 2 "$dir/deck.cfg" --set run.dir="$dir/$name" "${@:3}"
}
check "never stopped" run 0 whole
check "  its facts" left "$dir/whole"
left "$dir/whole" >"$dir/reference"
check "  all of them" test "$(grep -cE '^[0-9a-f]{64} |^0[35]-[a-z]* [0-9a-f]{16}$|step' "$dir/reference")" -ge 15
stops() { # stops FAULT WHERE: stopped there, in that stage
    TEMPER_FAULT=$1 check "stop at $1: exit code 75" run 75 parts
    check "  in stage $2" says "stage=$2 .*(stopped by|stage $2 stopped)"
}
stops stop:text:0:3 tok
stops stop:vocabulary:0:12 tok
stops "stop:shards:*:2" shards
stops stop:gguf:1:2 gguf-hf
stops stop:load:1:5 ptq
stops "stop:ptq:*:4" ptq
stops stop:probe:1:1 ptq
stops "stop:quantized:*:1" quantized
stops stop:load:0:3 quantized
stops "stop:quantized:*:3" quantized
stops stop:probe:0:1 quantized
stops stop:probe:1:2 qad
stops "stop:qad:*:3" qad
stops "stop:qad:*:4" qad
check "  in the middle of an evaluation, which is owed" grep -q '"evaluation_owed": *true' <("$TEMPER" --inspect "$dir/parts/ckpt/05-qad")
stops stop:load:1:2 qad
stops "stop:qad:*:3" qad
stops stop:token:1:2 gen
stops "stop:out:*:1" out
stops stop:load:1:1 out
stops stop:pack:0:3 out
check "going on to the end" run 0 parts
left "$dir/parts" >"$dir/this"
check "  the same bytes" diff "$dir/reference" "$dir/this"

# real signals: save and go on, stop, and a second request
cat >"$dir/long.cfg" <<END
version = 1; run = { dir = "run"; seed = 3; }; model = { path = "$model"; };
datasets = { mock = { sources = ( { path = "mock"; } ); seq_length = 24; samples = 8; }; };
batch = { micro = 1; global = 4; }; schedule = { name = "constant"; }; optim = { lr = 1e-4; };
stages = ( { do = "train"; data = "mock"; steps = 1000000; } );
END
start() { # start NAME: one process, in the background; what the log says is its own
    rm -f "$dir/log"
    "$TEMPER" "$dir/long.cfg" --set run.dir="$dir/$1" </dev/null >"$dir/out" 2>"$dir/log" &
    job=$!
}
wait_for() {
    local i
    for ((i = 0; i < 1500; i++)); do
        "$@" && return 0
        sleep 0.02
    done
    return 1
}
lines() { [ "$(cat "$dir/$1/metrics.jsonl" 2>/dev/null | wc -l)" -ge "$2" ]; }
steps() { compgen -G "$dir/$1/ckpt/00-train/step_*[0-9]/MANIFEST.json" | wc -l; }
has() { [ "$(steps "$1")" -ge "$2" ]; }
start signals
check "a long training" wait_for lines signals 3
kill -USR1 $job
check "SIGUSR1 saves" wait_for has signals 1
at=$(wc -l <"$dir/signals/metrics.jsonl")
check "  and goes on" wait_for lines signals $((at + 3))
kill -USR2 $job
wait $job
check "SIGUSR2: exit code 75" test $? = 75
check "  with another checkpoint" has signals 2
start signals
check "it goes on" wait_for grep -q 'resumed step=' "$dir/log"
kill -TERM $job
wait $job
check "SIGTERM: exit code 75" test $? = 75
start signals
check "it goes on" wait_for grep -q 'resumed step=' "$dir/log"
kill -STOP $job # both requests are there when it wakes
kill -USR2 $job
kill -TERM $job
kill -CONT $job
wait $job 2>/dev/null
rc=$?
check "a second request ends it at once (exit code $rc)" test $rc -gt 128

# time: of the batch job, with the margin, and of the deck
now=$(date +%s)
SLURM_JOB_END_TIME=$((now + 1003)) check "the end of the batch job: exit code 75" ends 75 1 "$dir/long.cfg" --set run.dir="$dir/slurm" --set limits.margin_s=1000
check "  said" says 'asked to stop by the end of the batch job'
check "  within the time that was left" test $(($(date +%s) - now)) -le 20
SLURM_JOB_END_TIME=$((now + 100000)) check "limits.wall_s is earlier: exit code 75" ends 75 1 "$dir/long.cfg" --set run.dir="$dir/wall" --set limits.wall_s=2 --set limits.margin_s=0.5
check "  said" says 'asked to stop by limits.wall_s'
SLURM_JOB_END_TIME=tomorrow check "a time that is none is left alone" ends 75 1 "$dir/long.cfg" --set run.dir="$dir/wall" --set limits.wall_s=2 --set limits.margin_s=0.5
check "  said" says 'warn .*SLURM_JOB_END_TIME = "tomorrow": expected seconds since 1970'
# what a save took once is kept free too, up to half of the time: the ledger says an hour, so of 8 s 4 are left for steps
printf '{"event": "checkpoint", "seconds": 3600}\n' >>"$dir/wall/ledger.jsonl"
now=$(date +%s)
check "the time of a save is kept free" ends 75 1 "$dir/long.cfg" --set run.dir="$dir/wall" --set limits.wall_s=8 --set limits.margin_s=0
check "  said" says 'asked to stop by limits.wall_s'
check "  half of the time is" test $(($(date +%s) - now)) -ge 3 -a $(($(date +%s) - now)) -le 7
finish
