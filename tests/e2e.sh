# shellcheck shell=bash
# For the end-to-end shell tests, which source this: a scratch folder in $dir, TAP lines, temper on N ranks, the helper program.
dir=$(mktemp -d /tmp/temper-e2e-XXXXXX)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
n=0 failed=0
# shellcheck disable=SC2034 # the tests use these
compare=$BUILD/tests/e2e-compare
tests=$PWD/$(dirname "$0") # tests are run from the root of the tree
decks=$tests/decks
: "${TEMPER:?}"
export OMPI_MCA_odls_base_sigkill_timeout=0 # the others of a killed rank follow at once

check() { # check WHAT COMMAND...: one TAP line; what the command printed is shown when it fails
    local what=$1
    shift
    n=$((n + 1))
    if "$@" >"$dir/check" 2>&1; then
        echo "ok $n - $what"
    else
        echo "not ok $n - $what"
        failed=1
        { printf '  failed: %s\n' "$*"; head -n 30 "$dir/check"; [ ! -e "$dir/log" ] || tail -n 15 "$dir/log"; } | sed 's/^/#   /'
    fi
}
finish() {
    echo "1..$n"
    exit "$failed"
}
skip_all() { # skip_all WHY
    echo "1..0 # SKIP $1"
    exit 0
}
temper() { # temper RANKS ARGUMENTS...: standard output and error in $dir/out and $dir/log; the exit code of the run
    local np=$1
    shift
    timeout -k 5 "${RUN_LIMIT:-60}" mpirun -np "$np" "$TEMPER" "$@" </dev/null >"$dir/out" 2>"$dir/log"
}
ends() { # ends CODE RANKS ARGUMENTS...: the run ends with this exit code
    local code=$1 rc
    shift
    temper "$@"
    rc=$?
    [ "$rc" -eq "$code" ] || { echo "exit code $rc, expected $code"; return 1; }
}
ranks_of() { # ranks_of RUN: process ids of its ranks on all hosts, RUN being a pattern; fails where there is none. A bare system has no pgrep
    local f words run=" run.dir=$dir/$1 " none=1
    for f in /proc/[0-9]*/cmdline; do
        { mapfile -d '' -t words <"$f"; } 2>/dev/null || continue
        # shellcheck disable=SC2053 # a pattern
        [[ ${words[0]-} = "$TEMPER" && " ${words[*]} " = *$run* ]] || continue
        f=${f%/cmdline} none=0
        echo "${f#/proc/}"
    done
    return $none
}
says() { grep -Eq -- "$1" "$dir/log" || { echo "no line matches: $1"; return 1; }; }
bytes_of() { (cd "$1" && find . -type f | LC_ALL=C sort | xargs sha256sum) | sha256sum | cut -c 1-16; } # of a whole folder
make_model() { # make_model NAME: tests/data/NAME becomes a Hugging Face directory with weights, $dir/NAME/hf
    ends 0 1 "$decks/tiny-model.cfg" --set run.dir="$dir/$1" --set model.random_init="$tests/data/$1/config.json"
}
facts() { # facts RUN: what a run of tiny.cfg left that depends neither on the grid nor on stops: hashes, bytes, numbers
    local f
    for f in 01-ptq 03-qad; do echo "$f $("$TEMPER" --hash "$1/ckpt/$f")"; done
    echo "export $(bytes_of "$1/export")"
    (cd "$1" && sha256sum stats.safetensors logits.safetensors gradients.safetensors)
    sed -E 's/,? *"seconds": *[-+.0-9e]+//' "$1/metrics.jsonl"
    grep -vE '"(seconds|tokens_per_s|directory|version)":' "$1/results.json"
}
