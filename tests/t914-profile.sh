#!/usr/bin/env bash
# TEST ranks=1 tier=1
# --profile and the run history of whole runs: counts against closed forms, seconds that add up, spans that nest, the bytes unchanged; and a page that
# tells of a stop, a kill, a failure and the end.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
command -v python3 >/dev/null || skip_all "python3 is not installed"
model=$dir/tiny-llama/hf
words=(--set model.path="$model" --set teacher.path="$model")
check "a model" make_model tiny-llama
check "a run" ends 0 1 "$decks/tiny.cfg" --set run.dir="$dir/plain" "${words[@]}"
facts "$dir/plain" >"$dir/reference"
check "no timeline without --profile" test ! -e "$dir/plain/trace.json"
for np in 1 4; do
    grid=(--set grid.tp=2 --set grid.pp=2)
    [ $np = 4 ] || grid=()
    check "a profiled run on $np ranks" ends 0 $np "$decks/tiny.cfg" --set run.dir="$dir/p$np" "${words[@]}" "${grid[@]}" --profile
    facts "$dir/p$np" >"$dir/this"
    check "  has the same bytes" diff "$dir/reference" "$dir/this"
    check "  prints phases" says '^profile stage=qad phase="backward"'
    check "  and operations in them" says '^profile gemm .* seconds min=.* imbalance='
    # 4 steps of 8 micro-batches. pp 2: 2 of the 4 ranks send each forwards, for student and teacher, the other 2 its gradient backwards.
    check "  table and timeline" python3 - "$dir/p$np" "$np" <<'PY'
import json, sys
run, np = sys.argv[1], int(sys.argv[2])
rows = json.load(open(run + "/usage.json"))["profile"]
results = json.load(open(run + "/results.json"))["stages"]
def row(stage, phase, op=""):
    found = [r for r in rows if (r["stage"], r["phase"], r["op"]) == (stage, phase, op)]
    assert len(found) == 1, (stage, phase, op, len(found))
    return found[0]
assert row("qad", "forward")["calls"] == 32 and row("qad", "backward")["calls"] == 32
assert row("qad", "update")["calls"] == 4 and row("qad", "gradients")["calls"] == 4
assert row("before", "forward")["calls"] == 8
if np == 4: # calls are means over ranks
    assert row("qad", "forward", "send")["calls"] == 32, row("qad", "forward", "send")
    assert row("qad", "backward", "send")["calls"] == 16, row("qad", "backward", "send")
else:
    assert not [r for r in rows if r["op"] == "send"]
for r in rows:
    assert 0 <= r["min_s"] <= r["mean_s"] * (1 + 1e-9) and r["mean_s"] <= r["max_s"] * (1 + 1e-9), r
    assert "imbalance" not in r or 1 - 1e-9 <= r["imbalance"] <= np + 1e-9, r
for stage in results: # the phases of a stage are its time, and operations do not exceed their phase
    phases = sum(r["mean_s"] for r in rows if r["stage"] == stage and not r["op"] and r["phase"] not in ("plan", "report"))
    assert phases >= 0.9 * results[stage]["seconds"], (stage, phases, results[stage]["seconds"])
for p in rows:
    if p["op"]: continue
    inside = sum(r["mean_s"] for r in rows if r["op"] and (r["stage"], r["phase"]) == (p["stage"], p["phase"]))
    assert inside <= p["mean_s"] * 1.001 + 1e-6, (p, inside)
events = json.load(open(run + "/trace.json"))["traceEvents"]
spans = [e for e in events if e["ph"] == "X"]
assert {e["pid"] for e in spans} == set(range(np)) and len([e for e in events if e["name"] == "process_name"]) == np
names = lambda cat, pid: [e["name"] for e in spans if e["cat"] == cat and e["pid"] == pid]
for pid in range(np):
    assert names("stage", pid) == list(results), names("stage", pid)
    assert names("phase", pid).count("backward") == 32
    assert names("phase", pid).count("checkpoint save") == 2
    mine = sorted((e["ts"], -e["dur"]) for e in spans if e["pid"] == pid)
    open_ = [] # spans nest: none overlaps another in part
    for ts, dur in mine:
        while open_ and open_[-1] <= ts + 0.0015: open_.pop()
        assert not open_ or ts - dur <= open_[-1] + 0.0015, (pid, ts, -dur, open_)
        open_.append(ts - dur)
    assert mine[0][0] >= 0
PY
    check "  and the page has both" grep -q "Where the time went" "$dir/p$np/report.html"
done

# the handbook knows every file that a run leaves (but those that the deck names) and every result
"$TEMPER" --handbook >"$dir/book"
in_book() { # in_book: each line of standard input stands there as code
    local bad=0 w
    while IFS= read -r w; do grep -qF -- "<code>$w</code>" "$dir/book" || { echo "missing: $w"; bad=1; }; done
    return $bad
}
check "files of a run are in the handbook" in_book < <(find "$dir/p4" -mindepth 1 -maxdepth 1 -type f ! -name '*.safetensors' -printf '%f\n' |
    sed 's/ptq/\&lt;name\&gt;/')
check "results too" in_book < <(sed -nE 's/^[a-z]+\.([a-z_]+) = .*/\1/p' "$dir/out" | sort -u)
check "  which are many" test "$(sed -nE 's/^[a-z]+\.([a-z_]+) = .*/\1/p' "$dir/out" | sort -u | wc -l)" -ge 12

# a history: a stop, a kill inside a checkpoint, a failure, an end
start() { ends "$1" "$2" "$decks/tiny.cfg" --set run.dir="$dir/h" "${words[@]}" --set checkpoint.every=1 "${@:3}"; }
TEMPER_FAULT="stop:qad:*:3" check "a start that is stopped" start 75 1
killed() { TEMPER_FAULT=ckpt:die-write:0:2 temper 2 "$decks/tiny.cfg" --set run.dir="$dir/h" "${words[@]}" --set checkpoint.every=1; [ $? -ne 0 ]; }
check "one that is killed inside a checkpoint" killed
TEMPER_FAULT=train:data:0:2 SLURM_JOB_ID=4711 check "one that fails" start 3 2
check "  its page says why" grep -q "injected fault: train:data" "$dir/h/report.html"
check "one that ends" start 0 4 --set grid.tp=2 --set grid.pp=2
check "four rows" python3 - "$dir/h/report.html" <<'PY'
import re, sys
page = open(sys.argv[1]).read()
body = re.search(r"<h2>Starts.*?<tbody>(.*?)</tbody>", page, re.S).group(1)
rows = [[re.sub("<[^>]*>", "", c) for c in re.findall(r"<td[^>]*>(.*?)</td>", r, re.S)] for r in re.findall(r"<tr>(.*?)</tr>", body, re.S)]
for r in rows: print(r)
assert len(rows) == 4
where = [(r[5], r[6]) for r in rows]
assert where[0] == ("the beginning", "qad step 1"), where
assert where[1] == ("qad step 1", "qad step 1"), where
assert where[2] == ("qad step 1", "qad step 2"), where
assert where[3] == ("qad step 2", "all of export"), where
assert rows[0][7] == "stage qad stopped after step 1 of 4" and "killed or lost" in rows[1][7] and "train:data" in rows[2][7] and rows[3][7] == "done"
assert rows[2][3].endswith("job 4711") and rows[3][4].startswith("4tp 2") and rows[1][2] == "" and rows[3][2].endswith(" s")
PY
check "memory by class is on the page for every stage" test "$(grep -c '<h2>Memory' "$dir/h/report.html")" = 1
finish
