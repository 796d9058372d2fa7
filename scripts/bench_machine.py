"""What the machine is, how busy others keep it, and how a command or a block of code is measured there."""
import os, re, statistics, subprocess, tempfile, time

HZ = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))


def busy_ticks():
    """(busy, all) ticks of the whole machine; time that a hypervisor stole counts as busy."""
    v = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return sum(v) - v[3] - v[4], sum(v)


class Meter:
    """with Meter() as m: ...  then m.seconds and m.others, the share of the machine that other processes used meanwhile."""

    def __init__(self, extra_cpu=0.0):
        self.extra_cpu = extra_cpu  # seconds of processor time of children that were not waited for

    def __enter__(self):
        self.t0, self.b0, self.c0 = time.perf_counter(), busy_ticks(), sum(os.times()[:4])
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.t0
        b1, own = busy_ticks(), sum(os.times()[:4]) - self.c0 + self.extra_cpu
        self.others = max(0.0, (b1[0] - self.b0[0]) - own * HZ) / max(1, b1[1] - self.b0[1])


def wait_quiet(share, limit_s):
    """Wait, at most limit_s, until for half a second others have used no more than this share of the machine."""
    end = time.time() + limit_s
    while True:
        b0 = busy_ticks()
        time.sleep(0.5)
        b1 = busy_ticks()
        if (b1[0] - b0[0]) / max(1, b1[1] - b0[1]) <= share or time.time() > end:
            return


def run(command, limit_s=600, env=None):
    """Run a command as a whole process: {code, seconds, others, rss, out}; rss in bytes, out is both of its streams."""
    with tempfile.TemporaryFile() as out, Meter() as m:
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})})
        end, usage = time.time() + limit_s, None
        while usage is None:
            pid, code, u = os.wait4(p.pid, os.WNOHANG)
            if pid:
                usage, p.returncode = u, os.waitstatus_to_exitcode(code)
            elif time.time() > end:
                p.kill()
            else:
                time.sleep(0.02)
        out.seek(0)
        text = out.read().decode(errors="replace")
    return {"code": p.returncode, "seconds": m.seconds, "others": m.others, "rss": usage.ru_maxrss * 1024, "out": text}


def describe():
    info = open("/proc/cpuinfo").read()
    flags = set(re.search(r"^flags\s*: (.*)", info, re.M).group(1).split()) if "flags" in info else set()
    isa = [f for f in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    name = re.search(r"^model name\s*: (.*)", info, re.M)
    mem = re.search(r"MemTotal:\s*(\d+)", open("/proc/meminfo").read())
    return {"cpu": name.group(1) if name else os.uname().machine, "cores": CORES, "isa": isa,
            "memory_gib": round(int(mem.group(1)) / 2**20, 1), "kernel": os.uname().release, "load": os.getloadavg()[0]}


def spread(values):
    """Half of the range over the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values) if len(values) > 1 else 0.0
