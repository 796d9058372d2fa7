#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=120
# The files of a run: their modes are what the user's umask leaves (0666 for files, 0777 for folders), and nothing is written through a link:
# links in the place of a run's files are replaced, those in the place of its unfinished files are refused.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"

modes() { # modes FOLDER FILE_MODE FOLDER_MODE: all below it have them
    local others
    others=$(find "$1" \( -type f ! -perm "$2" -o -type d ! -perm "$3" \) -printf '%m %p\n')
    [ -z "$others" ] || { echo "$others"; return 1; }
    [ "$(find "$1" -type f | wc -l)" -gt 20 ] || { echo "few files:"; find "$1" -type f; return 1; }
}
run() { # run UMASK ARGUMENTS...: the main job in small on 2 ranks
    local mask=$1
    shift
    (umask "$mask" && ends 0 2 "$decks/tiny.cfg" --set run.dir="$dir/$mask" --set model.path="$model" --set teacher.path="$model" "$@")
}
model=$dir/tiny-llama/hf
check "a model" make_model tiny-llama
for mask in 022 027 077; do
    check "a run under umask $mask" run "$mask"
    check "  the modes of its files" modes "$dir/$mask" "$(printf '%o' $((0666 & ~0$mask)))" "$(printf '%o' $((0777 & ~0$mask)))"
done

# Links where the export's files will be, and one in the place of an unfinished one.
want=$(bytes_of "$dir/022/export")
rm -rf "$dir/022/export" && mkdir "$dir/022/export"
echo precious >"$dir/precious"
for f in model.safetensors config.json hf_quant_config.json; do ln -s "$dir/precious" "$dir/022/export/$f"; done
only="stages=( { do = \"export\"; dir = \"$dir/022/export\"; from = \"qad\"; } )"
check "an export over links" run 022 --resume never --set "$only"
sed -n 1,5p "$dir/log" | sed 's/^/# /'
check "  leaves what they pointed to" grep -qx precious "$dir/precious"
check "  and no link" test -z "$(find "$dir/022/export" -type l)"
check "  and is the export" test "$want" = "$(bytes_of "$dir/022/export")"
finish
