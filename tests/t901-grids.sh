#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# The same bytes on every grid: checkpoints, export, statistics, logits, gradients and evaluation numbers of the main job in small, on all
# grids, thread counts, backends and instruction sets; and what must change them does.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
signature() { # signature FILE RANKS ARGUMENTS...: run the deck on $model; everything that must not depend on the grid, a line each
    rm -rf "$dir/run"
    ends 0 "$2" "$decks/tiny.cfg" --set run.dir="$dir/run" --set model.path="$model" --set teacher.path="$model" "${@:3}" &&
        facts "$dir/run" >"$1"
}
same() { # same RANKS ARGUMENTS...: the signature is the reference's
    signature "$dir/this" "$@" && diff "$dir/reference" "$dir/this"
}
differs() { # differs LINE RANKS ARGUMENTS...: it runs, and the line of the signature is another one
    signature "$dir/this" "${@:2}" || return 1
    [ "$(grep -c "$1" "$dir/this")" -ge 1 ] && [ "$(grep "$1" "$dir/reference")" != "$(grep "$1" "$dir/this")" ]
}
tp=grid.tp pp=grid.pp tier=${TIER:-1}

model=$dir/tiny-llama/hf
check "a model" make_model tiny-llama
check "one rank" signature "$dir/reference" 1
check "  wrote what is compared: $(wc -l <"$dir/reference") lines" test "$(grep -cE '^(01-ptq|03-qad) [0-9a-f]{16}$|^[0-9a-f]{64} ' "$dir/reference")" = 5
[ "$tier" -lt 2 ] || check "one rank again" same 1
check "tp 2" same 2 --set $tp=2
check "pp 2" same 2 --set $pp=2
check "dp 2" same 2
check "tp 2 x pp 2" same 4 --set $tp=2 --set $pp=2
check "tp 4: two ranks share a KV head" same 4 --set $tp=4
[ "$tier" -lt 2 ] || check "tp 2 x dp 2" same 4 --set $tp=2
[ "$tier" -lt 2 ] || check "pp 3" same 3 --set $pp=3
[ "$tier" -lt 2 ] || check "dp 4" same 4
check "two threads" env OMP_NUM_THREADS=2 bash -c "$(declare -f); $(declare -p dir tests decks model TEMPER); same 2 --set grid.tp=2"
check "guard backend, tp 2 x pp 2" same 4 --set $tp=2 --set $pp=2 --set device.backend=guard
check "recompute" same 1 --set numerics.recompute=layer
for kernel in portable avx2; do
    [ $kernel = portable ] || grep -qw $kernel /proc/cpuinfo || continue
    export TEMPER_KERNEL=$kernel
    check "$kernel kernels, tp 2" same 2 --set $tp=2
    check "  were used" grep -q "device host: $kernel" "$dir/log"
    unset TEMPER_KERNEL
done

# bf16: the same on grids and, because the sums of AMX are the definition, on every instruction set
mv "$dir/reference" "$dir/fp32"
check "bf16, one rank" signature "$dir/reference" 1 --set numerics.compute=bf16
check "  is not fp32" bash -c "! diff '$dir/fp32' '$dir/reference'"
check "bf16, tp 2 x pp 2" same 4 --set numerics.compute=bf16 --set $tp=2 --set $pp=2
[ "$tier" -lt 2 ] || check "bf16, tp 4, guard backend" same 4 --set numerics.compute=bf16 --set $tp=4 --set device.backend=guard
if grep -qw avx2 /proc/cpuinfo; then
    export TEMPER_KERNEL=avx2
    check "bf16, avx2 kernels, tp 2" same 2 --set numerics.compute=bf16 --set $tp=2
    unset TEMPER_KERNEL
fi
check "bf16, only the teacher" differs '^03-qad' 1 --set numerics.compute=bf16 --set teacher.compute=fp32
check "weights of bf16 values, one rank" signature "$dir/reference" 1 --set qad.optim.master=bf16
check "  are others" bash -c "! diff <(grep ^03-qad '$dir/fp32') <(grep ^03-qad '$dir/reference')"
check "  tp 2 x dp 2" same 4 --set qad.optim.master=bf16 --set $tp=2
mv "$dir/fp32" "$dir/reference"

# negative controls
export TEMPER_FAULT="par:tree-order:*:0"
check "control: sums in another order at tp 4 change the trained bytes" differs '^03-qad' 4 --set $tp=4
unset TEMPER_FAULT
check "control: MPI's own sums at tp 4 change the trained bytes" differs '^03-qad' 4 --set $tp=4 --set numerics.grid_invariant=false
check "control: one segment for all of dp 2 changes the trained bytes" differs '^03-qad' 2 --set numerics.dp_segments=1
check "  but not what calibration found" test "$(grep ^01-ptq "$dir/reference")" = "$(grep ^01-ptq "$dir/this")"
check "control: another seed" differs '^03-qad' 1 --set run.seed=8

# 9 heads, 3 KV heads, tied embeddings, 97 tokens, 11 blocks of 16 in the FFN: uneven boxes, and an empty one on tp 4
model=$dir/uneven-llama/hf
check "an uneven model" make_model uneven-llama
check "one rank" signature "$dir/reference" 1
check "tp 2" same 2 --set $tp=2
[ "$tier" -lt 2 ] || check "tp 2 x pp 2" same 4 --set $tp=2 --set $pp=2
check "tp 4" same 4 --set $tp=4
finish
