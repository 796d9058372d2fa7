#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=60
# --plan of a 70B shape on 1024 ranks: numbers from the shape alone, quickly; refusals.
set -u
. tests/tap.sh
deck=inputs/plan-llama-70b.cfg
TIMEFORMAT=%U
seconds=$({ time "$TEMPER" $deck --plan --as-ranks 1024 --rate 100 >/tmp/temper-plan-$$ 2>&1; } 2>&1)
log=$(cat /tmp/temper-plan-$$)
rm -f /tmp/temper-plan-$$
awk -v s="$seconds" 'BEGIN { exit !(s < 2) }'
ok $? "planned in $seconds s of processor time, below 2 s"
of() { awk -v s="$1" '/^stage / { on = $2 == s } on' <<<"$log"; }
class() { of "$1" | sed -nE "s/^    $2 +[0-9.]+ [KMGT]?i?B +([0-9]+)$/\1/p"; }

# A rank of tp 8, pp 8 has 10 layers and an eighth of each matrix; norms are whole; the first stage has the embedding, the last the head and
# the final norm. Student and teacher are of one shape.
layers=$((10 * ((8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * 28672) / 8 + 2 * 8192)))
first=$((4 * (layers + 128256 / 8 * 8192)))
is "$(class qad weights)" $((2 * first)) "weights of student and teacher on the first stage"
is "$(class qad optimizer)" $((2 * first)) "two moments of the student"
is "$(class ptq weights)" $((first + 4 * 8192)) "calibration: the last stage is the largest: the head and the final norm"
is "$(class qad 'norm slots')" $(((3 + 80 * 9) * 8 * 8)) "fp64 slots: 8 segments of each of the model's parameters"
params=$((80 * (8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * 28672 + 2 * 8192) + 8192 + 2 * 128256 * 8192))
is $params 70553706496 "parameters of the shape"
saved=$(of qad | sed -nE 's/.*a checkpoint \(([0-9]+) bytes\).*/\1/p')
scales=$(of ptq | sed -nE 's/.*a checkpoint \(([0-9]+) bytes\).*/\1/p')
is "$saved" $((12 * params + scales)) "a checkpoint: masters and two moments in fp32, and the quantizers' maxima"
is "$scales" $((4 * 2 * 80 * 7)) "a weight's and an input's maximum of each of the 560 quantized linears"

# FLOPs of a step, in units of 2 per parameter and token: the student's forward, its repetition and backward 4, the teacher's forward 1 (heads
# are not repeated); attention 2 t (t + 1) heads d a layer and row, forward, again, teacher, and 2.5 times that backward.
got=$(of qad | sed -nE 's/.*work: ([0-9.e+]+) FLOPs a step.*/\1/p')
awk -v g="$got" 'BEGIN { t = 1024 * 4096; p = 80 * (8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * 28672); h = 128256 * 8192
    w = 2 * t * (5 * p + 4 * h) + 1024 * 80 * 2 * 4096 * 4097 * 8192 * 5.5; exit !(g > w && g < 1.01 * w) }'
ok $? "FLOPs of a step ($got) are those of products and attention and at most 1% more"
grep -q 'time: about .* at 100 GFLOP/s a rank' <<<"$log"
ok $? "a time at the given rate"

refused() { # refused TEXT ARGUMENTS...
    local text=$1
    shift
    log=$("$TEMPER" $deck "$@" 2>&1)
    is $? 2 "refused: $*"
    grep -q "$text" <<<"$log"
    ok $? "it says: $text"
}
refused 'grid.tp\*grid.pp = 64 does not divide the 1000 ranks' --plan --as-ranks 1000
refused 'expected a number of ranks' --plan --as-ranks many
refused 'expected GFLOP/s of one rank' --plan --rate -3
refused 'as-ranks goes with --plan' --as-ranks 64
refused 'more pipeline stages than' --plan --set grid.pp=96
finish
