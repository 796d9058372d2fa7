#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# Logits, hidden states, left-padded rows and every gradient of six families against transformers in fp64 (golden/models/tiny), on seven grids.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
root=$("$compare" root) || skip_all "no goldens: TEMPER_SHARED"
root=$(realpath "$root/golden/models/tiny")

deck() { # deck FAMILY TP PP DP: probes of a forward pass, of a left-padded one, and of one training step
    local micro=$((2 / $4))
    cat <<END
version = 1; run = { dir = "$dir/run"; log = "warn"; }; grid = { tp = $2; pp = $3; }; model = { path = "$root/$1"; };
numerics = { dp_segments = $4; }; batch = { micro = $micro; global = 2; };
datasets = { rows = { sources = ( { path = "$dir/rows.safetensors"; } ); }; padded = { sources = ( { path = "$dir/padded.safetensors"; } ); }; };
stages = ( { do = "evaluate"; name = "forward"; data = "rows"; logits_out = "logits"; hidden_out = "hidden"; },
           { do = "evaluate"; name = "padded"; data = "padded"; logits_out = "padded"; },
           { do = "train"; data = "rows"; steps = 1; gradients_out = "grads"; } );
END
}
for family in llama llama3_rope mistral qwen2 qwen3 nemotron; do
    golden=$root/$family/golden.safetensors
    check "$family: token files" "$compare" tokens "$golden" in.input_ids "$dir/rows.safetensors"
    "$compare" tokens "$golden" in.input_ids "$dir/padded.safetensors" leftpad.attention_mask
    for grid in "1 1 1" "2 1 1" "4 1 1" "1 2 1" "1 1 2" "2 2 1" "2 1 2"; do
        read -r tp pp dp <<<"$grid"
        at="$family tp=$tp pp=$pp dp=$dp"
        rm -rf "$dir/run"
        deck "$family" $grid >"$dir/deck.cfg"
        check "$at: runs" ends 0 $((tp * pp * dp)) "$dir/deck.cfg"
        check "$at: logits <= 1e-11" "$compare" nmse "$dir/run/logits" "$golden" 1e-11 logits
        check "$at: hidden states <= 1e-11" "$compare" nmse "$dir/run/hidden" "$golden" 1e-11 hidden.in hidden.0 hidden.1 hidden.final
        check "$at: left-padded logits <= 1e-11" "$compare" last "$dir/run/padded" "$golden" 1e-11 logits leftpad.logits_last
        check "$at: gradients <= 1e-9" "$compare" grads "$dir/run/grads" "$root/$family/grads.safetensors" 1e-9
    done
done
finish
