#!/usr/bin/env bash
# TEST ranks=2 backends=cuda tier=1 limit=300
# numerics.compute = "fp8" on the CUDA backend, on tensor cores without fp8 (codes are widened to bf16) and with: the NLL of a calibrated model
# is within 1e-3, and 5e-3, of the fake-quantized model's in fp32; the same bits on one rank and on a tensor group.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export RUN_LIMIT=120
cat >"$dir/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 256, "vocab_size": 97, "max_position_embeddings": 64,
 "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "run"; seed = 7; }; model = { path = "$dir/model/hf"; };
datasets = { mock = { sources = ( { path = "mock"; } ); seq_length = 16; samples = 4; }; };
quant = { preset = "fp8"; }; batch = { micro = 2; };
stages = ( { do = "calibrate"; name = "ptq"; data = "mock"; },
           { do = "evaluate"; name = "codes"; data = "mock"; compute_error = true; logits_out = "logits"; numerics = { compute = "fp8"; }; } );
END
result() { sed -nE "s/^codes\.$1 = ([^ ]+).*/\1/p" "$dir/out"; }
below() { awk -v x="$1" -v most="$2" 'BEGIN { exit !(x != "" && x + 0 <= most) }'; }
run() { # run RANKS ARGUMENTS...
    rm -rf "$dir/run"
    ends 0 "$1" "$dir/deck.cfg" --set run.dir="$dir/run" --set device.backend=cuda "${@:2}"
}
logits() { sha256sum <"$dir/run/logits"; }

check "a model" ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/model" --set model.random_init="$dir/config.json" --set device.backend=host
while read -r preset capability bound; do
    export CUEMU_ARCH=$capability
    check "$preset, sm_$capability" run 1 --set quant.preset="$preset"
    check "  NLL $(result nll), in fp32 $(result nll_fp32): apart by $(result compute_error)" below "$(result compute_error)" "$bound"
    one=$(logits)
    check "  tp 2" run 2 --set quant.preset="$preset" --set grid.tp=2
    check "  the same bits" test "$one" = "$(logits)"
done <<END
fp8 80 1e-3
fp8_2d_blockwise_weight_only 89 5e-3
END
finish
