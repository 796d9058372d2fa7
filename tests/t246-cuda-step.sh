#!/usr/bin/env bash
# TEST ranks=1 backends=cuda tier=1 limit=120
# What a step on the CUDA backend asks of the device, by the emulation's trace: nothing is allocated after the first step began, the host waits
# once a step, a decoder layer forward without quantizers takes at most 14 launches where its products fill the device (else one more for each); that
# Hopper's attention is what runs there.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export RUN_LIMIT=100
config() { # config LAYERS: a model of so many
    mkdir "$dir/m$1"
    cat >"$dir/m$1/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": $1, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 97, "max_position_embeddings": 64,
 "tie_word_embeddings": true, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
}
deck() { # deck NAME LAYERS STAGE [TOKENS]
    cat >"$dir/$1.cfg" <<END
version = 1; run = { dir = "$dir/$1"; };
model = { random_init = "$dir/m$2"; };
datasets = { d = { sources = ( { path = "mock"; } ); seq_length = ${4:-16}; samples = 4; }; };
batch = { micro = 1; global = 4; };
optim = { lr = 1e-3; };
stages = ( { data = "d"; $3 } );
END
}
traced() { # traced NAME ARGUMENTS...: run the deck on the emulated device
    CUEMU_TRACE=$dir/$1.trace ends 0 1 "$dir/$1.cfg" --set device.backend=cuda "${@:2}"
}
# From the first look-up of a token to the last launch: lines of the trace that match
count() { awk -v p="$2" '/^launch .*gpu_embed_fwd/ { on = 1 } on && $0 ~ p { n++ } on && /^launch/ { last = n } END { print last + 0 }' "$dir/$1.trace.0"; }

config 2
config 3
export CUEMU_PROCESSORS=1 # 200 tokens fill it twice
for layers in 2 3; do
    deck forward$layers $layers 'do = "evaluate";' 200
    check "forward, $layers layers" traced forward$layers
    deck bf16-$layers $layers 'do = "evaluate";' 200
    check "  in bf16" traced bf16-$layers --set numerics.compute=bf16
done
unset CUEMU_PROCESSORS
layer() { echo $((($(count "${1}3" ^launch) - $(count "${1}2" ^launch)) / 4)); } # of 4 micro-batches
check "a layer forward: $(layer forward) launches, at most 14" test "$(layer forward)" -le 14
check "  no layer is free: at least 13" test "$(layer forward)" -ge 13
check "a layer forward in bf16, factors packed: $(layer bf16-) launches, at most 14" test "$(layer bf16-)" -le 14
check "an evaluation waits once between two micro-batches: $(count forward2 '^sync')" test "$(count forward2 '^sync')" = 3

deck train 2 'do = "train"; steps = 3;'
check "three steps of training" traced train
# In the lines between the first look-up and the last update: allocations; waits in the second and in the third step.
steps() { # steps NAME: "allocations waits waits launches allocations-after-the-first-update"
    awk '/^launch .*gpu_embed_fwd/ { on = 1 }
        on { line[++n] = $0; if (/^launch .*adamw/) last = n }
        END { for (i = 1; i <= last; i++) {
                update = line[i] ~ /^launch .*adamw/
                if (update && !was) step++
                was = update
                mallocs += line[i] ~ /^malloc/; late += step && line[i] ~ /^malloc/; waits[step] += line[i] ~ /^sync/; launches[step] += line[i] ~ /^launch/ }
            print mallocs + 0, waits[1] + 0, waits[2] + 0, launches[1] + 0, late + 0 }' "$dir/$1.trace.0"
}
# quantizers and a teacher take no more waits
check "a model" ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/model" --set model.random_init="$dir/m2" --set device.backend=host
sed -e 's/seq_length = 24/seq_length = 8/; s/steps = 4/steps = 3/' -e '/"before"\|"quantized"\|"after"\|"export"/d; s/gradients_out = .*; },/},/' "$decks/tiny.cfg" |
    sed -z 's/},\n);/}\n);/' >"$dir/qad.cfg"
check "three steps of distillation with quantizers" traced qad --set run.dir="$dir/qad" --set model.path="$dir/model/hf" --set teacher.path="$dir/model/hf"
read -r _ first second _ late <<<"$(steps qad)"
check "  one wait a step ($first, $second), no allocation" test "$first $second $late" = "1 1 0"
read -r mallocs first second launches _ <<<"$(steps train)"
check "no allocation after the first step began" test "$mallocs" = 0
check "one wait a step ($first, $second)" test "$first $second" = "1 1"
check "  of $launches launches for 4 micro-batches" test "$launches" -gt 100
export CUEMU_ARCH=90
deck hopper 2 'do = "train"; steps = 2;' 40
check "two steps in bf16 on a Hopper" traced hopper --set numerics.compute=bf16
read -r mallocs _ <<<"$(steps hopper)"
check "  no allocation after the first began: $mallocs" test "$mallocs" = 0
check "  attention backward by wgmma: $(count hopper backward_wgmma) launches, two in each of 16" test "$(count hopper backward_wgmma)" = 32
finish
