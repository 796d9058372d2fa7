#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=300
# TEST ranks=2 backends=cuda tier=1 limit=300
# The family nemotron (layer norms, an MLP without a gate, half of each head turned) through the main job in small: the same bytes on every grid,
# in its variants too; the names of its export; greedy tokens against transformers; and on the CUDA backend what the host leaves.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
leaves() { # leaves FILE RANKS ARGUMENTS...: run the deck on $model; everything that must not depend on the grid, a line each
    rm -rf "$dir/run"
    ends 0 "$2" "$deck" --set run.dir="$dir/run" --set model.path="$model" --set teacher.path="$model" "${@:3}" &&
        facts "$dir/run" >"$1"
}
random_model() { # random_model NAME: $config becomes a Hugging Face directory with weights, $dir/NAME/hf
    ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/$1" --set model.random_init="$config" --set device.backend=host
}
same() { leaves "$dir/this" "$@" && diff "$dir/reference" "$dir/this"; }
exported() { grep -aoE '"model\.[^"]*(weight|bias|scale|_2)"' "$1/model.safetensors" | LC_ALL=C sort -u; }
tp=grid.tp pp=grid.pp tier=${TIER:-1}
config=$tests/data/tiny-nemotron/config.json deck=$decks/tiny.cfg
if [ "${TEMPER_TEST_BACKEND:-host}" = cuda ]; then # smaller: the kernels are emulated
    sed -e 's/_size": 128/_size": 64/; s/head_dim": 48/head_dim": 24/; s/size": 352/size": 96/; s/layers": 3/layers": 2/' $config >"$dir/config.json"
    sed -e 's/seq_length = 24/seq_length = 12/; s/steps = 4/steps = 1/' "$deck" >"$dir/deck.cfg"
    config=$dir/config.json deck=$dir/deck.cfg model=$dir/small/hf
    check "a small model" random_model small
    check "the host, one rank" leaves "$dir/reference" 1 --set device.backend=host
    check "cuda, tp 2" same 2 --set device.backend=cuda --set $tp=2
    check "  it was" grep -q "device cuda" "$dir/log"
    [ "$tier" -lt 2 ] || check "cuda, pp 2" same 2 --set device.backend=cuda --set $pp=2
    finish
fi

model=$dir/plain/hf
check "a model" random_model plain
check "one rank" leaves "$dir/reference" 1
check "its export verifies" ends 0 1 --verify-export "$dir/run/export"
exported "$dir/run/export" >"$dir/names"
check "  linears in NVFP4, among them no gate" test "$(grep -c 'weight_scale_2"' "$dir/names")" = $((3 * 6))
check "  each norm has a gain and a bias" test "$(grep -cE 'norm\.(weight|bias)"' "$dir/names")" = $((2 * (3 * 2 + 1)))
for field in '"model_type": "nemotron"' '"hidden_act": "relu2"' '"partial_rotary_factor": 0.5' '"norm_eps": 1e-05' '"quant_algo": "NVFP4"'; do
    check "  config.json says $field" grep -qF "$field" "$dir/run/export/config.json"
done
check "tp 2 x pp 2" same 4 --set $tp=2 --set $pp=2
check "tp 4: two ranks share a KV head, guard backend, recompute" same 4 --set $tp=4 --set device.backend=guard --set numerics.recompute=layer
[ "$tier" -lt 2 ] || check "dp 2" same 2
[ "$tier" -lt 2 ] || check "pp 3" same 3 --set $pp=3
check "bf16, one rank" leaves "$dir/reference" 1 --set numerics.compute=bf16
check "bf16, tp 2 x pp 2" same 4 --set numerics.compute=bf16 --set $tp=2 --set $pp=2

# gelu, biases everywhere, tied embeddings
sed -e 's/relu2/gelu/; s/_bias": false/_bias": true/; s/embeddings": false/embeddings": true/' $config >"$dir/config.json"
config=$dir/config.json model=$dir/variant/hf
check "a model" random_model variant
check "one rank" leaves "$dir/reference" 1 --set quant.preset=fp8
check "tp 2 x pp 2" same 4 --set quant.preset=fp8 --set $tp=2 --set $pp=2
check "a plan of it for 8 ranks" ends 0 1 "$deck" --set model.path="$model" --set teacher.path="$model" --set grid.tp=2 --set grid.pp=2 --plan --as-ranks 8

# logits and every gradient against transformers in fp64: gelu of both kinds, biases, three quarters of each head turned (tests/golden/nemotron)
golden=$tests/golden/nemotron
mkdir -p "$dir/peer"
ln -s "$golden/model.safetensors" "$dir/peer"
check "a peer's tokens" "$compare" tokens "$golden/logits-gelu.safetensors" in.input_ids "$dir/rows.safetensors"
cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; log = "warn"; }; model = { path = "$dir/peer"; }; batch = { micro = 2; global = 2; };
datasets = { rows = { sources = ( { path = "$dir/rows.safetensors"; } ); }; };
stages = ( { do = "evaluate"; data = "rows"; logits_out = "logits"; }, { do = "train"; data = "rows"; steps = 1; gradients_out = "grads"; } );
END
for act in gelu gelu_pytorch_tanh; do
    sed "s/\"gelu\"/\"$act\"/" "$golden/config.json" >"$dir/peer/config.json"
    rm -rf "$dir/run"
    check "$act, tp 2" ends 0 2 "$dir/deck.cfg" --set $tp=2
    check "  logits <= 1e-11" "$compare" nmse "$dir/run/logits" "$golden/logits-$act.safetensors" 1e-11 logits
    check "  gradients <= 1e-9" "$compare" grads "$dir/run/grads" "$golden/grads-$act.safetensors" 1e-9
done

root=$("$compare" root) || finish
root=$(realpath "$root/golden/models/tiny/nemotron")
cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; log = "warn"; }; model = { path = "$root"; };
stages = ( { do = "generate"; prompts = "$dir/prompt.safetensors"; max_new_tokens = 24; stop_at_eos = false; output = "text.jsonl"; } );
END
check "a prompt" "$compare" tokens "$root/golden.safetensors" greedy.prompt "$dir/prompt.safetensors"
rm -rf "$dir/run"
check "24 greedy tokens, tp 2" ends 0 2 "$dir/deck.cfg" --set $tp=2
check "  as transformers has them" "$compare" greedy "$dir/run/text.jsonl" "$root/golden.safetensors" greedy.tokens
finish
