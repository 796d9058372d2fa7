#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=60
# --plan --machine: times on machines whose closed form is known (only products cost, only messages cost, only files cost), traps, refusals.
set -u
. tests/tap.sh
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/config.json" <<END
{"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 32,
 "intermediate_size": 512, "vocab_size": 1024, "max_position_embeddings": 128, "tie_word_embeddings": false}
END
cat >"$dir/deck.cfg" <<END
version = 1;
run = { dir = "$dir/run"; };
model = { random_init = "config.json"; };
datasets = { d = { sources = ( { path = "mock"; } ); seq_length = 64; samples = 12; }; };
quant = { preset = "fp8"; };
batch = { micro = 2; global = 16; };
optim = { lr = 1e-3; };
stages = ( { do = "calibrate"; data = "d"; }, { do = "train"; data = "d"; steps = 10; checkpoint = { every = 4; }; quant = { preset = "none"; }; from = "model"; },
  { do = "evaluate"; data = "d"; quant = { preset = "none"; }; }, { do = "export"; from = "train"; flavour = "hf"; quant = { preset = "none"; }; } );
END
linear=$((4 * (256 * 256 * 4 + 3 * 256 * 512))) head=$((1024 * 256)) attention=$((64 * 65 * 256 * 4)) tokens=$((16 * 64))
params=$((linear + 2 * head + 9 * 256))
plan() { # plan MACHINE ARGUMENTS...: the plan on a machine, in $log
    echo "version = 1; name = \"test\"; $1" >"$dir/machine.cfg"
    shift
    log=$("$TEMPER" "$dir/deck.cfg" --plan --machine "$dir/machine.cfg" --simulate "$@" 2>&1)
}
of() { awk -v s="$1" '/^stage / { on = $2 == s } on' <<<"$log"; }
round() { of "$1" | sed -nE 's/.*simulated on [0-9]+ ranks?: ([0-9.e+-]+) s a .*/\1/p'; }
part() { of "$1" | sed -nE "s/.*$2 ([0-9.e+-]+) s.*/\\1/p"; }
share() { of "$1" | sed -nE "s/.*of a .*$2 ([0-9.]+) %.*/\\1/p"; }
near() { # near GOT WANT REL TEXT
    awk -v g="$1" -v w="$2" -v r="$3" 'BEGIN { exit !(g != "" && g - w <= r * w && w - g <= r * w) }'
    ok $? "$4: $1, expected $2"
}
divide() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.9g", a / b }'; }

# --- only products cost: 1 GFLOP/s --------------------------------------------------------------------------------------------
products='rank = { fp32_gflops = 1; bf16_gflops = 4; memory_gbs = 1e9; };'
plan "$products"
near "$(round train)" "$(divide $((6 * (linear + head) * tokens + 7 * attention * 16)) 1e9)" 1e-5 "a step is 6 FLOPs a weight and token, and attention"
near "$(part train 'the loop')" "$(divide $((60 * (linear + head) * tokens + 70 * attention * 16)) 1e9)" 2e-3 "ten of them are the loop"
near "$(round evaluate)" "$(divide $((2 * (linear + head) * 128 + 2 * attention * 2)) 1e9)" 1e-5 "a micro-batch of an evaluation"
near "$(round calibrate)" "$(divide $((2 * linear * 128 + 2 * attention * 2)) 1e9)" 1e-5 "a micro-batch of a calibration has no head"
is "$(share train operations)" 100.0 "nothing else takes time"
of train | grep -q 'most of it: gemm, 9[0-9] %'
ok $? "what dominates is said"
plan "$products" --set numerics.compute=bf16
near "$(round train)" "$(divide $((6 * (linear + head) * tokens + 7 * attention * 16)) 4e9)" 1e-5 "with bf16 at the rate of bf16"
plan "$products" --set numerics.recompute=layer
near "$(round train)" "$(divide $((6 * (linear + head) * tokens + 2 * linear * tokens + 9 * attention * 16)) 1e9)" 1e-5 "recomputation: the layers' forward once more"

# A pipeline of stages with two layers each; the last has the head too: 8 micro-batches.
plan "$products" --as-ranks 2 --set grid.pp=2
f0=$(divide $((2 * linear / 2 * 128 + 2 * attention)) 1e9) b0=$(divide $((4 * linear / 2 * 128 + 5 * attention)) 1e9)
f1=$(divide $((2 * (linear / 2 + head) * 128 + 2 * attention)) 1e9) b1=$(divide $((4 * (linear / 2 + head) * 128 + 5 * attention)) 1e9)
want=$(awk -v f0="$f0" -v b0="$b0" -v f1="$f1" -v b1="$b1" 'BEGIN { printf "%.9g", f0 + 8 * (f1 + b1) + b0 }')
near "$(round train)" "$want" 1e-5 "two stages: the slower one works without a pause, between the first's first forward and last backward"
grep -q 'the pipeline idles 11 %: 8 micro-batches over pp 2' <<<"$log"
ok $? "the bubble of (pp - 1) / (m + pp - 1) is warned of"

# --- only messages cost: 1 GB/s ----------------------------------------------------------------------------------------------------
links='ranks_a_node = 8; rank = { fp32_gflops = 1e9; memory_gbs = 1e9; }; node = { gbs = 1; };'
row=$((tokens * 256 * 4)) # a sum of hidden states over all tokens of a step: two ranks swap that many bytes
plan "$links" --as-ranks 2 --set grid.tp=2
near "$(round train)" "$(divide $((row * (4 * 4 + 2))) 1e9)" 0.03 "tp 2: four sums a layer, the embedding's and the head's, and rows of the loss"
is "$(share train 'sums over tp')" 100.0 "all of it is sums over tp"
plan "$links" --as-ranks 2
near "$(round train)" "$(divide $((4 * params)) 1e9)" 0.06 "dp 2: the gradients once (row leaves of the norms on top)"
plan "$links" --as-ranks 4
near "$(round train)" "$(divide $((2 * 3 * params)) 1e9)" 0.06 "dp 4: 2 (P - 1) / P of them"
plan "$links" --as-ranks 2 --set grid.pp=2
near "$(round train)" "$(divide $((row / 8 * 9)) 1e9)" 0.01 "pp 2: messages follow each other in both directions"
plan "ranks_a_node = 1; rank = { fp32_gflops = 1e9; memory_gbs = 1e9; }; node = { gbs = 1; }; network = { gbs = 0.5; };" --as-ranks 2
near "$(round train)" "$(divide $((4 * params)) 0.5e9)" 0.06 "over the network at the network's rate"
grep -q 'lacks rates of messages' <<<"$log" && ok 1 "no rate is lacking" || ok 0 "no rate is lacking"
plan "$products" --as-ranks 2
of train | grep -q 'lacks rates of messages: they are left out'
ok $? "rates that are not known are said to be left out"

# --- products and sums over replicas: a layer's backward takes 0.35 s, the sum of its gradients 0.26 s ---------------------------------
half=$((3 * (linear + head) * tokens + 7 * attention * 8)) leaves=$((8 * 4 * 9 * 256))
slow() { plan "ranks_a_node = 8; rank = { $1fp32_gflops = 1; memory_gbs = 1e9; }; node = { gbs = 0.01; };" --as-ranks 2; }
slow ""
want=$(awk -v w=$half -v s=$((linear + 4 * head + leaves)) 'BEGIN { printf "%.9g", w / 1e9 + s / 1e7 }')
near "$(round train)" "$want" 1e-5 "a GPU: only the sums of the lowest layer and of the embedding show"
want=$(awk -v h=$((3 * linear + 4 * head)) -v r="$(round train)" 'BEGIN { printf "%.1f", 100 * h / 1e7 / r }')
is "$(share train 'sums over dp beside operations')" "$want" "  the others are hidden"
slow "threads = 1; "
want=$(awk -v w=$half -v s=$((4 * linear + 8 * head + leaves)) 'BEGIN { printf "%.9g", w / 1e9 + s / 1e7 }')
near "$(round train)" "$want" 1e-5 "a host: all of them show"

# --- only files cost ------------------------------------------------------------------------------------------------------------------
plan 'files = { write_gbs = 0.001; save_gbs = 0.002; draw_gels = 0.01; restore_gels = 0.005; export_gels = 0.1; };'
near "$(part train checkpoints)" "$(divide $((3 * 12 * params)) 2e6)" 2e-3 "three checkpoints: two within ten steps, one at the end"
near "$(part train 'loading weights')" "$(divide $params 1e7)" 2e-3 "weights are drawn"
near "$(part evaluate 'loading weights')" "$(divide $params 5e6)" 2e-3 "weights come from the checkpoint of train"
near "$(part export 'the export')" "$(awk -v p=$params 'BEGIN { print p / 1e8 + 2 * p / 1e6 }')" 0.01 "the export: packing, and two bytes a weight"
all=$(sed -nE 's/^all stages: about ([0-9.e+-]+) s.*/\1/p' <<<"$log")
sum=$(sed -nE 's/^  time on test: about ([0-9.e+-]+) s.*/\1/p' <<<"$log" | awk '{ s += $1 } END { print s }')
near "$all" "$sum" 2e-3 "the deck's time is the sum of the stages'"

# --- traps -------------------------------------------------------------------------------------------------------------------------------
warns() { # warns TEXT ARGUMENTS...
    local text=$1
    shift
    plan "$links" "$@"
    grep -qE "warning: $text" <<<"$log"
    ok $? "warning: $text"
}
warns '4 layers over pp 3: stages have 1 or 2' --as-ranks 3 --set grid.pp=3
warns '8 key/value heads over tp 3: ranks have 2 or 3' --as-ranks 3 --set grid.tp=3
warns 'tp 3 is no power of two' --as-ranks 3 --set grid.tp=3
warns 'the pipeline idles [0-9]+ %: [0-9]+ micro-batches over pp 2; data-parallel ranks in its place would not wait' --as-ranks 2 --set grid.pp=2
warns 'tp 16 is more than the 8 ranks of a node' --as-ranks 16 --set grid.tp=16
warns '8 key/value heads over tp 16: a head is not cut, so some ranks' --as-ranks 16 --set grid.tp=16
plan 'rank = { fp32_gflops = 1000; memory_gbs = 10; };' --set batch.micro=1
grep -q 'warning: a micro-batch of 64 tokens: below 200, products wait for their weights' <<<"$log"
ok $? "micro-batches below 2 FLOP/s a byte/s"
plan "$links"
! grep -q warning <<<"$(of export)"
ok $? "an export falls into none"

# --- suggestions ---------------------------------------------------------------------------------------------------------------------------
plan 'ranks_a_node = 4; rank = { fp32_gflops = 100; memory_gbs = 20; memory_gib = 0.05; call_us = 2; }; node = { latency_us = 5; gbs = 2; }; network = { latency_us = 30; gbs = 0.5; };' \
    --as-ranks 8 --suggest
ok $? "--suggest"
table=$(sed -n '/^suggestions for stage train on 8 ranks/,$p' <<<"$log" | grep -E '^ +[0-9]+ +[0-9]+ +[0-9]+ +[0-9]+ +(none|layer)')
[ "$(wc -l <<<"$table")" -ge 1 ] && sort -c -s -g -k 9,9 <<<"$table"
ok $? "ways that fit, the fastest first"
awk '{ bad += $1 * $2 * $3 != 8 || $6 > 0.05 } END { exit bad > 0 }' <<<"$table"
ok $? "each uses all ranks and fits the memory"
grep -qE 'need more memory than 0.05 GiB: the least is' <<<"$log"
ok $? "why others are none"
read -r tp pp _ micro again _ step _ <<<"$table"
machine=$(cat "$dir/machine.cfg")
log=$("$TEMPER" "$dir/deck.cfg" --plan --machine "$dir/machine.cfg" --simulate --as-ranks 8 --set grid.tp="$tp" --set grid.pp="$pp" \
    --set batch.micro="$micro" --set numerics.recompute="$again" 2>&1)
[ -n "$machine" ]
near "$(round train)" "$step" 0.01 "a plan of the best way takes what was suggested (tp $tp pp $pp micro $micro $again)"

# --- thousands of ranks ---------------------------------------------------------------------------------------------------------------------
TIMEFORMAT=%U
seconds=$({ time "$TEMPER" inputs/plan-llama-70b.cfg --plan --as-ranks 4096 --machine inputs/machines/h100-sxm.cfg --simulate \
    --set numerics.compute=bf16 >"$dir/large" 2>&1; } 2>&1)
log=$(cat "$dir/large")
case $BUILD in
    *-asan) ok 0 "4096 ranks are simulated # SKIP a sanitizer is slow" ;;
    *)
        awk -v s="$seconds" 'BEGIN { exit !(s < 3) }'
        ok $? "4096 ranks are simulated in $seconds s of processor time, below 3 s"
        ;;
esac
is "$(of qad | grep -cE '^      pp +[0-7] ')" 8 "a line for each pipeline stage"
awk '/simulated on 4096 ranks/ { rate = $(NF - 3) } END { exit !(rate > 0) }' <<<"$(of qad)"
ok $? "with the rate of a rank"

# --- refusals -----------------------------------------------------------------------------------------------------------------------------------
refused() { # refused TEXT ARGUMENTS...
    local text=$1
    shift
    log=$("$TEMPER" "$dir/deck.cfg" "$@" 2>&1)
    is $? 2 "refused: $*"
    grep -q -- "$text" <<<"$log"
    ok $? "it says: $text"
}
refused '--machine goes with --plan' --machine x.cfg
refused '--simulate goes with --plan' --simulate
refused '--suggest needs --machine FILE' --plan --suggest
refused 'no-such.cfg' --plan --machine no-such.cfg
echo 'version = 1; ops = ( { op = "gem"; gflops = 1; } );' >"$dir/bad.cfg"
refused 'ops\[0\].op = "gem": expected an operation' --plan --machine "$dir/bad.cfg"
finish
