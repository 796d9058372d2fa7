#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=120
# Where the CUDA backend cannot serve: device.backend = "cuda" ends with code 20 (14: no code for the device) and one line that says why, "auto"
# takes the host and says the same. A plugin that is not there, is no plugin, was built from other sources, finds no driver, one that is too old,
# no device, or one that is busy or of another kind; ranks of two backends; too little memory; a kernel that fails.
set -u
# shellcheck source=tests/e2e.sh
. "$(dirname "$0")/e2e.sh"
cat >"$dir/deck.cfg" <<END
version = 1; run = { dir = "$dir/run"; };
model = { random_init = "$tests/data/tiny-llama/config.json"; };
datasets = { d = { sources = ( { path = "mock"; } ); seq_length = 8; samples = 1; }; };
stages = ( { do = "evaluate"; data = "d"; } );
END
one_line() { # one_line PATTERN LEVEL: one line of the log speaks of cuda, and it is this one
    [ "$(grep -c 'cuda' "$dir/log")" = 1 ] || { grep -c 'cuda' "$dir/log"; return 1; }
    grep -Eq -- "^$2 .*cuda: $1" "$dir/log" || { echo "no line matches: $1"; return 1; }
}
# serves_not WHAT PATTERN [RANKS [CODE]]: with TEMPER_CUDA_PLUGIN as it is now
serves_not() {
    local what=$1 pattern=$2 ranks=${3:-1} code=${4:-20}
    rm -rf "$dir/run"
    check "$what: code $code" ends "$code" "$ranks" "$dir/deck.cfg" --set device.backend=cuda
    check "  says: $pattern" one_line "$pattern" error
    check "  nothing was written" test ! -e "$dir/run/results.json"
    rm -rf "$dir/run" # its ledger knows the other device
    check "  auto: the host serves" ends 0 "$ranks" "$dir/deck.cfg"
    check "  and says why, once" one_line "$pattern" info
    check "  device host" says '^info .*device host: (avx|portable)'
}

export TEMPER_CUDA_PLUGIN=$dir/nowhere.so
serves_not "no such file" ".*nowhere\.so: cannot open"
serves_not "no such file, two ranks" ".*nowhere\.so: cannot open" 2

echo "not a library" >"$dir/text.so"
TEMPER_CUDA_PLUGIN=$dir/text.so serves_not "no library" ".*text\.so: "

cc=${CC:-gcc}
if command -v "$cc" >/dev/null; then
    echo 'int answer(void); int answer(void) { return 42; }' >"$dir/other.c"
    check "a library of something else" "$cc" -shared -fPIC -o "$dir/other.so" "$dir/other.c"
    TEMPER_CUDA_PLUGIN=$dir/other.so serves_not "no plugin" ".*other\.so is no plugin of temper"
    # the table begins with its version; nothing else of it may be read
    cat >"$dir/old.c" <<'END'
struct table { const char *abi; };
const struct table *temper_cuda_plugin(void);
const struct table *temper_cuda_plugin(void) { static const struct table t = {"older"}; return &t; }
END
    check "a plugin of other sources" "$cc" -shared -fPIC -o "$dir/old.so" "$dir/old.c"
    TEMPER_CUDA_PLUGIN=$dir/old.so serves_not "another ABI" ".*old\.so was built from other sources \(older, expected [0-9]+\): run make again"
else
    echo "# no $cc: no libraries made"
fi

if [ -e "${EMU:-build/emu}/libtemper_cuda.so" ]; then
    export TEMPER_CUDA_PLUGIN=$PWD/${EMU:-build/emu}/libtemper_cuda.so CUEMU_DEVICES=0
    serves_not "no device" "counting devices: no CUDA-capable device"
    unset CUEMU_DEVICES
    CUEMU_DRIVER=0 serves_not "no driver at all" "no NVIDIA driver here"
    CUEMU_DRIVER=11040 serves_not "an old driver" "the driver is too old: it serves CUDA 11\.4, the plugin needs [0-9]+\.[0-9]"
    CUEMU_FAIL=cudaMemGetInfo:46 serves_not "a busy device" "device 0 \(emulated, PCI 0000:00:00\.0\) is busy: another process holds it"
    CUEMU_FAIL=cudaMemGetInfo:46 CUEMU_COMPUTE_MODE=3 serves_not "an exclusive device" "device 0 .* is busy: its compute mode lets one process in"
    CUEMU_ARCH=61 serves_not "an architecture without code" "device 0 \(emulated\) is an sm_61: this plugin has no code for it" 1 14

    # one rank finds a device, the other does not
    cat >"$dir/mixed" <<END
#!/usr/bin/env bash
[ "\$OMPI_COMM_WORLD_RANK" = 0 ] || export CUEMU_DEVICES=0
exec "$TEMPER" "\$@"
END
    chmod +x "$dir/mixed"
    rm -rf "$dir/run"
    TEMPER=$dir/mixed check "two backends: code 20" ends 20 2 "$dir/deck.cfg"
    check "  both are named" says 'rank 1 has the host backend and rank 0 the cuda: expected one for all'

    # memory: refused before anything starts; on a device that two ranks share each has half
    rm -rf "$dir/run"
    CUEMU_MEMORY=400000 check "a small device: code 10" ends 10 1 "$dir/deck.cfg" --set device.backend=cuda
    check "  need, have, largest" says 'stage evaluate needs [0-9.]+ MiB on the GPU of rank 0, where it has 0\.4 MiB; the largest part is [a-z ]+ with [0-9.]+ MiB'
    check "  no stage began" bash -c "! grep -q 'stage=evaluate' '$dir/log'"
    need=$(sed -nE 's/.*needs ([0-9.]+) MiB.*/\1/p' "$dir/log" | head -n 1)
    CUEMU_MEMORY=$(awk -v m="$need" 'BEGIN { printf "%d", (m + 0.1) * 1048576 }') check "  with $need MiB and a little it runs" ends 0 1 "$dir/deck.cfg" --set device.backend=cuda
    rm -rf "$dir/run"
    CUEMU_MEMORY=$(awk -v m="$need" 'BEGIN { printf "%d", 1.5 * m * 1048576 }') check "  two ranks share 1.5 times that: code 10" ends 10 2 "$dir/deck.cfg" \
        --set device.backend=cuda --set device.share=true

    # a kernel that fails: the error comes with the next wait, or, under --profile, with the operation
    rm -rf "$dir/run"
    CUEMU_FAIL=rmsnorm_fwd:700 check "a kernel fails: code 20" ends 20 1 "$dir/deck.cfg" --set device.backend=cuda
    check "  says among which operations" says 'error rank=0 .*one of [0-9]+ operations from [a-z_]+ to [a-z_]+ \(--profile tells which\): cuda: .*an illegal memory access.*\(cuda error 700\)'
    rm -rf "$dir/run"
    CUEMU_FAIL=rmsnorm_fwd:700:1 check "on rank 1, under --profile: code 20" ends 20 2 "$dir/deck.cfg" --set device.backend=cuda --set device.share=true --profile
    check "  says which operation, and its shape" says 'error rank=1 .*operation rmsnorm_fwd \(rows=8 c=[0-9]+\): cuda: .*an illegal memory access'
else
    echo "# no emulated plugin (make emu): a machine without devices is not tried"
fi

unset TEMPER_CUDA_PLUGIN
if [ -e /dev/nvidiactl ]; then
    echo "# this machine has an NVIDIA device: the driver's absence is not tried"
elif [ -e "$BUILD/libtemper_cuda.so" ]; then
    serves_not "no driver" "no NVIDIA driver here \(libcuda\.so\.1 is not found\)"
else
    serves_not "a build without plugin" "this build has no plugin \(make cuda builds libtemper_cuda\.so\)"
fi
finish
