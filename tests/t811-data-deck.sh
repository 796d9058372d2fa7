#!/usr/bin/env bash
# TEST ranks=1,2 tier=1 limit=120
# Data keys of a deck: Megatron's order, parts and splits, formats, padded rows, damaged text; the same on any number of ranks; a run that
# goes on in Megatron's order; what is refused.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
inputs=$tests/../inputs
rows() { grep -qF -- "$1" "$dir/run/calibration-$2.json" || { cut -c 1-300 "$dir/run/calibration-$2.json"; return 1; }; }
value() { grep -qE -- "^$1\$" "$dir/out" || { echo "no result $1"; cat "$dir/out"; return 1; }; }

# Rows by a plain Python of Megatron's rules (MT19937, shuffles, epochs) over inputs/austen.idx: documents 4457 to 4501 of 4502 hold 5636
# tokens; 100 rows of 64 need two epochs, the last one shuffled apart.
cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; seed = 5; }; model = { path = "$inputs/models/austen-3m"; }; batch = { micro = 4; };
quant = { preset = "fp8"; };
datasets = { m = { sources = ( { path = "$inputs/austen"; } ); seq_length = 64; samples = 100; parts = "90,9,1"; part = "test"; shuffle = "megatron"; };
             s = { sources = ( { path = "$inputs/austen"; split = [ 0.9, 1.0 ]; } ); split = [ 0.0, 0.5 ]; seq_length = 64; samples = 4; }; };
stages = ( { do = "calibrate"; name = "m"; data = "m"; }, { do = "calibrate"; name = "s"; data = "s"; } );
END
check "Megatron's order" ends 0 "$RANKS" "$dir/deck.cfg"
check "the rows of its indices" rows '"rows":[{"sample":0,"pieces":[[0,4475,36,33],[0,4477,0,32]]},{"sample":1,"pieces":[[0,4492,133,65]]},{"sample":2,"pieces":[[0,4499,192,65]]},{"sample":3,"pieces":[[0,4501,45,46],[0,4491,0,19]]}' m
check "documents and samples of the part" rows '"documents":45,"tokens":5636,"samples":176' m
check "the source's split goes before the data set's" rows '"documents":450,"tokens":43782' s

# A training in Megatron's order, in one go and in two: the same weights.
cat >"$dir/train.cfg" <<END
version = 1; run = { dir = "$dir/whole"; seed = 5; }; model = { path = "$inputs/models/austen-3m"; }; batch = { micro = 2; global = 4; };
numerics = { dp_segments = 2; }; schedule = { steps = 4; };
datasets = { m = { sources = ( { path = "$inputs/austen"; weight = 0.7; }, { path = "$inputs/austen-tune"; weight = 0.3; } );
                   seq_length = 32; samples = 16; shuffle = "megatron"; }; };
stages = ( { do = "train"; data = "m"; steps = 4; } );
END
check "a training" ends 0 "$RANKS" "$dir/train.cfg"
TEMPER_FAULT="stop:train:*:3" check "stopped after two steps" ends 75 "$RANKS" "$dir/train.cfg" --set run.dir="$dir/parts"
check "and gone on" ends 0 "$RANKS" "$dir/train.cfg" --set run.dir="$dir/parts"
[ "$("$TEMPER" --hash "$dir/whole/ckpt/00-train")" = "$("$TEMPER" --hash "$dir/parts/ckpt/00-train")" ]
check "the same weights" test $? = 0
check "more steps than its samples: exit code 2" ends 2 "$RANKS" "$dir/train.cfg" --resume never --set train.steps=5
check "  says so" says '5 steps of 4 rows need more than its 17 rows: expected datasets\.m\.samples = 20'
check "no number of samples: exit code 2" ends 2 "$RANKS" "$dir/train.cfg" --resume never --set datasets.m.samples=0
check "  says so" says 'shuffle = "megatron" in "train" needs samples'

# Three documents through the tokenizer: 1 row each, cut or padded to 8; by its name not JSONL.
printf '{"body": "It is a truth universally acknowledged, that a single man in possession of a good fortune"}\n{"body": "Yes"}\n{"body": "No "}\n' >"$dir/text.txt"
cat >"$dir/pad.cfg" <<END
version = 1; run = { dir = "$dir/run"; }; model = { path = "$inputs/models/austen-3m"; }; batch = { micro = 1; };
datasets = { d = { sources = ( { path = "$dir/text.txt"; format = "jsonl"; text_key = "body"; } ); seq_length = 8; pack = "pad"; }; };
stages = ( { do = "evaluate"; data = "d"; } );
END
check "padded rows" ends 0 "$RANKS" "$dir/pad.cfg" --resume never
check "of 36, 2 and 3 tokens and an end: 8 + 2 + 3 steps" value 'evaluate.tokens = 13 tokens'
check "an empty part: exit code 3" ends 3 "$RANKS" "$dir/pad.cfg" --resume never --set datasets.d.parts=99,1,0 --set datasets.d.part=test
check "  says so" says 'data set d: .*text\.txt: the split from 1 to 1 of 3 documents, \[3, 3\), holds none of them'
check "bad parts: exit code 2" ends 2 "$RANKS" "$dir/pad.cfg" --resume never --set datasets.d.parts=train
check "  says so" says 'expected shares such as "99,1,0"'
check "a format that the file is not: exit code 12" ends 12 "$RANKS" "$dir/pad.cfg" --resume never --set datasets.d.sources[0].format=tokens

# Text that is not UTF-8, by policy.
printf 'one \xff two\n\nthree\n' >"$dir/bad.txt"
cat >"$dir/convert.cfg" <<END
version = 1; run = { dir = "$dir/run"; };
stages = ( { do = "convert"; name = "c"; input = "$dir/bad.txt"; output = "c"; tokenizer = "$inputs/models/austen-3m"; } );
END
check "strict: exit code 3" ends 3 "$RANKS" "$dir/convert.cfg" --resume never
check "  says where" says 'bad\.txt: byte 4 \(0xff\) is not valid UTF-8'
check "replace" ends 0 "$RANKS" "$dir/convert.cfg" --resume never --set c.utf8=replace
check "  says so" says '^warn .*1 documents were not UTF-8: mended'
check "  both documents" value 'c.documents = 2 documents'
check "drop" ends 0 "$RANKS" "$dir/convert.cfg" --resume never --set c.utf8=drop
check "  one document" value 'c.documents = 1 documents'
finish
