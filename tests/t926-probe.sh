#!/usr/bin/env bash
# TEST ranks=1,2 tier=1 limit=120
# temper --probe: the file that it writes is a machine file with what a plan needs, and plans with it are of the order of the run.
set -u
. tests/tap.sh
case $BUILD in *san) { echo "1..0 # SKIP the rates of an instrumented program say nothing"; exit 0; } ;; esac
[ "$RANKS" = 1 ] || [ "$TIER" = 2 ] || { echo "1..0 # SKIP tier 2"; exit 0; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
program=$(realpath "$TEMPER")
deck=$PWD/inputs
log=$(cd "$dir" && mpirun -np "$RANKS" "$program" --probe --out machine.cfg 2>&1)
ok $? "--probe on $RANKS"
is "$(ls "$dir")" machine.cfg "it leaves nothing but the file"
value() { # value GROUP KEY
    awk -v g="$1" -v k="$2" '$1 == g && $2 == "=" { on = 1 } on && $1 == k { sub(";", "", $3); print $3; exit }' "$dir/machine.cfg"
}
positive() {
    awk -v v="$(value "$1" "$2")" 'BEGIN { exit !(v != "" && v > 0) }'
    ok $? "$1.$2 = $(value "$1" "$2") is measured"
}
for k in fp32_gflops bf16_gflops memory_gbs memory_gib; do positive rank $k; done
for k in write_gbs read_gbs load_gels restore_gels draw_gels save_gbs export_gels; do positive files $k; done
is "$(sed -nE 's/^ranks_a_node = ([0-9]+);/\1/p' "$dir/machine.cfg")" "$RANKS" "ranks a node"
if [ "$RANKS" = 2 ]; then
    positive node latency_us
    positive node gbs
else
    is "$(value node gbs)" 0.0 "one rank has nobody to measure messages with"
fi
for op in gemm gemm_bf16 attn_fwd attn_bwd_bf16 rmsnorm_fwd swiglu_bwd rope embed_bwd sum_exp kl_grad ce_grad adamw fake_quant; do
    grep -q "op = \"$op\"" "$dir/machine.cfg" || ok 1 "$op is measured"
done
ok 0 "operations are measured"
cat >"$dir/deck.cfg" <<END
version = 1;
run = { dir = "$dir/run"; };
model = { path = "$deck/models/austen-3m"; };
datasets = { d = { sources = ( { path = "mock"; } ); seq_length = 256; samples = 64; }; };
batch = { micro = 4; global = 8; };
optim = { lr = 1e-5; };
stages = ( { do = "train"; data = "d"; steps = 6; }, { do = "evaluate"; data = "d"; } );
END
log=$("$TEMPER" "$dir/deck.cfg" --plan --as-ranks "$RANKS" --machine "$dir/machine.cfg" 2>&1)
ok $? "a plan with it"
! grep -q 'lacks' <<<"$log"
ok $? "nothing is lacking"
plan=$log
log=$(mpirun -np "$RANKS" "$TEMPER" "$dir/deck.cfg" 2>/dev/null)
ok $? "the run"
for s in train evaluate; do
    planned=$(awk -v s=$s '/^stage / { on = $2 == s } on' <<<"$plan" | sed -nE 's/.*time on .*: about ([0-9.e+-]+) s.*/\1/p')
    took=$(sed -nE "s/^$s.seconds = ([0-9.e+-]+) s/\1/p" <<<"$log")
    awk -v p="$planned" -v t="$took" 'BEGIN { exit !(p > 0 && p < 5 * t && t < 5 * p) }'
    ok $? "$s: planned $planned s, took $took s (machines of tests are busy: the bench compares closely)"
done
for wrong in '--probe x.cfg' '--out x.cfg'; do
    # shellcheck disable=SC2086
    log=$("$TEMPER" $wrong 2>&1)
    is $? 2 "refused: $wrong"
done
finish
