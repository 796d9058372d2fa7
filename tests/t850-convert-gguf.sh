#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=60
# Stage convert of a GGUF: the embedded model, written as llama.cpp's converter would, comes back as the file it was, byte for byte; the same
# bytes on any number of ranks; what follows in the deck takes it; bad files and keys end with their exit codes and leave no model.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
model=$PWD/inputs/models/austen-3m
gguf=$dir/austen.gguf
check "a GGUF of the embedded model" "$BUILD/tests/e2e-gguf" "$model" "$gguf"

cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; }; model = { path = "@run/hf"; };
datasets = { unseen = { sources = ( { path = "$PWD/inputs/austen-unseen"; } ); seq_length = 128; samples = 2; }; };
stages = ( { do = "convert"; name = "hf"; input = "$gguf"; output = "hf"; },
           { do = "evaluate"; name = "after"; data = "unseen"; },
           { do = "evaluate"; name = "before"; data = "unseen"; model = { path = "$model"; }; } );
END
check "convert, then evaluate" ends 0 1 "$dir/deck.cfg"
check "the weights' file as it was" cmp "$dir/run/hf/model.safetensors" "$model/model.safetensors"
check "  and scores as it did" test "$(grep -o 'after.nll = .*' "$dir/out")" = "$(sed -n 's/before.nll/after.nll/p' "$dir/out")"
for key in hidden_size head_dim rope_theta rms_norm_eps tie_word_embeddings vocab_size; do
    check "config.json: $key" grep -qF "$(grep "\"$key\"" "$model/config.json")" "$dir/run/hf/config.json"
done
check "the source is named" grep -q '"file": "austen.gguf"' "$dir/run/hf/temper.json"

one_stage() { # one_stage KEYS: a deck that only converts
    echo "version = 1; run = { dir = \"$dir/run\"; }; stages = ( { do = \"convert\"; name = \"hf\"; output = \"hf\"; $1 } );" >"$dir/one.cfg"
}
one_stage "input = \"$gguf\"; shard_size = 800000;"
bytes=
for np in 1 2 3; do
    rm -rf "$dir/run"
    check "$np ranks, files of 0.8 MB" ends 0 $np "$dir/one.cfg"
    [ -n "$bytes" ] || bytes=$(bytes_of "$dir/run/hf")
    check "  the same bytes" test "$bytes" = "$(bytes_of "$dir/run/hf")"
done
check "  in eight files or more" test "$(find "$dir/run/hf" -name 'model-*.safetensors' | wc -l)" -ge 8
check "again, over it" ends 0 2 "$dir/one.cfg" --resume never
check "  the same bytes" test "$bytes" = "$(bytes_of "$dir/run/hf")"
rm -rf "$dir/run"
one_stage "input = \"$gguf\"; model = { dtype = \"fp32\"; };"
check "as fp32" ends 0 1 "$dir/one.cfg"
check "  twice the size" test "$(stat -c %s "$dir/run/hf/model.safetensors")" -gt 11000000

refused() { # refused CODE TEXT PATTERN KEYS
    rm -rf "$dir/run"
    one_stage "$4"
    check "$2" ends "$1" 2 "$dir/one.cfg"
    check "  the message" says "$3"
    check "  no model" test -z "$(find "$dir/run" -name '*.safetensors*' -o -name config.json)"
}
head -c 3000000 "$gguf" >"$dir/cut.gguf"
refused 12 "a truncated file" "cut.gguf is truncated: tensor" "input = \"$dir/cut.gguf\";"
sed 's/general\.architecture\(.\{12\}\)llama/general.architecture\1llamb/' "$gguf" >"$dir/other.gguf"
refused 14 "an unknown architecture" 'architecture "llamb" is not supported; supported: llama, qwen2, qwen3' "input = \"$dir/other.gguf\";"
sed 's/gpt-2/gpt-9/' "$gguf" >"$dir/pre.gguf"
refused 14 "an unknown pre-tokenizer" 'tokenizer.ggml.pre = "gpt-9" is not supported' "input = \"$dir/pre.gguf\";"
refused 2 "two inputs" "a GGUF model is converted alone, there are 2 inputs" "input = [ \"$gguf\", \"$gguf\" ];"
refused 2 "a key that is for text" "vocab_size is for text" "input = \"$gguf\"; vocab_size = 512;"
export TEMPER_FAULT=file:write:1:3
one_stage "input = \"$gguf\"; shard_size = 800000;"
rm -rf "$dir/run"
check "a full disk on one rank" ends 11 2 "$dir/one.cfg"
check "  nothing half-written is left" test -z "$(find "$dir/run/hf" -name '*.safetensors*' -o -name config.json)"
finish
