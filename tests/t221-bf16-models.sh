#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=120
# numerics.compute = "bf16" on whole models: logits and gradients are as near to transformers in fp64 (golden/models/tiny) as transformers'
# own are in bf16 (4.57.6 on torch 2.13, model and sums in torch.bfloat16, the same inputs: the NMSE below), and not as near as fp32.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
root=$("$compare" root) || skip_all "no goldens: TEMPER_SHARED"
root=$(realpath "$root/golden/models/tiny")

while read -r family logits gradients; do
    golden=$root/$family/golden.safetensors
    "$compare" tokens "$golden" in.input_ids "$dir/rows.safetensors" || skip_all "no $golden"
    cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; log = "warn"; }; grid = { tp = 2; }; model = { path = "$root/$family"; };
numerics = { compute = "bf16"; }; batch = { micro = 2; global = 2; };
datasets = { rows = { sources = ( { path = "$dir/rows.safetensors"; } ); }; };
stages = ( { do = "evaluate"; name = "forward"; data = "rows"; logits_out = "logits"; },
           { do = "train"; data = "rows"; steps = 1; gradients_out = "grads"; } );
END
    rm -rf "$dir/run"
    check "$family: runs" ends 0 2 "$dir/deck.cfg"
    check "$family: logits <= $logits" "$compare" nmse "$dir/run/logits" "$golden" "$logits" logits
    check "$family: gradients <= $gradients" "$compare" grads "$dir/run/grads" "$root/$family/grads.safetensors" "$gradients"
    check "  and these are not fp32's" bash -c "! '$compare' nmse '$dir/run/logits' '$golden' 1e-6 logits"
    check "  nor the gradients" bash -c "! '$compare' grads '$dir/run/grads' '$root/$family/grads.safetensors' 1e-6"
done <<END
llama 3.5e-4 2.2e-3
qwen2 2.4e-4 1.5e-3
qwen3 1.7e-4 1.2e-3
nemotron 1.9e-4 1.2e-3
END
finish
