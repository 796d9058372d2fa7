#!/usr/bin/env bash
# TEST ranks=1 tier=1
# The manuals: every deck in them is good, every refused combination is refused in these words, every option, key, exit code and format is there,
# links lead somewhere, nothing comes from elsewhere, and roff readers have no complaint.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
book=$dir/handbook.html man=$dir/temper.1
check "the handbook" sh -c "'$TEMPER' --handbook >'$book'"
check "the man page" sh -c "'$TEMPER' --man >'$man'"

# the chapters' fences: decks and combinations
fences() { # fences MARK: the blocks of this mark, each ended by a line of "---"
    awk -v mark="$1" '/^```/ { if (on) { print "---"; on = 0 } else on = ($0 == "```" mark); next } on' src/stage/handbook/*.md
}
fences deck >"$dir/decks"
csplit -s -z -f "$dir/deck-" "$dir/decks" '/^---$/' '{*}' 2>/dev/null
decks_n=$(grep -c '^---$' "$dir/decks")
check "there are decks ($decks_n)" test "$decks_n" -ge 9
for f in "$dir"/deck-*; do
    sed -i '/^---$/d' "$f"
    [ -s "$f" ] || continue
    check "deck $(grep -o 'dir = "run/[^"]*"' "$f") is good" "$TEMPER" "$f" --check
done
is_refused() { # is_refused --check|--plan CODE "key = value, ..." MESSAGE
    local sets=() rest=$3 out
    while [ -n "$rest" ]; do # ", " before a key's name parts two settings
        one=$(sed -E 's/, ([a-z][a-z_-]*[.[]).*//' <<<"$rest")
        sets+=(--set "$one")
        rest=${rest#"$one"} rest=${rest#, }
    done
    out=$("$TEMPER" inputs/qad-austen.cfg "${sets[@]}" "$1" 2>&1)
    [ $? -eq "$2" ] || { echo "another exit code: $out"; return 1; }
    grep -qF -- "$4" <<<"$out" || { echo "${sets[*]}: it says: $out"; return 1; }
}
while IFS= read -r line; do
    [ "$line" = --- ] || check "refused: $line" is_refused --check 2 "${line%% | *}" "${line#* | }"
done < <(fences refused)
while IFS= read -r line; do
    [ "$line" = --- ] || check "not supported: $line" is_refused --plan 14 "${line%% | *}" "${line#* | }"
done < <(fences unsupported)

# what the program knows is there
text=$(sed 's/<[^>]*>/ /g; s/&amp;/\&/g; s/&lt;/</g; s/&gt;/>/g; s/&quot;/"/g; s/&#39;/'"'"'/g' "$book")
has_all() { # has_all FILE: each line of standard input is in it
    local missing=0 w
    while IFS= read -r w; do grep -qF -- "$w" "$1" || { echo "missing: $w"; missing=1; }; done
    return $missing
}
printf '%s\n' "$text" >"$dir/text"
sed 's/\\-/-/g; s/\\fB//g; s/\\fR//g' "$man" >"$dir/man-text"
"$TEMPER" --help | grep -oE -- '--[a-z-]+' | sort -u >"$dir/options"
sed -nE 's/^OPTION\("(--[a-z-]+)".*/\1/p' src/stage/options.def | sort >"$dir/documented"
check "options.def has the options of --help, and no others" diff "$dir/options" "$dir/documented"
check "options are in the man page" has_all "$dir/man-text" <"$dir/options"
"$TEMPER" --help-deck >"$dir/help"
sed -nE 's/^  ([a-z_0-9]+) = .*/\1/p; s/^  ([a-z_0-9]+)  .*, required$/\1/p' "$dir/help" | sort -u >"$dir/keys"
sed -nE 's/^([a-z][a-zA-Z_.[]*[]a-zA-Z]): .*/\1/p' "$dir/help" | grep -v '^deck$' >"$dir/groups"
check "--help-deck has groups ($(wc -l <"$dir/groups"))" test "$(wc -l <"$dir/groups")" -gt 20
check "each is a section of the handbook" has_all "$book" < <(sed 's/.*/>&<\/h2>/' "$dir/groups")
check "--help-deck has keys ($(wc -l <"$dir/keys"))" test "$(wc -l <"$dir/keys")" -gt 100
check "all deck keys are in the handbook" has_all "$book" < <(sed 's/.*/<td><code>&<\/code><\/td>/' "$dir/keys")
check "  and in the man page" has_all "$dir/man-text" <"$dir/keys"
check "all exit codes" has_all "$book" < <("$TEMPER" --list status | awk '{ print "<td>" $1 "</td>" }')
check "all formats" has_all "$book" < <("$TEMPER" --list formats | awk '/bits:/ { print "<td>" $1 "</td>" }')
check "all stages" has_all "$book" < <("$TEMPER" --list stages | awk '{ print "<td>" $1 "</td>" }')
check "what is absent is said to be absent" grep -q 'temper has no prune stage' "$dir/text"

# the page itself
grep -oE 'href="#[^"]*"' "$book" | sed 's/href="#//; s/"//' | sort >"$dir/links"
grep -oE ' id="[^"]*"' "$book" | sed 's/ id="//; s/"//' | sort >"$dir/anchors"
check "every heading has one anchor, and the contents lead to all" diff "$dir/links" "$dir/anchors"
check "  no anchor twice" test -z "$(uniq -d "$dir/anchors")"
check "nothing from elsewhere" test -z "$(grep -oE '(src|href)="[^#"][^"]*"|url\(|@import|<script' "$book")"
for tag in table tr td pre ul li p code section main nav h1 h2; do
    check "<$tag> is closed" test "$(grep -oE "<${tag}[ >]" "$book" | wc -l)" = "$(grep -o "</$tag>" "$book" | wc -l)"
done
check "no chapter is empty" test "$(grep -c '<h1' "$book")" -ge 10

# the man page in its readers
check "it has the sections of a man page" has_all "$man" < <(printf '.SH %s\n' NAME SYNOPSIS DESCRIPTION OPTIONS FILES 'EXIT STATUS' ENVIRONMENT)
if command -v man >/dev/null; then
    check "man shows it" sh -c "MANWIDTH=100 man --warnings=all -l '$man' >'$dir/shown' 2>'$dir/warned'"
    check "  without a warning" test ! -s "$dir/warned"
    check "  every page of it" test "$(wc -l <"$dir/shown")" -gt 300
fi
if command -v mandoc >/dev/null; then
    # the page has no date: the version says which program it is of
    check "mandoc -Tlint has no error or warning" test -z "$(mandoc -Tlint -W warning "$man" | grep -v 'missing date' | tee "$dir/log")"
fi

# questions about keys
"$TEMPER" --help-deck optim.lrr >"$dir/out" 2>"$dir/log"
check "a wrong key: exit code 2" test $? = 2
check "  names the nearest" says 'did you mean optim.lr\?'
finish
