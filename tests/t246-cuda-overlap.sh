#!/usr/bin/env bash
# TEST ranks=4 backends=cuda tier=1 limit=400
# The sum over replicas beside the backward pass: by the emulation's trace it begins behind the head's backward and follows layer by layer, in the last
# micro-batch alone; the bytes are those of the host, where it is one sum at the end, and of devices that are shared, where MPI makes it at the end:
# over grids, with groups, tied embeddings, frozen weights, graphs, updates that are skipped. A rank that fails in it ends the job.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
export RUN_LIMIT=60
for tied in true false; do
    mkdir "$dir/$tied"
    cat >"$dir/$tied/config.json" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 97, "max_position_embeddings": 64,
 "tie_word_embeddings": $tied, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
END
    cat >"$dir/$tied.cfg" <<END
version = 1; run = { dir = "$dir/run"; };
model = { random_init = "$dir/$tied"; };
datasets = { d = { sources = ( { path = "mock"; } ); seq_length = 8; samples = 4; }; };
batch = { micro = 1; global = 4; };
numerics = { dp_segments = 4; };
optim = { lr = 1e-2; max_skipped = 9; };
stages = ( { do = "train"; data = "d"; steps = 2; gradients_out = "gradients.safetensors"; } );
END
done

# --- when ---------------------------------------------------------------------------------------------------------------------------
# A step by the trace: H the loss, L a layer's backward, E the embedding's, S a sum over two replicas; b: the next is queued beside and waits for what
# the device (stream 1) was given, j: the device waits for what is beside. What repeats is said once.
order() {
    sed -nE 's/^launch .*gpu_ce_grad.*/H/p; s/^launch .*gpu_attn_bwd.*/L/p; s/^launch .*gpu_embed_bwd.*/E/p; s/^send .*/S/p;
        s/^wait stream 1$/j/p; s/^wait stream .*/b/p' "$1" | uniq | tr -d '\n' | sed 's/LL*/L/g'
}
traced() { # traced DECK ARGUMENTS...
    rm -rf "$dir/run"
    CUEMU_TRACE=$dir/trace ends 0 2 "$dir/$1.cfg" --set device.backend=cuda --set train.steps=1 "${@:2}"
}
layers() { grep -c "^launch .*gpu_attn_bwd" "$dir/trace.0"; }
for graphs in false true; do
    check "two replicas, graphs $graphs" traced $graphs --set device.graphs=$graphs # a head of its own, a tied one
    check "  the head's sum, then each layer's, the embedding's: $(order "$dir/trace.0")" test "$(order "$dir/trace.0")" = HLEHbSLbSLbSLbSEbSj
    check "  of two micro-batches: $(layers) backward passes of a layer" test "$(layers)" = 6
done
check "a profile" traced true --profile
check "  shows the sums beside the backward pass" python3 - "$dir/run/trace.json" <<'END'
import json, sys
spans = [e for e in json.load(open(sys.argv[1]))["traceEvents"] if e["ph"] == "X"]
for rank in 0, 1:
    mine = [e for e in spans if e["pid"] == rank]
    beside = sorted((e for e in mine if e["cat"] == "beside"), key=lambda e: e["ts"])
    last = max((e for e in mine if e["cat"] == "phase" and e["name"] == "backward"), key=lambda e: e["ts"])
    assert len(beside) == 5 and all(e["tid"] == 1 and e["name"] == "tree_sum" for e in beside), beside
    assert all(e["tid"] == 0 for e in mine if e["cat"] != "beside")
    assert all(e["ts"] >= last["ts"] for e in beside) and all(e["ts"] < last["ts"] + last["dur"] for e in beside[:4])
    assert beside[4]["ts"] >= last["ts"] + last["dur"] # the embedding's
    assert all(a["ts"] + a["dur"] <= b["ts"] + 0.01 for a, b in zip(beside, beside[1:])), beside
END
check "  and the wait for them" says '^profile join '

# --- the same bytes -----------------------------------------------------------------------------------------------------------------
leaves() { # leaves FILE DECK BACKEND RANKS ARGUMENTS...: what the run left, in FILE
    rm -rf "$dir/run"
    ends 0 "$4" "$dir/$2.cfg" --set device.backend="$3" "${@:5}" || return 1
    { "$TEMPER" --hash "$dir/run/ckpt/00-train" && (cd "$dir/run" && sha256sum gradients.safetensors); grep -E '^train\.(loss|skipped)' "$dir/out"; } >"$1"
}
same() { leaves "$dir/got" "$@" && diff "$dir/want" "$dir/got"; }
both() { leaves "$dir/want" "$1" host "${@:2}" && same "$1" cuda "${@:2}"; } # the host and the devices
check "on the host, one rank" leaves "$dir/want" true host 1
check "  two replicas" same true cuda 2
check "  four" same true cuda 4
check "  two, of tensor groups" same true cuda 4 --set grid.tp=2
check "  two, of pipelines" same true cuda 4 --set grid.pp=2
check "  two, with graphs" same true cuda 2 --set device.graphs=true
check "without groups, a head of its own" both false 4 --set grid.pp=2 --set numerics.dp_segments=1
freeze='train.optim.groups=( { params = "*layers.1.*"; freeze = true; }, { params = "*norm*"; lr_scale = 2.0; } )'
check "with a frozen layer" both false 2 --set "$freeze"
check "updates are skipped" both true 4 --set grid.pp=2 --set optim.lr=1e30 --set train.steps=4
check "  for gradients that are not finite: $(sed -nE 's/^train.skipped = ([0-9]+).*/\1/p' "$dir/got")" grep -qE '^train.skipped = [1-4]' "$dir/got"
free=(--set numerics.grid_invariant=false --set numerics.compute=bf16 --set numerics.dp_segments=2)
check "the fastest products, devices that are shared" env CUEMU_DEVICES=1 bash -c "$(declare -f leaves ends temper); dir='$dir'; "'leaves "$@"' - \
    "$dir/want" true cuda 2 "${free[@]}" --set device.share=true
check "  devices of their own: the same" same true cuda 2 "${free[@]}"

# --- faults -------------------------------------------------------------------------------------------------------------------------
fails() {
    rm -rf "$dir/run"
    CUEMU_FAIL=$1 ends "$2" 2 "$dir/true.cfg" --set device.backend=cuda --set limits.deadline_s=3
}
check "a kernel that fails in the backward pass of a rank ends the job" fails attn_bwd:700:1 20
check "  and says which" says 'rank=1 .*the device is lost: .*700'
finish
