#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=240
# Number formats end to end: exports of a tiny llama against ModelOpt's own, and the same bytes on every grid where the tensor group cuts
# through blocks of 32 columns, through tiles and through rows with a scale per token.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"

# 6 heads of 16 in 2 KV groups: tp 2 cuts the 96 columns of o_proj at 48, and the 96 rows of q_proj inside their only row of tiles
check "a model" make_model split-llama
model=$dir/split-llama/hf
run() { # run PRESET RANKS ARGUMENTS...: the main job in small; what must not depend on the grid in $dir/facts
    rm -rf "$dir/run"
    ends 0 "$2" "$decks/tiny.cfg" --set run.dir="$dir/run" --set model.path="$model" --set teacher.path="$model" --set quant.preset="$1" \
        --set quant.kv_cache=none --set qad.steps=2 "${@:3}" && facts "$dir/run" >"$dir/facts"
}
for preset in mxfp4 fp8_per_channel_per_token fp8_2d_blockwise_weight_only w4a8_mxfp4_fp8 int4_b32; do
    extra=()
    [ $preset = int4_b32 ] && extra=(--set 'quant.rules=({module="*layers*";site="weight";format="int4_b32";})')
    name=$preset
    [ $preset = int4_b32 ] && preset=none
    check "$name: one rank" run $preset 1 "${extra[@]}"
    mv "$dir/facts" "$dir/reference"
    check "  tp 2 x pp 2: the same bytes" run $preset 4 --set grid.tp=2 --set grid.pp=2 "${extra[@]}"
    check "    everywhere" diff "$dir/reference" "$dir/facts"
done

check "a tied head is listed among the modules left alone" grep -q '"lm_head"' "$dir/run/export/hf_quant_config.json"

root=$("$compare" root) || { echo "# no goldens: TEMPER_SHARED"; finish; }
root=$(realpath "$root/golden/modelopt/export/llama")
deck() { # deck PRESET KV
    cat <<END
version = 1; run = { dir = "$dir/run"; }; model = { path = "$root/source"; }; quant = { preset = "$1"; kv_cache = "$2"; };
datasets = { calib = { sources = ( { path = "$dir/calib.safetensors"; } ); }; }; batch = { micro = 2; };
stages = ( { do = "calibrate"; name = "ptq"; data = "calib"; }, { do = "export"; } );
END
}
check "calibration tokens" "$compare" tokens "$root/calib.safetensors" ids "$dir/calib.safetensors"
while read -r recipe preset kv; do
    deck "$preset" "$kv" >"$dir/deck.cfg"
    rm -rf "$dir/run"
    check "$recipe: tp 2 x pp 2" ends 0 4 "$dir/deck.cfg" --set grid.tp=2 --set grid.pp=2
    check "  is what ModelOpt wrote" "$compare" export "$dir/run/export" "$root" "$recipe"
done <<END
mxfp8 mxfp8 none
w4a8_mxfp4_fp8 w4a8_mxfp4_fp8 none
fp8_pc_pt fp8_per_channel_per_token none
fp8_2d_blockwise_wo fp8_2d_blockwise_weight_only none
int4_blockwise_wo int4_blockwise_weight_only none
w4a8_nvfp4_fp8 w4a8_nvfp4_fp8 none
fp8_kv_nvfp4 fp8 nvfp4
fp8_kv_fp8_cast fp8 fp8_cast
END
finish
