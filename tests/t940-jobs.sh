#!/usr/bin/env bash
# TEST ranks=1 tier=1 limit=60
# The job scripts, with stand-ins for the schedulers and for temper: what is started how, exit codes, queueing again under Slurm, PBS and LSF, the
# progress guard; the container's and the package's recipe are well formed. (tests/cluster has them on a real Slurm.)
set -u
# shellcheck source=tests/tap.sh
. "$(dirname "$0")/tap.sh"
dir=$(mktemp -d /tmp/temper-jobs-XXXXXX)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/bin" "$dir/run/ckpt/03-qad/step_00000002"
# A temper that ends as $dir/code says; schedulers that write down what they are asked for.
cat >"$dir/bin/temper" <<END
#!/usr/bin/env bash
case "\$*" in *broken*--check) echo "bad deck" >&2; exit 2 ;; *--check) echo "my.cfg: good: 2 stages, run directory $dir/run"; exit ;; esac
echo "temper \$*"
if [ -n "\${SLEEP:-}" ]; then trap 'exit 75' USR2; for ((i = 0; i < 100; i++)); do sleep 0.1; done; fi
exit "\$(cat "$dir/code")"
END
for p in srun mpirun; do
    printf '#!/usr/bin/env bash\necho "%s $*" >>"%s/asked"\nwhile [ "${1%%temper}" = "$1" ]; do shift; done\nexec "$@"\n' $p "$dir" >"$dir/bin/$p"
done
for p in scontrol qsub; do printf '#!/usr/bin/env bash\necho "%s $*" >>"%s/asked"\n' $p "$dir" >"$dir/bin/$p"; done
printf '#!/usr/bin/env bash\ncat "%s/state"\n' "$dir" >"$dir/bin/squeue"
chmod +x "$dir"/bin/*
export PATH=$dir/bin:$PATH TEMPER=$dir/bin/temper JOBS=$PWD/jobs
unset SLURM_JOB_ID SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_CPUS_PER_TASK
echo RUNNING >"$dir/state"
run() { # run CODE SCRIPT ARGUMENTS...: temper ends with the code; the script's exit code in $code
    echo "$1" >"$dir/code"
    : >"$dir/asked"
    log=$(bash "jobs/$2" "${@:3}" 2>&1)
    code=$?
    asked=$(cat "$dir/asked")
}
asks() { # asks PATTERN TEXT
    grep -Eq -- "$1" <<<"$asked" || log="$log
asked: $asked"
    grep -Eq -- "$1" <<<"$asked"
    ok $? "$2"
}
export SLURM_JOB_ID=17
run 0 qad.sbatch my.cfg --set grid.tp=2
is $code 0 "a job that is done"
asks '^srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=cores [^ ]*temper my.cfg --set grid.tp=2$' "  is started by srun with its options"
is "$(grep -c scontrol "$dir/asked")" 0 "  and not queued again"
MPI_TYPE=mpirun SLURM_CPUS_PER_TASK=3 run 0 short.sbatch my.cfg
asks '^mpirun [^ ]*temper my.cfg$' "by mpirun"
run 11 qad.sbatch my.cfg
is "$code $(grep -c scontrol "$dir/asked")" "11 0" "a job that fails keeps its code and is not queued again"
run 0 qad.sbatch broken.cfg
is "$code $(wc -l <"$dir/asked")" "2 0" "a deck with errors starts nothing"

run 75 qad.sbatch my.cfg
is $code 75 "a job that stopped"
asks '^scontrol requeue 17$' "  is queued again"
run 75 qad.sbatch my.cfg
asks '^scontrol requeue 17$' "  after one restart without progress too"
run 75 qad.sbatch my.cfg
is "$code $(grep -c scontrol "$dir/asked")" "1 0" "  not after two"
grep -q '2 restarts in a row made no progress (ckpt/03-qad/step_00000002 and 0 finished stages)' <<<"$log"
ok $? "  with a message"
mkdir "$dir/run/ckpt/03-qad/step_00000003"
run 75 qad.sbatch my.cfg
asks '^scontrol requeue 17$' "with a newer checkpoint it is"
run 75 qad.sbatch my.cfg
echo '{"finished":"qad"}' >"$dir/run/ledger.jsonl"
run 75 qad.sbatch my.cfg
run 75 qad.sbatch my.cfg
asks '^scontrol requeue 17$' "a finished stage is progress"
SLURM_JOB_ID=18 run 75 qad.sbatch my.cfg
asks '^scontrol requeue 18$' "another job begins to count anew"
echo COMPLETING >"$dir/state"
run 75 qad.sbatch my.cfg
is "$(grep -c scontrol "$dir/asked")" 0 "a cancelled job is not queued again"
echo RUNNING >"$dir/state"
SLURM_ARRAY_JOB_ID=40 SLURM_ARRAY_TASK_ID=3 run 75 sweep.sbatch my.cfg
asks 'temper my.cfg --sweep-point 3$' "a point of a sweep"
asks '^scontrol requeue 40_3$' "  is queued again by its own number"
COLLECT=$dir/bin/qsub run 0 collect.sbatch my.cfg --more
asks '^qsub my.cfg --more$' "the table of a sweep"

# The shell gets the signal, the launcher passes it on.
(SLEEP=1 exec bash jobs/qad.sbatch my.cfg >"$dir/signal" 2>&1) &
for ((i = 0; i < 100; i++)); do grep -q '^temper my' "$dir/signal" && break; sleep 0.05; done
: >"$dir/asked"
kill -TERM $!
sleep 0.3
kill -USR2 $!
wait $!
is $? 75 "SIGUSR2, and a SIGTERM that changes nothing"
asked=$(cat "$dir/asked") asks '^scontrol requeue 17$' "  is queued again"

unset SLURM_JOB_ID
export PBS_JOBID=5.host PBS_NODEFILE=$dir/nodes DECK=my.cfg
printf 'a\na\nb\n' >"$PBS_NODEFILE"
run 75 qad.pbs
is $code 75 "PBS: a job that stopped"
asks '^mpirun -np 3 [^ ]*temper my.cfg --set limits.wall_s=86400 ' "  had the ranks of its nodes and its time"
asks '^qsub -W depend=afterany:5.host -v DECK=my.cfg,OPTIONS=,WALL_S=86400,FIRST_JOB=5.host .*/qad.pbs$' "  submits itself again"
export FIRST_JOB=5.host
PBS_JOBID=6.host run 75 qad.pbs
PBS_JOBID=7.host run 75 qad.pbs
is "$code $(grep -c qsub "$dir/asked")" "1 0" "  no more after two without progress"
unset PBS_JOBID PBS_NODEFILE FIRST_JOB
export LSB_JOBID=9 LSB_DJOB_NUMPROC=4
OPTIONS="--set grid.tp=2" WALL_S=600 run 75 qad.lsf
is $code 75 "LSF: a job that stopped says so to LSF (-Q 75)"
asks '^mpirun -np 4 [^ ]*temper my.cfg --set grid.tp=2 --set limits.wall_s=600 ' "  had its ranks, options and time"
run 75 qad.lsf
run 75 qad.lsf
is $code 1 "  another code after two restarts without progress"
for directive in 'SBATCH --signal=B:USR2@' 'SBATCH --requeue' 'SBATCH --open-mode=append'; do
    is "$(grep -l "^#$directive" jobs/qad.sbatch jobs/short.sbatch jobs/sweep.sbatch | wc -l)" 3 "#$directive"
done

# Recipes.
if command -v python3 >/dev/null; then
    log=$(python3 -c 'import ast; t = ast.parse(open("jobs/package.py").read()); print([c.name for c in t.body if isinstance(c, ast.ClassDef)])' 2>&1)
    is "$log" "['Temper']" "the Spack recipe parses"
fi
is "$(grep -cE '^%(files|post|environment|runscript|test)$' jobs/temper.def)" 5 "the Apptainer recipe has its sections"
finish
