#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=200
# numerics.compute = "fp8" on whole models: products of E4M3 codes give what the fake-quantized model gives in fp32, up to the rounding of sums; the same
# bits on any grid; and an FP8 export, read back, gives the bits of the model it was made from.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
cat >"$dir/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 384, "vocab_size": 97, "max_position_embeddings": 64,
 "tie_word_embeddings": false, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
{ # two prompts of five tokens, a safetensors file
    header='{"input_ids":{"dtype":"I32","shape":[2,5],"data_offsets":[0,40]}}'
    printf '%b' "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0$header"
    for id in 1 17 42 5 96 1 3 9 27 81; do printf '%b' "\\x$(printf %02x $id)\\0\\0\\0"; done
} >"$dir/prompts.safetensors"
model=$dir/model/hf

deck() { # deck MODEL [STAGE...]: $dir/deck.cfg
    local path=$1
    shift
    cat <<END >"$dir/deck.cfg"
version = 1; run = { dir = "$dir/run"; seed = 7; }; model = { path = "$path"; };
datasets = { mock = { sources = ( { path = "mock"; } ); seq_length = 24; samples = 8; }; };
quant = { preset = "$preset"; kv_cache = "fp8"; }; batch = { micro = 2; };
stages = ( $* );
END
    rm -rf "$dir/run"
}
calibrate='{ do = "calibrate"; name = "ptq"; data = "mock"; }'
fp8='numerics = { compute = "fp8"; };'
codes="{ do = \"evaluate\"; name = \"codes\"; data = \"mock\"; compute_error = true; logits_out = \"logits\"; $fp8 }"
fake='{ do = "evaluate"; name = "fake"; data = "mock"; }'
text="{ do = \"generate\"; name = \"text\"; prompts = \"$dir/prompts.safetensors\"; max_new_tokens = 6; output = \"text.jsonl\"; $fp8 }"
result() { # result STAGE NAME: as it was printed
    sed -nE "s/^$1\.$2 = ([^ ]+).*/\1/p" "$dir/out"
}
results() { # results FILE: what must not depend on the grid, and what comes before an export and after it
    { grep -E '^(codes|fake|text)\.' "$dir/out" | grep -vE 'tokens_per_s|bits_per_weight|seconds'; sha256sum <"$dir/run/logits"; sha256sum <"$dir/run/text.jsonl"; } >"$1"
    [ "$(grep -c nll "$1")" -ge 2 ] || { cat "$1"; return 1; }
}
same() { # same RANKS ARGUMENTS...: the results are $dir/reference
    rm -rf "$dir/run"
    ends 0 "$1" "$dir/deck.cfg" "${@:2}" && results "$dir/this" && diff "$dir/reference" "$dir/this"
}
below() { awk -v x="$1" -v most="$2" 'BEGIN { exit !(x != "" && x + 0 <= most) }'; }

check "a model" ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/model" --set model.random_init="$dir/config.json"
for preset in fp8 fp8_per_channel_per_token fp8_2d_blockwise_weight_only; do
    deck "$model" "$calibrate, $fake, $codes, $text, { do = \"export\"; dir = \"export\"; }"
    check "$preset: calibrated" ends 0 1 "$dir/deck.cfg"
    check "  its results" results "$dir/reference"
    # Each product is as near as t205 says. But a number that lies on the border between two codes goes to the other one, 1/16 off, when it moves by a
    # rounding, so the order of sums is seen in the NLL: another order in fp32 moves the fake-quantized model as far. 192 tokens of random weights.
    check "  NLL $(result codes nll), in fp32 $(result codes nll_fp32): apart by $(result codes compute_error)" below "$(result codes compute_error)" 1e-3
    case $preset in
    *weight_only) check "  inputs are quantized too" test "$(result codes nll_fp32)" != "$(result fake nll)" ;;
    *) check "  fp32 is what evaluate gives" test "$(result codes nll_fp32)" = "$(result fake nll)" ;;
    esac
    check "  and is not the sums of codes" test "$(result codes nll)" != "$(result codes nll_fp32)"
    check "  tp 2" same 2 --set grid.tp=2
    check "  tp 2 x pp 2, guard" same 4 --set grid.tp=2 --set grid.pp=2 --set device.backend=guard
    mv "$dir/run/export" "$dir/$preset"
    deck "$dir/$preset" "$fake, $codes, $text"
    check "  the export, read back: the same bits" same 1
    check "  tp 2" same 2 --set grid.tp=2
done

# teachers
deck "$model" "{ do = \"evaluate\"; name = \"same\"; data = \"mock\"; teacher = { path = \"$model\"; compute = \"fp8\"; }; },
    { do = \"evaluate\"; name = \"export\"; data = \"mock\"; teacher = { path = \"$dir/fp8\"; compute = \"fp8\"; }; },
    { do = \"distill\"; data = \"mock\"; steps = 1; teacher = { path = \"$model\"; compute = \"fp8\"; }; }"
check "teacher.compute = fp8: a plain model, an export, in distill" ends 0 2 "$dir/deck.cfg" --set grid.tp=2
check "  near the model itself: KL $(result same kl)" below "$(result same kl)" 5e-3
check "  but not the model itself" bash -c "! awk 'BEGIN { exit !($(result same kl) < 1e-7) }'"
check "  an export of it: KL $(result export kl)" below "$(result export kl)" 2e-2

# refusals
preset=fp8 deck "$model" "$calibrate"
check "calibrate by codes" ends 2 1 "$dir/deck.cfg" --set numerics.compute=fp8
check "  says so" says 'numerics.compute: "fp8" is for evaluate and generate, not for "calibrate"'
deck "$model" "$codes"
check "codes of a model that has none" ends 2 1 "$dir/deck.cfg"
check "  says so" says 'needs a quantized model: an FP8 export'
preset=nvfp4 deck "$model" "$calibrate, $codes"
check "codes of NVFP4" ends 14 1 "$dir/deck.cfg"
check "  says so" says 'no linear has E4M3 codes'
finish
