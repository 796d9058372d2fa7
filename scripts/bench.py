#!/usr/bin/env python3
"""make bench: temper against PyTorch/transformers and ModelOpt in one run, side by side, as a Markdown table and a JSON file of all samples.

The sides of a group run in turn, so that what disturbs the machine disturbs all. A sample during which other processes used more than
--others of the machine is spoiled and repeated, and a ratio without enough good samples is not printed. Figures are medians.
"""
import argparse, json, os, statistics, subprocess, sys, time

import bench_machine as machine
from bench_cases import CALIBRATE, EVALUATE, PLANNED, Bench, Unavailable, model_flops

ON, OFF = "true", "false"  # numerics.grid_invariant


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--temper", default="./temper")
    p.add_argument("--sgemm", required=True, help="the program bench-sgemm")
    p.add_argument("--mpirun", default="mpirun")
    p.add_argument("--model", default="", help="Hugging Face directory; none: random weights of SmolLM2-135M's shape")
    p.add_argument("--peer-python", default="", help="a Python with torch, transformers, tokenizers and nvidia-modelopt")
    p.add_argument("--folder", default="run/bench")
    p.add_argument("--quick", action="store_true", help="one round, fewer groups")
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--others", type=float, default=0.05, help="share of the machine above which a sample is spoiled")
    p.add_argument("--minutes", type=float, default=0, help="begin no new sample after so long; 0: 30, quick 2.5")
    p.add_argument("--only", default="", help="groups, comma separated")
    return p.parse_args()


class Peer:
    """bench_peer.py, started when it is first asked."""

    def __init__(self, python, model, threads):
        self.python, self.command, self.p, self.versions = python, [python, "scripts/bench_peer.py", model, str(threads)], None, {}

    def __call__(self, case):
        if not self.python:
            raise Unavailable("no PEER_PYTHON")
        if not self.p:
            self.p = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.versions.update(self.answer())
        self.p.stdin.write(case + "\n")
        self.p.stdin.flush()
        a = self.answer()
        return {"rate": a["amount"] / a["seconds"], "others": a["others"]}

    def answer(self):
        line = self.p.stdout.readline()
        if not line:
            self.python = ""  # once is enough
            raise Unavailable("the peer ended: does PEER_PYTHON have torch, transformers and tokenizers?")
        return json.loads(line)

    def close(self):
        if self.p:
            self.p.stdin.close()
            self.p.wait()
            self.p = None


def austen_text(folder, megabytes):
    """Text for the tokenizers: the embedded token shard decoded again (byte-level), repeated up to this size."""
    vocab = json.load(open("inputs/models/austen-3m/tokenizer.json"))["model"]["vocab"]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's printable stand-ins of bytes
    rest = [b for b in range(256) if b not in plain]
    byte = {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
    word = {i: bytes(byte[c] for c in w) if w != "<|endoftext|>" else b"\n\n" for w, i in vocab.items()}
    ids = memoryview(open("inputs/austen.bin", "rb").read()).cast("H")
    text = b"".join(word[i] for i in ids)
    path = os.path.join(folder, "austen.txt")
    with open(path, "wb") as f:
        for _ in range(max(1, round(megabytes * 1e6 / len(text)))):
            f.write(text + b"\n\n")
    return os.path.abspath(path)


def random_model(a):
    """A Hugging Face directory with random weights, written by temper."""
    folder = os.path.join(a.folder, "model")
    deck = os.path.join(a.folder, "model.cfg")
    with open(deck, "w") as f:
        f.write(f'version = 1; run = {{ dir = "{os.path.abspath(folder)}"; }}; model = {{ dtype = "bf16";\n'
                f'random_init = "{os.path.abspath("inputs/shapes/smollm2-135m/config.json")}"; }};\n'
                'stages = ( { do = "export"; flavour = "hf"; dir = "hf"; } );\n')
    r = machine.run([a.temper, deck])
    if r["code"] != 0:
        sys.exit("bench: cannot make the model: " + r["out"])
    return os.path.join(folder, "hf")


def groups_of(b, text, isa):
    """{group: {side: what runs it}}"""
    g = {}
    for dtype in ("fp32", "bf16"):
        both = lambda f, d=dtype: {x: (lambda x=x: f(invariant=v, compute=d)) for x, v in (("off", OFF), ("on", ON))}
        calibrate = both(lambda **k: b.rate(CALIBRATE, preset="fp8", **k))
        evaluate = both(lambda **k: b.rate(EVALUATE, **k))
        g["forward " + dtype] = {"peer": lambda d=dtype: b.peer("forward_" + d), "ceiling": b.ceiling,
                                 "calibrate off": calibrate["off"], "evaluate off": evaluate["off"],
                                 "calibrate on": calibrate["on"], "evaluate on": evaluate["on"]}
        if dtype == "bf16":
            del g["forward bf16"]["ceiling"]
        for preset in ("fp8", "nvfp4") if dtype == ("bf16" if "amx_bf16" in isa else "fp32") else ():  # what a user would choose there
            process = both(lambda p=preset, **k: b.process(p, **k))
            g[f"ptq {preset} {dtype}"] = {"peer": lambda p=preset, d=dtype: b.modelopt(p, {"fp32": "float32", "bf16": "bfloat16"}[d]), **process}
    step = dict(length=256, micro=2, batch=2, samples=0)
    g["kd fp32"] = {"peer": lambda: b.peer("kd_fp32"), "ceiling": b.ceiling,
                    "off": lambda: b.step(invariant=OFF, **step), "on": lambda: b.step(invariant=ON, **step)}
    grid = dict(length=256, micro=1, batch=4, samples=0, invariant=ON)
    g["grid"] = {"one": lambda: b.step(**grid), "tp2 pp2": lambda: b.step(4, 1, tp=2, pp=2, **grid), "pp4": lambda: b.step(4, 1, pp=4, **grid)}
    g["files"] = {"plain": lambda: b.plain_files(machine.Meter), "temper": b.files}
    g["saving"] = {"line": lambda: b.saving("false"), "background": lambda: b.saving("true")}
    g["tokenizer"] = {"peer": lambda: b.peer("tokenize " + text), "temper": lambda: b.tokenize(text)}
    kd = '{ do = "distill"; name = "run"; data = "d"; steps = 1; }'
    for dtype in ("fp32", "bf16"):
        g["memory " + dtype] = {"calibrate": lambda d=dtype: b.memory([CALIBRATE], preset="nvfp4", samples=4, compute=d),
                                "qad": lambda d=dtype: b.memory([kd], preset="nvfp4", length=256, micro=2, batch=2, compute=d)}
    g["memory fp32"]["kd 2 x 512"] = lambda: b.memory([kd], micro=2, batch=2)
    g["memory fp32"]["kd 1 x 2048"] = lambda: b.memory([kd], length=2048, micro=1, batch=1, recompute="layer")
    small = dict(model=os.path.abspath("inputs/models/austen-3m"), length=256, samples=128, micro=8, batch=16, preset="nvfp4")
    g["plan"] = {"probe": b.probe, "embedded model": lambda: b.planned(**small), "135M": lambda: b.planned(preset="fp8", length=256)}
    return g


def rows_of(b):
    """(text, group, side, figure, reference side, its figure, kind, bar): kind 'x' a rate over the reference's, '/' the reference over this one,
    'share' this over the reference where less is better, 'mfu' the model FLOPs of the ratio's side over the ceiling."""
    rows = []
    for dtype, c, e in (("fp32", 1.3, 1.1), ("bf16", 1.3, 1.2)):
        for mode in ("off", "on"):
            f = 0.85 if mode == "on" and dtype == "fp32" else 1
            bar = lambda x: None if mode == "on" and dtype == "bf16" else f">= {x * f:.2f}"
            group = "forward " + dtype
            rows += [(f"calibration forward, {dtype}, invariance {mode}", group, "calibrate " + mode, "rate", "peer", "rate", "x", bar(c)),
                     (f"evaluation, {dtype}, invariance {mode}", group, "evaluate " + mode, "rate", "peer", "rate", "x", bar(e))]
    for mode in ("off", "on"):
        rows.append((f"KD step, fp32, invariance {mode}", "kd fp32", mode, "rate", "peer", "rate", "x", f">= {1.6 * (0.85 if mode == 'on' else 1):.2f}"))
    rows += [("calibration forward of the sgemm ceiling, fp32", "forward fp32", "calibrate off", "rate", "ceiling", "gflops",
              ("mfu", model_flops(b.model, 1, 512, False)), ">= 0.80"),
             ("KD step of the sgemm ceiling, fp32", "kd fp32", "off", "rate", "ceiling", "gflops",
              ("mfu", 4 * model_flops(b.model, 1, 256, True)), ">= 0.70")]
    for preset in ("fp8", "nvfp4"):
        for dtype in ("fp32", "bf16"):
            group = f"ptq {preset} {dtype}"
            for mode in ("off", "on"):
                barred = dtype == "bf16" and mode == "off"
                rows.append((f"{preset} PTQ + export, process, {dtype}, invariance {mode}", group, mode, "seconds", "peer", "seconds", "/", ">= 2.50" if barred else None))
            rows.append((f"  its peak memory, {dtype}", group, "off", "rss", "peer", "rss", "share", "<= 0.60" if dtype == "bf16" else None))
    for name, figure in (("checkpoint writing against a plain write", "save"), ("export against a plain write", "export"), ("model loading against a plain read", "load")):
        rows.append((name, "files", "temper", figure, "plain", figure, "x", ">= 0.70"))
    rows += [("training stands still for a save in the background, of one in line", "saving", "background", "stalled", "line", "stalled", "share", "<= 0.05"),
             ("  a step beside it", "saving", "background", "step", "line", "step", "share", None)]
    rows.append(("tokenizer, one core", "tokenizer", "temper", "rate", "peer", "rate", "x", None))
    for grid in ("tp2 pp2", "pp4"):
        rows.append((f"KD step on 4 ranks ({grid}) of 1 rank", "grid", grid, "rate", "one", "rate", "x", ">= 0.70"))
    for dtype in ("fp32", "bf16"):
        for side in ("calibrate", "qad"):
            rows.append((f"process memory of its plan, {side}, {dtype}", "memory " + dtype, side, "used", side, "planned", "share", "0.97 .. 1.03"))
    for side in ("embedded model", "135M"):
        for x in PLANNED:
            rows.append((f"time of its plan, {x}, {side}", "plan", side, x + " took", side, x + " planned", "share", "0.80 .. 1.20"))
    for side, most in (("kd 2 x 512", 3.75e9), ("kd 1 x 2048", 6e9)):
        rows.append((f"peak memory of a KD step, {side}, fp32", "memory fp32", side, "rss", None, most, "share", "<= 1.00"))
    return rows


class Samples:
    """Good and spoiled samples by (group, side)."""

    def __init__(self):
        self.good, self.spoiled, self.why = {}, {}, {}

    def figure(self, group, side, name):
        values = [s[name] for s in self.good.get((group, side), [])]
        return (statistics.median(values), machine.spread(values), len(values)) if values else None


def sample(a, run, timed, patience_s):
    """(sample, is it good). What is not a time is good on a busy machine too."""
    if timed:
        machine.wait_quiet(a.others, patience_s)
    with machine.Meter() as m:
        s = run()
    s.setdefault("others", m.others)
    return s, not timed or s["others"] <= a.others


def collect(a, groups, samples, deadline):
    rounds = a.rounds or (1 if a.quick else 3)
    for group, sides in groups.items():
        timed = not group.startswith("memory")
        n = rounds if timed and not group.startswith("ptq") else min(rounds, 2) if timed else 1
        for turn in range(3 * n):
            for side, run in sides.items():
                key = (group, side)
                if key in samples.why or len(samples.good.get(key, [])) >= n:
                    continue
                if time.time() > deadline:
                    samples.why.setdefault(key, "no time left")
                    continue
                try:
                    s, good = sample(a, run, timed, 5 if a.quick else 20)
                except Unavailable as e:
                    samples.why[key] = str(e)
                    continue
                except RuntimeError as e: # one side that fails does not take the others' figures with it
                    print(f"bench: {group}: {side}: {e}", file=sys.stderr, flush=True)
                    samples.why[key] = "failed: " + str(e).splitlines()[0]
                    continue
                (samples.good if good else samples.spoiled).setdefault(key, []).append(s)
                shown = " ".join(f"{k}={v:.4g}" for k, v in s.items() if isinstance(v, float))
                print(f"bench: {group}: {side}: {shown}{'' if good else '  (spoiled)'}", file=sys.stderr, flush=True)


# How each figure of a row is shown.
UNITS = {"rate": lambda v: f"{v:,.0f} tokens/s" if v < 1e6 else f"{v / 1e6:.1f} MB/s", "gflops": lambda v: f"{v:,.0f} GFLOP/s",
         "seconds": lambda v: f"{v:.1f} s", **{k: lambda v: f"{v:.2f} s" for k in ("stalled", "step")},
         **{k: lambda v: f"{v / 1e9:.2f} GB" for k in ("rss", "used", "planned")},
         **{k: lambda v: f"{v / 1e6:,.0f} MB/s" for k in ("save", "export", "load")},
         **{f"{x} {k}": lambda v: f"{v:.2f} s" for x in PLANNED for k in ("took", "planned")}}


def meets(ratio, bar):
    low, high = 0.0, float("inf")
    if ".." in bar:
        low, high = (float(x) for x in bar.split(" .. "))
    else:
        low, high = (float(bar[3:]), high) if bar[0] == ">" else (low, float(bar[3:]))
    return low <= ratio <= high


def table_row(samples, row):
    """(cells, ratio or None)"""
    text, group, side, figure, other, reference, kind, bar = row
    mine = samples.figure(group, side, figure)
    theirs = samples.figure(group, other, reference) if other else (reference, 0, 1)
    cell = lambda f, x: "" if f is None else UNITS[x](f[0]) + (f" ±{100 * f[1]:.0f} %" if f[2] > 1 else "")
    shown = [cell(mine, figure), cell(theirs, reference if other else figure)]
    if mine is None or theirs is None:
        key = next((k for k in ((group, side), (group, other)) if not samples.good.get(k)), None)
        if key in samples.why:
            return [text, *shown, f"not available: {samples.why[key]}", bar or ""], None
        worst = samples.spoiled.get(key)
        busy = f"busy: others used {100 * min(s['others'] for s in worst):.0f} %" if worst else "not run"
        return [text, *shown, busy, bar or ""], None
    if kind == "/":
        ratio = theirs[0] / mine[0]
    elif isinstance(kind, tuple):
        ratio = mine[0] * kind[1] / (theirs[0] * 1e9)
    else:
        ratio = mine[0] / theirs[0]
    verdict = "" if not bar else " **yes**" if meets(ratio, bar) else " no"
    return [text, *shown, f"{ratio:.3f}" if kind == "share" else f"{ratio:.2f}", (bar or "") + verdict], ratio


def write(a, b, about, start, groups, samples, versions):
    """The table on standard output and in FOLDER/bench.md, everything in FOLDER/bench.json."""
    temper = subprocess.run([b.temper, "--version"], capture_output=True, text=True).stdout.strip()
    modelopt = next((s["version"] for v in samples.good.values() for s in v if "version" in s), None)
    versions = {"temper": temper, **versions, **({"modelopt": modelopt} if modelopt else {})}
    about.update(when=time.strftime("%Y-%m-%d", time.gmtime(start)), minutes=round((time.time() - start) / 60, 1), load_at_end=os.getloadavg()[0],
                 threads=b.threads, model=os.path.basename(b.model), versions=versions, limit_of_others=a.others,
                 spoiled=sum(map(len, samples.spoiled.values())))
    lines = [["case", "temper", "against", "ratio", "bar"], ["---"] * 5]
    rows = []
    for row in rows_of(b):
        if row[1] in groups and row[2] in groups[row[1]]:
            cells, ratio = table_row(samples, row)
            lines.append(cells)
            rows.append({"case": row[0].strip(), "ratio": ratio, "bar": row[-1], "note": cells[3]})
    text = "".join("| " + " | ".join(c) + " |\n" for c in lines)
    text += (f"\n{about['cpu']}, {about['cores']} cores ({', '.join(about['isa'])}), {about['memory_gib']} GiB, {about['when']}; "
             f"{', '.join(f'{k} {v}' for k, v in versions.items())}; {b.threads} threads each.\n"
             f"Medians (± half of the range) of samples taken in turn in one run of {about['minutes']} min; other processes used less than "
             f"{100 * a.others:.0f} % of the machine in each ({about['spoiled']} spoiled samples were repeated; load {about['load']:.2f} before, "
             f"{about['load_at_end']:.2f} after).\n")
    keyed = lambda d: {f"{g}: {s}": v for (g, s), v in d.items()}
    with open(os.path.join(a.folder, "bench.json"), "w") as f:
        json.dump({"machine": about, "rows": rows, "samples": keyed(samples.good), "spoiled": keyed(samples.spoiled), "unavailable": keyed(samples.why)}, f, indent=1)
    with open(os.path.join(a.folder, "bench.md"), "w") as f:
        f.write(text)
    print(text)
    print(f"bench: {a.folder}/bench.md, bench.json", file=sys.stderr)


def main():
    a = arguments()
    start, about = time.time(), machine.describe()
    a.folder = os.path.abspath(a.folder)
    os.makedirs(a.folder, exist_ok=True)
    model = os.path.abspath(a.model) if a.model and os.path.isdir(a.model) else random_model(a)
    if a.model and not os.path.isdir(a.model):
        print(f"bench: {a.model} is no directory: random weights instead", file=sys.stderr)
    if not a.peer_python:
        print("bench: PEER_PYTHON is not set: the peers are not measured", file=sys.stderr)
    peer = Peer(a.peer_python, model, machine.CORES)
    b = Bench(machine.run, os.path.abspath(a.temper), os.path.abspath(a.sgemm), a.mpirun, peer, model, a.folder, machine.CORES)
    groups = groups_of(b, austen_text(a.folder, 4 if a.quick else 12), about["isa"])
    if not os.path.exists(os.path.join(model, "tokenizer.json")):
        del groups["tokenizer"]
    if a.quick:
        for name in [x for x in groups if x in ("grid", "files", "plan") or x.startswith("ptq fp8")]:
            groups.pop(name)
        for side in ("kd 2 x 512", "kd 1 x 2048"):
            groups["memory fp32"].pop(side)
    if a.only:
        groups = {k: v for k, v in groups.items() if any(k.startswith(x) for x in a.only.split(","))}
    unknown = {row[3] for row in rows_of(b)} - set(UNITS)
    if unknown:
        sys.exit(f"bench: figures without a unit: {', '.join(sorted(unknown))}")
    samples = Samples()
    collect(a, groups, samples, start + 60 * (a.minutes or (2.5 if a.quick else 30)))
    peer.close()
    write(a, b, about, start, groups, samples, peer.versions)


if __name__ == "__main__":
    main()
