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
run() { # run UMASK CODE NAME: the main job in small on 2 ranks, in the folder NAME
    (umask "$1" && ends "$2" 2 "$decks/tiny.cfg" --set run.dir="$dir/$3" --set model.path="$model" --set teacher.path="$model")
}
export_of() { (cd "$dir/$1/export" && sha256sum model.safetensors config.json hf_quant_config.json); }
links() { # links NAME FILE...: in the folder's export, all to one file
    local name=$1
    shift
    mkdir -p "$dir/$name/export"
    for f in "$@"; do ln -s "$dir/precious" "$dir/$name/export/$f"; done
}
model=$dir/tiny-llama/hf
check "a model" make_model tiny-llama
for mask in 022 027 077; do
    check "a run under umask $mask" run "$mask" 0 "$mask"
    check "  the modes of its files" modes "$dir/$mask" "$(printf '%o' $((0666 & ~0$mask)))" "$(printf '%o' $((0777 & ~0$mask)))"
done
echo precious >"$dir/precious"
links linked model.safetensors config.json hf_quant_config.json
check "an export over links" run 022 0 linked
check "  leaves what they pointed to" grep -qx precious "$dir/precious"
check "  and no link" test -z "$(find "$dir/linked/export" -type l)"
check "  and is the export" test "$(export_of linked)" = "$(export_of 022)"
links unfinished model.safetensors.tmp
check "a link in the place of an unfinished file: exit code 11" run 022 11 unfinished
check "  leaves what it pointed to" grep -qx precious "$dir/precious"
finish
