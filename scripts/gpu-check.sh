#!/usr/bin/env bash
# gpu-check.sh: does temper's CUDA backend work, and how fast, on the GPU of this machine?
#   scripts/gpu-check.sh --pack DIR                    on a machine with a network: what a bare machine lacks, into DIR (60 MB)
#   scripts/gpu-check.sh [--from DIR] [--emulated] OUT on the machine with the GPU: one text file, under 8 minutes; exit code 1 if a check fails
# The machine may have no network, no compiler and none of our libraries: DIR brings the programs, Debian's packages of the libraries (unpacked
# in a scratch folder, never installed) and the plugin. Where nvcc is, the plugin is built there. --emulated takes the plugin that runs on the
# CPU, and the small deck alone: the proof of this script on a machine without a GPU.
set -eu
cd "$(dirname "$0")/.."
usage() { sed -n '2,4s/^# \?//p' "$0"; exit 2; }
# What these depend on and no program here loads.
never='libc6|libgcc-s1|libstdc..6|gcc-.*|adduser|.*debconf|dpkg|install-info|libicu.*|libxml2|libhwloc-plugins|libx.*-.*|libx[^x].*|ocl-icd.*|libaudit.*|libse[mlp].*|libpam.*|libdb.*|libnewt.*|libslang.*|libtextwrap.*|libdebian.*|openssh.*|.*readline.*|libedit.*|libfido.*|libbsd.*|libcbor.*'
packages=(openmpi-bin libopenmpi3 libhdf5-103-1 libconfig9 libjansson4 libxxhash0 libpcre2-8-0 libhwloc15 libopenblas0-openmp libgomp1)
programs=(temper tests/bench-dev)
op_tests=()
for f in tests/t24?-*.c; do if grep -qE 'TEST ranks=1[, ].*cuda' "$f"; then op_tests+=("${f%.c}"); fi; done
programs+=("${op_tests[@]}")

# --- packing ------------------------------------------------------------------------------------------------------------------
pack() { # pack DIR: programs, plugins, and the packages with all that they need but what every Debian has
    local dir=$1 p base
    mkdir -p "$dir/debs" "$dir/bin/tests" "$dir/cuda" "$dir/emu"
    rm -f "$dir"/debs/*.deb
    make -s "${programs[@]/#/build/gcc/}" emu
    strip -o "$dir/emu/libtemper_cuda.so" build/emu/libtemper_cuda.so
    for p in "${programs[@]}"; do strip -o "$dir/bin/$p" "build/gcc/$p"; done
    if make -s cuda CUDA_ARCHS="${CUDA_ARCHS:-90a}"; then strip -o "$dir/cuda/libtemper_cuda.so" build/cuda/libtemper_cuda.so; fi
    base=$(dpkg-query -W -f='${Package} ${Priority}\n' | awk '$2 == "required" { print $1 }')
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "${packages[@]}" |
        grep -E '^[a-z0-9]' | sort -u | grep -vxF "$base" | grep -vE "^($never)\$" |
        (cd "$dir/debs" && xargs apt-get download -qq)
    for p in "${packages[@]}"; do ls "$dir/debs/${p}_"*.deb >/dev/null; done
    git describe --always --dirty >"$dir/version" 2>/dev/null || echo unknown >"$dir/version"
    du -sh "$dir"
}

# --- the checks ---------------------------------------------------------------------------------------------------------------
from=run/gpu-check emulated="" out=""
while [ $# -gt 0 ]; do
    case $1 in
        --pack) [ $# -eq 2 ] || usage; pack "$2"; exit ;;
        --from) from=$2; shift ;;
        --emulated) emulated=1 ;;
        -*) usage ;;
        *) [ -z "$out" ] || usage; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || usage
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0
: >"$out"
say() { printf '%s\n' "$*" | tee -a "$out"; }
result() { # result pass|FAIL|skip WHAT SECONDS [FILE WITH ITS LAST WORDS]
    case $1 in pass) passed=$((passed + 1)) ;; skip) skipped=$((skipped + 1)) ;; *) failed=$((failed + 1)) ;; esac
    say "$(printf '%-4s %s (%d s)' "$1" "$2" "$3")"
    [ "$1" = pass ] || [ -z "${4:-}" ] || tail -n 15 "$4" | sed 's/^/     /' | tee -a "$out"
}
try() { # try LIMIT WHAT COMMAND...
    local limit=$1 what=$2 start=$SECONDS rc=0
    shift 2
    timeout -k 5 "$limit" "$@" >"$work/log" 2>&1 || rc=$?
    if [ $rc -eq 0 ]; then result pass "$what" $((SECONDS - start)); else result FAIL "$what: exit code $rc" $((SECONDS - start)) "$work/log"; fi
    return $rc
}

unpack() { # Debian's packages into $work/root, and the surroundings that Open MPI needs to be found there
    local root=$work/root lib d
    for d in "$from"/debs/*.deb; do
        if command -v dpkg-deb >/dev/null; then dpkg-deb -x "$d" "$root"; else (mkdir -p "$root" && cd "$root" && ar p "$d" data.tar.xz | tar xJ); fi
    done
    lib=$root/usr/lib/x86_64-linux-gnu
    ln -sf orterun "$root/usr/bin/mpirun" # the name is an alternative of Debian's
    export PATH=$root/usr/bin:$PATH OPAL_PREFIX=$root/usr OMPI_MCA_plm_rsh_agent=false PMIX_MCA_pcompress_base_silence_warning=1
    export LD_LIBRARY_PATH=$lib:$root/lib/x86_64-linux-gnu:$lib/openblas-openmp:$lib/openmpi/lib:$lib/pmix2/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

find_programs() { # $bin: built here where all is there, else the pack's
    if command -v gcc >/dev/null && scripts/configure >/dev/null 2>&1; then
        make -s -j "$(nproc)" "${programs[@]/#/build/gcc/}"
        bin=build/gcc
        say "programs: built here by $(gcc -dumpfullversion)"
    else
        [ -x "$from/bin/temper" ] || { say "gpu-check: no libraries here and no pack in $from: scripts/gpu-check.sh --pack"; exit 1; }
        bin=$from/bin
        unpack
        say "programs: from $from, version $(cat "$from/version")"
    fi
    temper=$bin/temper
}

find_plugin() {
    local cap
    if [ -n "$emulated" ]; then
        plugin=$from/emu/libtemper_cuda.so
        [ -e "$plugin" ] || plugin=build/emu/libtemper_cuda.so
    elif command -v make >/dev/null && { command -v nvcc || ls /usr/local/cuda/bin/nvcc; } >/dev/null 2>&1; then
        cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
        case $cap in 9? | 1??) cap=${cap}a ;; esac
        if try 240 "make cuda for sm_$cap" make -j "$(nproc)" cuda CUDA_ARCHS="$cap"; then plugin=build/cuda/libtemper_cuda.so; else plugin=$from/cuda/libtemper_cuda.so; fi
    else
        plugin=$from/cuda/libtemper_cuda.so
    fi
    [ -e "$plugin" ] || { say "gpu-check: no plugin: neither nvcc here nor $plugin"; exit 1; }
    export TEMPER_CUDA_PLUGIN=$PWD/$plugin
    case $plugin in /*) TEMPER_CUDA_PLUGIN=$plugin ;; esac
}

header() {
    say "gpu-check of $("$temper" --version | head -n 1), $(date -u '+%Y-%m-%d %H:%M UTC')"
    say "machine: $(uname -sr), $(nproc) cores, $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
    if [ -n "$emulated" ]; then say "device: emulated on the CPU"; else
        nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap,pci.bus_id --format=csv,noheader | sed 's/^/device: /' | tee -a "$out"
    fi
    say "nvcc: $( (nvcc --version || /usr/local/cuda/bin/nvcc --version) 2>/dev/null | sed -n 's/.*release //p')"
}

test_ops() { # each test program: how many lines passed; those that did not
    local t rc start good
    for t in "${op_tests[@]}"; do
        start=$SECONDS rc=0
        TEMPER_TEST_BACKEND=cuda timeout -k 5 120 "$bin/$t" >"$work/log" 2>&1 || rc=$?
        good=$(grep -c '^ok' "$work/log" || true)
        grep -E '^(not ok|#)' "$work/log" >"$work/bad" || true
        if [ $rc -eq 0 ]; then result pass "$(basename "$t"): $good checks against the host" $((SECONDS - start))
        else result FAIL "$(basename "$t"): exit code $rc, $good checks passed" $((SECONDS - start)) "$work/bad"; fi
    done
}

facts() { # facts RUN: what must not depend on the device: checkpoint hashes, exported bytes
    local f
    for f in "$1"/ckpt/*; do echo "$(basename "$f") $("$temper" --hash "$f")"; done
    (cd "$1/export" && sha256sum -- *.safetensors *.json | grep -v temper.json)
}
same() { # same RUN WHAT: against the host's run
    facts "$work/host" >"$work/host.facts" 2>&1
    facts "$1" >"$work/other.facts" 2>&1
    if cmp -s "$work/host.facts" "$work/other.facts"; then result pass "$2" 0
    else diff "$work/host.facts" "$work/other.facts" >"$work/bad" || true; result FAIL "$2" 0 "$work/bad"; fi
}

small_decks() {
    local deck=(tests/decks/tiny.cfg --set model.path="$work/model/hf" --set teacher.path="$work/model/hf") share=()
    "$temper" --help-deck device.share >/dev/null 2>&1 && share=(--set device.share=true)
    try 60 "a small random model" "$temper" tests/decks/tiny-model.cfg --set run.dir="$work/model" --set device.backend='"host"' || return 0
    try 90 "small deck on the host" "$temper" "${deck[@]}" --set run.dir="$work/host" --set device.backend='"host"' || return 0
    if try 300 "small deck on the device" "$temper" "${deck[@]}" --set run.dir="$work/one" --set device.backend='"cuda"'; then
        grep -m 1 -o 'device cuda.*' "$work/log" | tee -a "$out" || true
        same "$work/one" "  its checkpoints and export have the host's bytes"
    fi
    for cut in tp pp; do
        if try 300 "small deck on the device, two ranks, $cut 2" mpirun -np 2 "$temper" "${deck[@]}" "${share[@]}" --set run.dir="$work/$cut" --set device.backend='"cuda"' --set grid.$cut=2; then
            same "$work/$cut" "  its checkpoints and export have the host's bytes"
        fi
    done
    if [ -z "$emulated" ] && command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck; do
            try 90 "compute-sanitizer $tool on the small deck" compute-sanitizer --tool $tool --error-exitcode 9 "$temper" "${deck[@]}" \
                --set run.dir="$work/$tool" --set device.backend='"cuda"' --set qad.steps=1 || true
        done
    else
        result skip "compute-sanitizer: not here" 0
    fi
}

main_job() {
    local deck=(inputs/qad-austen.cfg --set grid.tp=1 --set grid.pp=1 --set device.backend='"cuda"')
    [ -z "$emulated" ] || { result skip "the main job: emulated, it takes hours" 0; return; }
    if try 150 "the main job (inputs/qad-austen.cfg)" "$temper" "${deck[@]}" --set run.dir="$work/main"; then
        sed -n '/^stage  *NLL/,$p' "$work/log" | tee -a "$out"
        if grep -qxF -- "$(grep -m 1 '^after-ptq' README.md)" "$work/log"; then result pass "  the README's digits after calibration" 0
        else result FAIL "  after calibration, the README has: $(grep -m 1 '^after-ptq' README.md)" 0; fi
    fi
    if try 60 "five steps under --profile" "$temper" "${deck[@]}" --set run.dir="$work/profile" --set qad.steps=5 --profile; then
        grep '^profile' "$work/log" | sort -t= -k4 -rn | head -n 20 | tee -a "$out"
    fi
}

benchmark() {
    if try 120 "rates" "$bin/tests/bench-dev" cuda ${emulated:+small}; then sed 's/^/     /' "$work/log" | tee -a "$out"; fi
}

# What a container or root needs of Open MPI.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_tcp_if_include=lo
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
start=$SECONDS
find_programs
find_plugin
header
test_ops
small_decks
main_job
benchmark
say "gpu-check: $passed passed, $failed failed, $skipped skipped, $((SECONDS - start)) s"
[ $failed -eq 0 ]
