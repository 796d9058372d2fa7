#!/usr/bin/env bash
# TEST ranks=16 backends=cuda tier=2 limit=1200
# The main job in small on the CUDA backend, over grids of up to 16 ranks: the host's bytes on each, with the sums over the emulated NCCL.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export RUN_LIMIT=300
cat >"$dir/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
 "num_key_value_heads": 4, "head_dim": 16, "intermediate_size": 96, "vocab_size": 97, "max_position_embeddings": 64,
 "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
sed -e 's/seq_length = 24/seq_length = 12/; s/steps = 4/steps = 1/' "$decks/tiny.cfg" >"$dir/deck.cfg"
check "a model" ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/model" --set model.random_init="$dir/config.json" --set device.backend=host
leaves() { # leaves FILE BACKEND RANKS ARGUMENTS...: run the deck; what it left in FILE
    rm -rf "$dir/run"
    ends 0 "$3" "$dir/deck.cfg" --set run.dir="$dir/run" --set model.path="$dir/model/hf" --set teacher.path="$dir/model/hf" \
        --set device.backend="$2" "${@:4}" || return 1
    grep -q "device $2" "$dir/log" || { echo "another device"; return 1; }
    [ "$3" = 1 ] || [ "$2" = host ] || says 'between devices: NCCL' || return 1
    facts "$dir/run" >"$1"
    [ "$(grep -c '"nll"' "$1")" -ge 3 ] || { echo "no NLL"; return 1; }
}
same() { leaves "$dir/cuda" cuda "$@" && diff "$dir/host" "$dir/cuda"; }
check "on the host, one rank" leaves "$dir/host" host 1
for grid in {1,2,4}" "{1,2}" "{1,2}; do
    read -r tp pp dp <<<"$grid"
    check "on cuda, tp $tp pp $pp dp $dp: the same, everywhere" same $((tp * pp * dp)) --set grid.tp="$tp" --set grid.pp="$pp"
done
finish
