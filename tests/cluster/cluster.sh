# shellcheck shell=bash
# For the tests of this folder, which source it: what tests/e2e.sh gives, hosts and a Slurm that go away in every case, jobs and waiting.
# shellcheck source=tests/e2e.sh
. tests/e2e.sh
# shellcheck disable=SC2034
tests=$PWD/tests decks=$PWD/tests/decks
unset OMPI_MCA_btl_tcp_if_include OMPI_MCA_oob_tcp_if_include # make's own environment says lo
export HOSTS_OWNER=$$ OMP_NUM_THREADS=1
export SLURM_CLUSTER_DIR=${dir/temper-e2e/temper-slurm}

needs() { # needs PROGRAM...: and root, and namespaces; else all of the test is skipped
    local p
    PATH=$PATH:/usr/sbin:/sbin
    [ "$(id -u)" = 0 ] || skip_all "several hosts need root"
    for p in "$@" ip nsenter unshare; do command -v "$p" >/dev/null || skip_all "no $p here"; done
    unshare --net --uts --mount true 2>/dev/null || skip_all "no namespaces here"
}
clean_up() {
    [ ! -e "$SLURM_CLUSTER_DIR" ] || scripts/slurm-cluster stop
    scripts/hosts down 2>/dev/null
    chmod -R u+w "$dir"
    rm -rf "$dir"
}
with_hosts() { # with_hosts N
    needs
    trap clean_up EXIT
    trap 'exit 1' INT TERM
    scripts/hosts up "$1" || skip_all "no hosts here"
}
with_slurm() { # with_slurm N: nodes
    needs munged slurmctld slurmd sbatch srun
    trap clean_up EXIT
    trap 'exit 1' INT TERM
    scripts/slurm-cluster start "$1" >"$dir/start" 2>&1 || { cat "$dir/start" && skip_all "Slurm does not start here"; }
    eval "$(scripts/slurm-cluster env)"
    export TEMPER
}
wait_for() { # wait_for SECONDS COMMAND...: until it succeeds
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        [ $SECONDS -lt $end ] || { echo "not within $1 s: ${*:2}"; return 1; }
        sleep 0.05
    done
}
has_lines() { [ -e "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]; }
steps_done() { has_lines "$dir/$1/metrics.jsonl" "$2"; } # steps_done RUN N
hold() { wait_for 60 steps_done "$1" "${2:-2}" && ranks_of "$1" | xargs -r kill -STOP; } # hold RUN [STEPS]: keep it there
release() { ranks_of "$1" | xargs -r kill -CONT; }
gone() { ! ranks_of "$1" >/dev/null; } # gone RUN: no rank is left on any host

words=() more=() # temper's options: of all starts, and of those that a test adds

# --- the job of these tests: tests/decks/tiny.cfg with more steps, a checkpoint after each ---
job_deck() { # job_deck STEPS: $words; the model, and the facts of a run that nothing disturbed in $dir/reference
    words=(--set model.path="$dir/tiny-llama/hf" --set teacher.path="$dir/tiny-llama/hf" --set checkpoint.every=1 --set qad.steps="$1")
    check "a model" make_model tiny-llama
    check "the undisturbed run" ends 0 1 "$decks/tiny.cfg" --set run.dir="$dir/whole" "${words[@]}"
    facts "$dir/whole" >"$dir/reference"
    check "its facts" test "$(grep -cE '^(01-ptq|03-qad) [0-9a-f]{16}$|^[0-9a-f]{64} ' "$dir/reference")" = 5
}
same() { # same RUN: it left the bytes and numbers of the undisturbed one
    facts "$dir/$1" >"$dir/this" && diff "$dir/reference" "$dir/this"
}

# --- Slurm ---
submit() { # submit RUN SBATCH-OPTIONS... : qad.sbatch on tiny.cfg; $job is its number, $dir/RUN.job its log
    job=$(sbatch --parsable --time=60 --cpus-per-task=1 --output="$dir/$1.job" "${@:2}" "${script:-jobs/qad.sbatch}" \
        "$decks/tiny.cfg" --set run.dir="$dir/$1" "${words[@]}" "${more[@]}")
    log=$dir/$1.job
}
field() { scontrol show job "$job" | grep -oE "(^|[ ])$1=[^ ]*" | head -n 1 | cut -d = -f 2; }
state_is() { [ "$(field JobState)" = "$1" ]; } # state_is STATE
ended() { case $(field JobState) in COMPLETED | FAILED | CANCELLED | NODE_FAIL | TIMEOUT) ;; *) return 1 ;; esac; }
completes() { # completes SECONDS: the job, with COMPLETED
    wait_for "$1" ended
    state_is COMPLETED || { echo "state $(field JobState)" && tail -n 20 "$log" && return 1; }
}
job_says() { grep -Eq -- "$1" "$log" || { echo "no line matches: $1" && tail -n 20 "$log" && return 1; }; }
restarts_are() { [ "$(field Restarts)" -ge "$1" ] || { echo "restarts: $(field Restarts)" && return 1; }; }
