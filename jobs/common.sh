# shellcheck shell=bash
# What the job scripts of this folder share; they source it. Set the site's part here, or in the environment of sbatch, qsub and bsub.

# --- the site ------------------------------------------------------------------------------------------------------------
TEMPER=${TEMPER:-$PWD/temper}    # the program
COLLECT=${COLLECT:-$PWD/scripts/collect} # what makes a table of a sweep
MODULES=${MODULES:-}             # loaded first, e.g. "openmpi/4.1 hdf5"
MPI_TYPE=${MPI_TYPE:-pmix}       # srun --mpi=... (srun --mpi=list shows them); mpirun: start with mpirun instead
# Further options. Ranks lie next to each other on the cores of a node, and temper gives GPU i to the i-th rank of a node: leave all GPUs of a
# node visible to all of them (no --gpus-per-task).
SRUN_OPTIONS=${SRUN_OPTIONS:---cpu-bind=cores}
MPIRUN_OPTIONS=${MPIRUN_OPTIONS:-}
STALLS=${STALLS:-2}              # restarts in a row without progress after which a job is not queued again

# -----------------------------------------------------------------------------------------------------------------------------
# job DECK [temper options]: run it, forward signals, and ask for another start when it stopped at a checkpoint. Ends the script with
# temper's exit code (0 done, 75 stopped and queued again; README), or with 1 when restarts make no progress.
job() {
    local check code
    : "${1:?usage: sbatch jobs/NAME.sbatch DECK [temper options]}"
    for m in $MODULES; do module load "$m"; done
    export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${OMP_NUM_THREADS:-1}}
    # mpirun notices a node that cannot be reached after 90 s, not 8 minutes.
    export OMPI_MCA_oob_tcp_keepalive_time=${OMPI_MCA_oob_tcp_keepalive_time:-60} OMPI_MCA_oob_tcp_keepalive_intvl=10 OMPI_MCA_oob_tcp_keepalive_probes=3
    export OMP_PROC_BIND=${OMP_PROC_BIND:-close} OMP_PLACES=${OMP_PLACES:-cores}
    check=$("$TEMPER" "$@" --check) || exit $? # all errors of the deck at once, before a rank starts
    run=${check##*run directory }
    echo "jobs: $(date +%FT%T) start ${SLURM_RESTART_COUNT:-0} on ${SLURM_JOB_NODELIST:-$(hostname)}: $*"
    job_ranks "$@"
    code=$?
    echo "jobs: $(date +%FT%T) temper ended with exit code $code"
    if [ "$code" -eq 75 ]; then job_again; fi
    exit "$code"
}

# The scheduler signals this shell alone (--signal=B:), which tells the launcher, which tells every rank. (Ranks that got it twice would take
# the second one for "stop now".) A SIGTERM comes to the ranks too where they are tasks of srun: here it only must not end the shell.
job_ranks() {
    local code launch=(srun --mpi="$MPI_TYPE" --kill-on-bad-exit=1)
    # shellcheck disable=SC2206
    if [ "$MPI_TYPE" = mpirun ]; then launch=(mpirun ${JOB_RANKS:+-np $JOB_RANKS} $MPIRUN_OPTIONS); else launch+=($SRUN_OPTIONS); fi
    pid=
    trap 'job_signal USR2' USR2
    trap 'job_signal USR1' USR1
    trap : TERM
    "${launch[@]}" "$TEMPER" "$@" &
    pid=$!
    while :; do # a trap interrupts wait: wait again until the launcher itself has ended
        wait $pid
        code=$?
        kill -0 $pid 2>/dev/null || return $code
    done
}
job_signal() {
    echo "jobs: $(date +%FT%T) SIG$1"
    [ -z "$pid" ] || kill "-$1" $pid
}

# How far the run has come: the newest checkpoint, and how many stages are finished.
job_progress() {
    local steps=("$run"/ckpt/*/step_????????)
    echo "${steps[-1]#"$run"/} and $(cat "$run/ledger.jsonl" 2>/dev/null | grep -c '^{"finished"') finished stages"
}

# Queue this job again, unless restarts lead nowhere (a time limit too short for a single save) or somebody has cancelled it.
job_again() {
    local id=${JOB_ID:-} now was_id="" stalls=0 was=""
    if [ -n "${SLURM_JOB_ID:-}" ]; then # (the number of an array's last task is also the number of the whole array)
        id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
    fi
    now=$(job_progress)
    { read -r was_id stalls && read -r was; } 2>/dev/null <"$run/requeue" || true
    if [ "$was_id" != "$id" ] || [ "$was" != "$now" ]; then stalls=-1; fi
    printf '%s\n' "$id $((++stalls))" "$now" >"$run/requeue"
    if [ "$stalls" -ge "$STALLS" ]; then
        echo "jobs: $stalls restarts in a row made no progress ($now): not queued again. Give more time or a smaller checkpoint.every." >&2
        exit 1
    fi
    job_requeue "$id"
}
job_requeue() { # under Slurm; the scripts for others have their own
    case $(squeue -h -j "$1" -o %T) in
        RUNNING) scontrol requeue "$1" ;;
        *) echo "jobs: cancelled: not queued again" ;;
    esac
}
