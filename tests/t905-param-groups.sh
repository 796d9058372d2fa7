#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=120
# optim.groups: scales are the same as other settings, the first match wins, frozen parameters keep their bits, a glob that matches nothing is refused.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
model=$dir/tiny-llama/hf

train() { # train CODE NAME RANKS GROUPS ARGUMENTS...: two steps with these groups, and an export
    sed "s|@GROUPS@|$4|" >"$dir/$2.cfg" <<'DECK'
version  = 1;
model    = { path = "@run/model"; };
datasets = { mock = { sources = ( { path = "mock"; } ); seq_length = 24; samples = 8; }; };
batch    = { micro = 2; global = 4; };
optim    = { lr = 1e-3; weight_decay = 0.1; groups = ( @GROUPS@ ); };
stages   = ( { do = "train"; name = "train"; data = "mock"; steps = 2; }, { do = "export"; dir = "export"; } );
DECK
    ends "$1" "$3" "$dir/$2.cfg" --set run.dir="$dir/$2" --set model.path="$model" "${@:5}"
}
same() { # same NAME NAME: two runs trained the same bits
    diff <("$TEMPER" --hash "$dir/$1"/ckpt/*train) <("$TEMPER" --hash "$dir/$2"/ckpt/*train)
}
kept() { # kept NAME TENSOR: the run left the tensor as the model has it
    "$compare" same "$dir/$1/export/model.safetensors" "$dir/base/export/model.safetensors" "$2"
}
changed() { ! kept "$@"; }
norm() { sed -nE 's/.*"step": 1,.*"grad_norm": ([^,}]*).*/\1/p' "$dir/$1/metrics.jsonl"; }

check "a model" make_model tiny-llama
check "no groups" train 0 plain 1 ''
sed 's/( { do = "train".*}, /( /' "$dir/plain.cfg" >"$dir/base.cfg"
check "an export of the model as it is" ends 0 1 "$dir/base.cfg" --set run.dir="$dir/base" --set model.path="$model"
check "half the rate for all" train 0 half 1 '{ params = "*"; lr_scale = 0.5; }'
check "lr = 5e-4" train 0 slow 1 '' --set optim.lr=5e-4
check "  are the same" same half slow
check "  and not the run without" bash -c "! diff '$dir/plain/export/model.safetensors' '$dir/half/export/model.safetensors'"
check "no decay for all" train 0 nodecay 1 '{ params = "*"; decay_scale = 0.0; }'
check "weight_decay = 0" train 0 zero 1 '' --set optim.weight_decay=0.0
check "  are the same" same nodecay zero
check "only one layer's norm and the head learn" train 0 frozen 1 \
    '{ params = "*layers.1.input_layernorm*"; }, { params = "lm_head*"; lr_scale = 2.0; }, { params = "*"; freeze = true; }'
check "the comparison sees a difference" changed plain model.norm.weight
check "  its norm changed" changed frozen model.layers.1.input_layernorm.weight
check "  the head changed" changed frozen lm_head.weight
for t in model.embed_tokens model.layers.0.input_layernorm model.layers.1.self_attn.q_proj model.layers.1.mlp.down_proj model.norm; do
    check "  $t did not" kept frozen $t.weight
done
check "  the norm counts what learns: $(norm frozen) of $(norm plain)" awk "BEGIN { exit !($(norm frozen) > 0 && $(norm frozen) < $(norm plain)) }"
check "the same on tp 2 x pp 2" train 0 grid 4 \
    '{ params = "*layers.1.input_layernorm*"; }, { params = "lm_head*"; lr_scale = 2.0; }, { params = "*"; freeze = true; }' --set grid.tp=2 --set grid.pp=2
check "  the same bits" same frozen grid
check "a group that an earlier one hides is refused" train 2 hidden 1 '{ params = "*norm*"; }, { params = "*input_layernorm*"; }'
check "  by place and glob" says 'optim.groups\[1\]: params = "\*input_layernorm\*"'
finish
