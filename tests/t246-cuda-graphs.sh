#!/usr/bin/env bash
# TEST ranks=1,2 backends=cuda tier=1 limit=200
# device.graphs: the main job in small leaves the same bytes with and without; on one rank and on a pipeline of two, where passes are recorded, and on a
# tensor group, where they are not.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export RUN_LIMIT=100
cat >"$dir/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 97, "max_position_embeddings": 64,
 "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
sed -e 's/seq_length = 24/seq_length = 8/; s/steps = 4/steps = 2/; s/preset = "nvfp4"/preset = "fp8"/' "$decks/tiny.cfg" >"$dir/deck.cfg"
leaves() { # leaves FILE RANKS ARGUMENTS...: run the deck; what it left in FILE
    rm -rf "$dir/run"
    ends 0 "$2" "$dir/deck.cfg" --set run.dir="$dir/run" --set model.path="$dir/model/hf" --set teacher.path="$dir/model/hf" \
        --set device.backend=cuda "${@:3}" || return 1
    facts "$dir/run" >"$1"
}
same() { leaves "$dir/graphs" "$@" --set device.graphs=true && diff "$dir/plain" "$dir/graphs"; }
graphs() { sed -nE 's/.* graphs runs=([0-9]+).*/\1/p' "$dir/log" | tail -n 1 | grep . || echo 0; }

check "a model" ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/model" --set model.random_init="$dir/config.json" --set device.backend=host
if [ "$RANKS" = 1 ]; then
    check "without" leaves "$dir/plain" 1
    check "  no graph was run" test "$(graphs)" = 0
    check "with: the same bytes" same 1
    check "  $(graphs) graphs were run" test "$(graphs)" -gt 30
    check "a profile records none" same 1 --profile
    check "  none was run" test "$(graphs)" = 0
else
    check "pipeline, without" leaves "$dir/plain" 2 --set grid.pp=2
    check "with: the same bytes" same 2 --set grid.pp=2
    check "  $(graphs) graphs were run" test "$(graphs)" -gt 30
    check "a tensor group: the same bytes" same 2 --set grid.tp=2
    check "  none was run" test "$(graphs)" = 0
fi
finish
