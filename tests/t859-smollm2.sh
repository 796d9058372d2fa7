#!/usr/bin/env bash
# TEST ranks=1 tier=2 limit=900
# SmolLM2-135M-Instruct out of its GGUF: weights to the byte as the peers' reader and writer make them, then scores, logits and greedy tokens
# as transformers computes them (golden/models/text). Needs the model: scripts/fetch-smollm2 run/smollm2, or TEMPER_SMOLLM2=FILE.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
root=$("$compare" root) || skip_all "no goldens: TEMPER_SHARED"
golden=$(realpath "$root/golden/models/text/smollm2.safetensors")
gguf=$(realpath "${TEMPER_SMOLLM2:-run/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}")
[ -e "$gguf" ] || skip_all "no model: scripts/fetch-smollm2 run/smollm2"
unset OMP_NUM_THREADS # all cores: this is the one large test
export RUN_LIMIT=600

for k in 0 1 2; do check "prompt $k" "$compare" tokens "$golden" $k.ids "$dir/$k.safetensors"; done
check "text" "$compare" tokens "$golden" text.ids "$dir/text.safetensors"
stages() {
    local k
    for k in 0 1 2; do
        echo ", { do = \"evaluate\"; name = \"eval-$k\"; data = \"p$k\"; logits_out = \"logits-$k\"; }"
        echo ", { do = \"generate\"; name = \"gen-$k\"; prompts = \"$dir/$k.safetensors\"; max_new_tokens = 48; stop_at_eos = false; output = \"gen-$k.jsonl\"; }"
    done
}
sets() { for k in 0 1 2; do echo "p$k = { sources = ( { path = \"$dir/$k.safetensors\"; } ); };"; done; }
cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; }; model = { path = "@run/model"; }; batch = { micro = 1; };
datasets = { $(sets) text = { sources = ( { path = "$dir/text.safetensors"; } ); }; };
stages = ( { do = "convert"; name = "hf"; input = "$gguf"; output = "model"; }, { do = "evaluate"; name = "text"; data = "text"; } $(stages) );
END
check "convert, evaluate, generate" ends 0 1 "$dir/deck.cfg"
# of the file that gguf-py's decoder, PyTorch's cast to bf16 and safetensors' writer make of it (golden/models/smollm2_to_hf.py)
check "the weights, to the byte" grep -q "^7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b " <(sha256sum "$dir/run/model/model.safetensors")
want=$(sed -n 's/.*"mean_nll": \([0-9.]*\).*/\1/p' "$root/golden/models/text/smollm2.json")
nll=$(sed -n 's/^text\.nll = \([0-9.]*\).*/\1/p' "$dir/out")
check "NLL of 2048 tokens of Emma: $nll, transformers $want" awk -v a="$nll" -v b="$want" 'BEGIN { d = a - b; exit !(a > 0 && d < 1e-4 && d > -1e-4) }'
for k in 0 1 2; do
    check "prompt $k: logits of the last token" "$compare" close "$dir/run/logits-$k" "$golden" 1e-3 logits $k.logits_last
    check "prompt $k: logits of the last four" "$compare" close "$dir/run/logits-$k" "$golden" 1e-3 logits $k.logits_last4_every16
    sed 's/^/# /' "$dir/check"
    check "prompt $k: 48 greedy tokens" "$compare" greedy "$dir/run/gen-$k.jsonl" "$golden" $k.greedy
done
finish
