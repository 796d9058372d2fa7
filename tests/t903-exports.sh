#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=120
# Exports of a tiny llama against ModelOpt's own (golden/modelopt/export): names, types, shapes, bytes and both JSON files, on 1 rank and
# tp 2 x pp 2. Activation scales within 2 %: theirs come from a bf16 run.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
root=$("$compare" root) || skip_all "no goldens: TEMPER_SHARED"
root=$(realpath "$root/golden/modelopt/export/llama")

deck() { # deck PRESET KV
    cat <<END
version = 1; run = { dir = "$dir/run"; }; model = { path = "$root/source"; }; quant = { preset = "$1"; kv_cache = "$2"; };
datasets = { calib = { sources = ( { path = "$dir/calib.safetensors"; } ); }; test = { sources = ( { path = "$dir/test.safetensors"; } ); }; };
batch = { micro = 2; };
stages = ( { do = "calibrate"; name = "ptq"; data = "calib"; }, { do = "evaluate"; data = "test"; logits_out = "logits"; }, { do = "export"; } );
END
}
check "calibration tokens" "$compare" tokens "$root/calib.safetensors" ids "$dir/calib.safetensors"
check "test tokens" "$compare" tokens "$root/calib.safetensors" test_ids "$dir/test.safetensors"
while read -r recipe preset kv; do
    deck "$preset" "$kv" >"$dir/deck.cfg"
    rm -rf "$dir/run"
    check "$recipe: one rank" ends 0 1 "$dir/deck.cfg"
    check "  is what ModelOpt wrote" "$compare" export "$dir/run/export" "$root" "$recipe"
    sed 's/^/# /' "$dir/check" | head -n 1
    bytes=$(bytes_of "$dir/run/export")
    rm -rf "$dir/run"
    check "$recipe: tp 2 x pp 2" ends 0 4 "$dir/deck.cfg" --set grid.tp=2 --set grid.pp=2
    check "  the same bytes" test "$bytes" = "$(bytes_of "$dir/run/export")"
done <<END
fp8 fp8 none
nvfp4 nvfp4 none
fp8_kv_fp8 fp8 fp8
nvfp4_kv_fp8 nvfp4 fp8
int8_default int8 none
END
finish
