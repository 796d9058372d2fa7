#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=120
# Where the CUDA backend cannot serve: device.backend = "cuda" ends with code 20 and one line that says why, "auto" takes the host and says
# the same. A plugin that is not there, is no plugin, was built from other sources, or finds no driver or no device.
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
# serves_not WHAT PATTERN [RANKS]: with TEMPER_CUDA_PLUGIN as it is now
serves_not() {
    local what=$1 pattern=$2 ranks=${3:-1}
    rm -rf "$dir/run"
    check "$what: code 20" ends 20 "$ranks" "$dir/deck.cfg" --set device.backend=cuda
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
    serves_not "no device" "counting devices: no device"
    unset CUEMU_DEVICES
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
