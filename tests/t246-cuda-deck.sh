#!/usr/bin/env bash
# TEST ranks=1,2 backends=cuda tier=1 limit=300
# The main job in small on the CUDA backend leaves what it leaves on the host: checkpoints, export, statistics, logits, gradients, generated
# tokens and every number of the evaluations; on one rank, and on two as a tensor group, a pipeline and replicas.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export RUN_LIMIT=120
cat >"$dir/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 97, "max_position_embeddings": 64,
 "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
{ # two prompts of five tokens, a safetensors file
    header='{"input_ids":{"dtype":"I32","shape":[2,5],"data_offsets":[0,40]}}'
    printf '%b' "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0$header"
    for id in 1 17 42 5 96 1 3 9 27 81; do printf '%b' "\\x$(printf %02x $id)\\0\\0\\0"; done
} >"$dir/prompts.safetensors"
sed -e 's/seq_length = 24/seq_length = 16/; s/steps = 4/steps = 2/' \
    -e "s|^  { do = \"export\"|  { do = \"generate\"; prompts = \"$dir/prompts.safetensors\"; max_new_tokens = 6; output = \"text.jsonl\"; },\n&|" \
    "$decks/tiny.cfg" >"$dir/deck.cfg"

deck() { # deck RUN BACKEND RANKS ARGUMENTS...
    rm -rf "$1"
    ends 0 "$3" "$dir/deck.cfg" --set run.dir="$1" --set model.path="$dir/model/hf" --set teacher.path="$dir/model/hf" --set device.backend="$2" \
        "${@:4}"
}
leaves() { # leaves FILE BACKEND RANKS ARGUMENTS...: run the deck; what it left in FILE
    deck "$dir/run" "${@:2}" || return 1
    grep -q "device $2" "$dir/log" || { echo "another device"; return 1; }
    { facts "$dir/run" && sha256sum <"$dir/run/text.jsonl"; } >"$1"
    [ "$(grep -c '"nll"' "$1")" -ge 3 ] || { echo "no NLL"; return 1; }
}
nll() { awk '/"quantized":/ { on = 1 } on && /"nll":/ { print $2 + 0; exit }' OFMT=%.9g "$1/results.json"; }
same() { leaves "$dir/cuda" cuda "$@" && diff "$dir/host" "$dir/cuda"; }

check "a model" ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/model" --set model.random_init="$dir/config.json" --set device.backend=host
if [ "$RANKS" = 1 ]; then
    for preset in nvfp4 fp8 fp8_2d_blockwise_weight_only; do
        check "$preset: on the host" leaves "$dir/host" host 1 --set quant.preset=$preset
        check "  on cuda: the same, everywhere" same 1 --set quant.preset=$preset
    done
    # bf16: tensor cores add a product's terms in another order than the host. Before any training the codes and scales of weights are the same
    # bits, the NLL of 128 tokens is within 1e-3.
    sed -i '/"qad"\|"after"\|"generate"/d' "$dir/deck.cfg"
    for backend in host cuda; do
        check "bf16, no training: on $backend" deck "$dir/bf16-$backend" $backend 1 --set numerics.compute=bf16
    done
    for part in {0,1}.{self_attn.{q,k,v,o},mlp.{gate,up,down}}_proj.{weight,weight_scale,weight_scale_2}; do
        check "  $part" "$compare" same "$dir"/bf16-{cuda,host}/export/model.safetensors "model.layers.$part"
    done
    check "  NLL: $(nll "$dir/bf16-cuda") and $(nll "$dir/bf16-host")" awk -v a="$(nll "$dir/bf16-cuda")" -v b="$(nll "$dir/bf16-host")" \
        'BEGIN { exit !(a > 4 && a - b < 1e-3 && b - a < 1e-3) }'
else
    check "on the host, one rank" leaves "$dir/host" host 1
    check "on cuda, tp 2: the same, everywhere" same 2 --set grid.tp=2
    check "on cuda, pp 2" same 2 --set grid.pp=2
    check "on cuda, dp 2" same 2
fi
finish
