"""What scripts/bench.py measures: groups of sides that run in turn, and the rows of the table that are made of them."""
import json, os, re, shutil

DECK = """version = 1;
run = {{ dir = "{dir}"; }};
model = {{ path = "{model}"; }};
teacher = {{ path = "{model}"; }};
datasets = {{ d = {{ sources = ( {{ path = "mock"; }} ); seq_length = {length}; samples = {samples}; }}; }};
numerics = {{ compute = "{compute}"; grid_invariant = "{invariant}"; recompute = "{recompute}"; }};
grid = {{ tp = {tp}; pp = {pp}; }};
quant = {{ preset = "{preset}"; }};
batch = {{ micro = {micro}; global = {batch}; }};
optim = {{ lr = 1e-5; }};
stages = ( {stages} );
"""
DEFAULTS = dict(length=512, samples=16, compute="fp32", invariant="false", recompute="none", tp=1, pp=1, preset="none", micro=4, batch=4)
CALIBRATE = '{ do = "calibrate"; name = "run"; data = "d"; }'
EVALUATE = '{ do = "evaluate"; name = "run"; data = "d"; compare = "false"; }'
DISTILL = '{ do = "distill"; name = "run"; data = "d"; steps = 4; }'
EXPORT = '{ do = "export"; name = "export"; }'
PTQ_MEMORY = 2 << 30  # enough for either side
# Stages whose time is planned and measured.
PLANNED = {"calibrate": '{{ do = "{do}"; data = "d"; }}', "distill": '{{ do = "{do}"; data = "d"; steps = 3; }}',
           "evaluate": '{{ do = "{do}"; data = "d"; }}', "export": '{{ do = "{do}"; }}'}


class Unavailable(Exception):
    """This side cannot be measured here, and why."""


def config(model):
    return json.load(open(os.path.join(model, "config.json")))


def model_flops(model, tokens, length, head):
    """Model FLOPs of a forward: two a weight and token, and causal attention. Norms, rotary and activations are not counted."""
    c = config(model)
    hidden, heads, kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    d = c.get("head_dim") or hidden // heads
    linear = c["num_hidden_layers"] * (hidden * d * (2 * heads + 2 * kv) + 3 * hidden * c["intermediate_size"])
    attention = c["num_hidden_layers"] * tokens * (length + 1) * heads * d * 2
    return 2 * tokens * (linear + (hidden * c["vocab_size"] if head else 0)) + attention


class Bench:
    """Where things are and how a side is run. Every side returns {figure name: value}."""

    def __init__(self, measure, temper, sgemm, mpirun, peer, model, folder, threads):
        self.measure, self.temper, self.sgemm_program, self.mpirun = measure, temper, sgemm, mpirun
        self.peer, self.model, self.folder, self.threads = peer, model, folder, threads

    def deck(self, stages, **keys):
        where = os.path.join(self.folder, "run")
        shutil.rmtree(where, ignore_errors=True)
        path = os.path.join(self.folder, "deck.cfg")
        with open(path, "w") as f:
            f.write(DECK.format(**{**DEFAULTS, "model": self.model, **keys, "stages": ", ".join(stages), "dir": where}))
        return path, where

    def run(self, stages, ranks=1, threads=None, **keys):
        """A temper process: (measurement, results by stage, metrics)."""
        path, where = self.deck(stages, **keys)
        return self.finish([path], where, ranks, threads)

    def finish(self, arguments, where, ranks=1, threads=None):
        launch = [] if ranks == 1 else [*self.mpirun.split(), "-np", str(ranks)]
        r = self.measure([*launch, self.temper, *arguments], env={"OMP_NUM_THREADS": str(threads or self.threads)})
        last = r["out"].strip().splitlines()[-1:] or [""]
        if r["code"] == 14:
            raise Unavailable(last[0].split(": ", 1)[-1])
        if r["code"] != 0:
            raise RuntimeError(f"temper ended with {r['code']}:\n{r['out'][-2000:]}")
        results = json.load(open(os.path.join(where, "results.json")))["stages"]
        metrics = os.path.join(where, "metrics.jsonl")
        steps = [json.loads(x) for x in open(metrics)] if os.path.exists(metrics) else []
        return r, results, steps

    # --- sides ---------------------------------------------------------------------------------------------------------------
    def rate(self, stage, **keys):
        r, results, _ = self.run([stage], **keys)
        return {"rate": results["run"]["tokens_per_s"], "rss": r["rss"]}

    def step(self, ranks=1, threads=None, **keys):
        r, _, steps = self.run([DISTILL], ranks, threads, **keys)
        times = [x["seconds"] for x in steps[1:]]  # the first step warms up
        return {"rate": steps[-1]["tokens"] * len(times) / sum(times), "rss": r["rss"]}

    def process(self, preset, **keys):
        warm(PTQ_MEMORY)
        r, _, _ = self.run([CALIBRATE, EXPORT], preset=preset, samples=32, **keys)
        return {"seconds": r["seconds"], "rss": r["rss"]}

    def modelopt(self, preset, dtype):
        if not self.peer.python:
            raise Unavailable("no PEER_PYTHON")
        warm(PTQ_MEMORY)
        out = os.path.join(self.folder, "peer-export")
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench_modelopt.py")
        r = self.measure([self.peer.python, script, self.model, preset, dtype, "32", "512", "4", str(self.threads), out])
        shutil.rmtree(out, ignore_errors=True)
        if r["code"] != 0:
            raise Unavailable("ModelOpt failed: " + (r["out"].strip().splitlines() or ["?"])[-1])
        return {"seconds": r["seconds"], "rss": r["rss"], "version": r["out"].split()[-1]}

    def ceiling(self):
        r = self.measure([self.sgemm_program, str(self.threads), "3"])
        return {"gflops": float(r["out"].split()[-1])}

    def memory(self, stages, **keys):
        r, _, _ = self.run(stages, **keys)
        m = re.findall(r"memory process planned=([\d.]+) used=([\d.]+) MiB", r["out"])
        if not m:
            raise Unavailable("the log has no line 'memory process planned'")
        return {"planned": float(m[-1][0]) * 2**20, "used": float(m[-1][1]) * 2**20, "rss": r["rss"]}

    def probe(self):
        """A machine file of this machine as it is now."""
        r = self.measure([self.temper, "--probe", "--out", os.path.join(self.folder, "machine.cfg")], env={"OMP_NUM_THREADS": str(self.threads)})
        if r["code"] != 0:
            raise RuntimeError(f"the probe ended with {r['code']}:\n{r['out'][-2000:]}")
        return {"seconds": r["seconds"]}

    def planned(self, **keys):
        """Seconds of each stage by the plan on that machine file, and by a run."""
        machine = os.path.join(self.folder, "machine.cfg")
        if not os.path.exists(machine):
            raise Unavailable("no machine file")
        path, where = self.deck([x.format(do=do) for do, x in PLANNED.items()], **keys)
        plan = self.measure([self.temper, path, "--plan", "--machine", machine])["out"]
        times = dict(re.findall(r"^stage (\S+) (?:(?!^stage ).)*?^  time on .*?: about (\S+) s", plan, re.M | re.S))
        r, results, _ = self.finish([path], where)
        figures = {f"{x} planned": float(times[x]) for x in PLANNED}
        return {**figures, **{f"{x} took": results[x]["seconds"] for x in PLANNED}}

    def files(self):
        """Loading a model, writing a checkpoint, loading it and exporting it: bytes and seconds from the log."""
        train = '{ do = "train"; name = "run"; data = "d"; steps = 1; }'
        path, where = self.deck([train, EXPORT], length=16, samples=4, micro=1, batch=1)
        weights = os.path.join(self.model, "model.safetensors")
        forget(weights)
        warm(24 * os.path.getsize(weights))
        r, _, _ = self.finish([path], where)
        saved = re.search(r"checkpoint step=1 bytes=(\d+) seconds=([\d.]+) path=(\S+)", r["out"])
        exported = re.search(r"exported bytes=(\d+) seconds=([\d.]+)", r["out"])
        loaded = re.search(r"loaded seconds=([\d.]+)", r["out"])
        return {"save": int(saved[1]) / float(saved[2]), "export": int(exported[1]) / float(exported[2]),
                "load": os.path.getsize(weights) / float(loaded[1])}

    def saving(self, background):
        """How long a training stands still for a checkpoint, and its steps, while it saves after every second one."""
        train = '{ do = "train"; name = "run"; data = "d"; steps = 7; checkpoint = { every = 2; background = %s; }; }' % background
        path, where = self.deck([train], length=256, samples=0, micro=2, batch=2)
        r, _, steps = self.finish([path], where)
        stalled = sorted(float(x) for x in re.findall(r"checkpoint step=[246] .* stalled=([\d.]+)", r["out"]))
        return {"stalled": stalled[1], "step": sorted(x["seconds"] for x in steps[1:])[2]}

    def plain_files(self, meter):
        """The same amounts by plain sequential writing (with fsync) and reading (not from the page cache)."""
        def write(n):
            block, path = os.urandom(1 << 20) * 16, os.path.join(self.folder, "plain")
            with meter() as m, open(path, "wb", buffering=0) as f:
                for _ in range(0, n, len(block)):
                    f.write(block)
                os.fsync(f.fileno())
            os.remove(path)
            return -(-n // len(block)) * len(block) / m.seconds, m.others

        weights = os.path.join(self.model, "model.safetensors")
        n = os.path.getsize(weights)
        forget(weights)
        warm(24 * n)
        with meter() as m, open(weights, "rb", buffering=0) as f:
            buffer = bytearray(n)
            while f.readinto(buffer):
                pass
        save, o1 = write(6 * n)
        export, o2 = write(n)
        return {"save": save, "export": export, "load": n / m.seconds, "others": max(o1, o2, m.others)}

    def tokenize(self, text):
        where = os.path.join(self.folder, "run")
        shutil.rmtree(where, ignore_errors=True)
        path = os.path.join(self.folder, "deck.cfg")
        with open(path, "w") as f:
            f.write(f'version = 1; run = {{ dir = "{where}"; }}; model = {{ path = "{self.model}"; }};\n'
                    f'stages = ( {{ do = "convert"; name = "run"; input = "{text}"; output = "tokens"; }} );\n')
        _, results, _ = self.finish([path], where, threads=1)
        return {"rate": os.path.getsize(text) / results["run"]["seconds"]}


def warm(n):
    """Take n bytes of memory and give them back. A virtual machine may have to fetch memory from its host, several times as slowly as a disk writes:
    both sides of a comparison begin with as much at hand as the larger one needs (states, and the files in the page cache). A process of its own
    takes it: the peak of this one would count as that of the programs it starts."""
    step = 1 << 28
    pid = os.fork()
    if pid == 0:
        held = [b"1" * step for _ in range(-(-n // step))]
        os._exit(0 if held else 1)
    os.waitpid(pid, 0)


def forget(path):
    """Drop a file's pages from the page cache, so that reading it reads the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
