#!/usr/bin/env python3
"""bench-tok.py TOKENIZER_JSON TEXT [rounds]: MB/s of temper's tokenizer and of Hugging Face tokenizers on one text, one thread each, in turn.
Needs `make build/gcc/tests/bench-tok` and the Python package tokenizers. Prints the best round of each, the median ratio and the load."""
import os
import re
import statistics
import subprocess
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers

path, text = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
with open(text, encoding="utf-8", newline="") as f:
    s = f.read()
peer = tokenizers.Tokenizer.from_file(path)
size = len(s.encode())
ours, theirs, ratios, tokens = [], [], [], 0
for _ in range(rounds):
    out = subprocess.run(["build/gcc/tests/bench-tok", path, text, "3"], check=True, capture_output=True, text=True).stdout
    ours.append(float(out.split()[0]))
    tokens = int(re.search(r"(\d+) tokens", out).group(1))
    t0 = time.perf_counter()
    ids = peer.encode(s, add_special_tokens=False).ids
    theirs.append(size / (time.perf_counter() - t0) / 1e6)
    ratios.append(ours[-1] / theirs[-1])
    if len(ids) != tokens:
        sys.exit("%d tokens here, %d there" % (tokens, len(ids)))
print("temper %.1f MB/s, tokenizers %s %.2f MB/s, ratio %.1f (median of %d; load %.1f)"
      % (max(ours), tokenizers.__version__, max(theirs), statistics.median(ratios), rounds, os.getloadavg()[0]))
