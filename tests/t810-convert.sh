#!/usr/bin/env bash
# TEST ranks=1,2 tier=1 limit=60
# Stage convert: a tokenizer trained on text and the shards made with it, by hand-counted tokens; again = the same bytes; bad input.
set -u
export ASAN_OPTIONS=detect_leaks=0 # MPI keeps memory until the end of the process; ours is counted
. tests/tap.sh
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
run() { # run STATUS TEXT ARGUMENTS: temper on the deck ends with this exit code
    local want=$1 text=$2 rc
    shift 2
    if [ "$RANKS" = 1 ]; then set -- "$TEMPER" "$dir/deck.cfg" "$@"; else set -- mpirun -np "$RANKS" "$TEMPER" "$dir/deck.cfg" "$@"; fi
    log=$("$@" 2>&1)
    rc=$?
    ok $((rc != want)) "$text: exit code $want (got $rc)"
}
says() {
    grep -qE "$1" <<<"$log"
    ok $? "it says: $1"
}
ids() { od -An -v -tu2 -w2 "$1" | tr -d ' ' | tr '\n' ' '; }

# "ab" comes four times, " ab" twice: the merges are a+b, then blank+ab. Ids: 0 end of text, then the 256 bytes by their stand-ins
# ('a' = 65, '\n' = 199, ' ' = 221), then 257 "ab", 258 " ab".
printf 'ab ab\nab\n\nab\n' >"$dir/a.txt"
printf '{"id": 1, "body": "b ab"}\n\n{"body": "ba"}\n' >"$dir/b.jsonl"
cat >"$dir/deck.cfg" <<END
version = 1;
run = { dir = "$dir/run"; };
stages = ( { do = "convert"; name = "tok"; input = "a.txt"; output = "tok"; vocab_size = 259; },
           { do = "convert"; name = "shards"; input = [ "a.txt", "b.jsonl" ]; text_key = "body"; output = "data/x";
             tokenizer = "@run/tok"; },
           { do = "convert"; name = "plain"; input = "b.jsonl"; text_key = "body"; output = "plain"; tokenizer = "@run/tok"; eos = false; } );
END
run 0 "convert"
says '^tok\.documents = 2 documents$'
says '^tok\.bytes = 12 bytes of text$'
says '^tok\.vocabulary = 259 tokens$'
says '^shards\.documents = 4 documents$'
says '^shards\.tokens = 15 tokens$'
says '^shards\.bytes = 30 bytes$'
log=$(ids "$dir/run/data/x.bin")
[ "$log" = "257 258 199 257 199 0 257 199 0 66 258 0 66 65 0 " ]
ok $? "the tokens of text and JSONL, each document ended"
log=$(ids "$dir/run/plain.bin")
[ "$log" = "66 258 66 65 " ]
ok $? "and without end of text"
log=$(cat "$dir/run/tok/tokenizer_config.json")
says '"eos_token": "<\|endoftext\|>"'
says '"tokenizer_class": "PreTrainedTokenizerFast"'
before=$(cat "$dir"/run/tok/*.json "$dir"/run/data/x.* | cksum)
run 0 "again"
says "stage=tok finished by an earlier start"
run 0 "and from the start" --resume never
[ "$before" = "$(cat "$dir"/run/tok/*.json "$dir"/run/data/x.* | cksum)" ]
ok $? "the same bytes"

run 3 "a JSON member that is not there" --resume never --set shards.text_key=text
says 'b\.jsonl:1: expected an object with a string under "text"'
run 2 "a vocabulary below the bytes" --resume never --set tok.vocab_size=256
says 'a vocabulary of 256 tokens: expected at least 256 bytes \+ 1 special'
cp -r "$dir/run/tok" "$dir/no-eos"
rm "$dir/no-eos/tokenizer_config.json"
sed -i 's/<|endoftext|>/<|nothing|>/' "$dir/no-eos/tokenizer.json"
run 2 "a tokenizer without end of text" --resume never --set shards.tokenizer="$dir/no-eos"
says 'stage shards: the tokenizer names no end-of-text token'
printf 'ab\xff\n' >"$dir/a.txt"
run 3 "text that is not UTF-8" --resume never
says 'a\.txt: byte 2 \(0xff\)'
ls "$dir"/run/tok/*.tmp >/dev/null 2>&1
[ $? -ne 0 ] && [ -s "$dir/run/tok/tokenizer.json" ]
ok $? "what was there is still there"
finish
