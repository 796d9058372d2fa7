#!/usr/bin/env bash
# CLUSTER limit=400
# The README's way from nothing to a finished sweep on a Slurm: its commands as they stand there, after the packages and the build, in an empty folder.
set -u
# shellcheck source=tests/cluster/cluster.sh
. "$(dirname "$0")/cluster.sh"
needs munged slurmctld slurmd sbatch srun
trap clean_up EXIT
trap 'exit 1' INT TERM
mkdir "$dir/home"
ln -s "$PWD"/{inputs,jobs,scripts} "$dir/home/"
ln -s "$TEMPER" "$dir/home/temper"
sed -n '/^scripts\/slurm-cluster start/,/^```$/p' README.md | sed '$d' >"$dir/commands"
run=$dir/home/run/sweep-formats-austen
newcomer() { (cd "$dir/home" && bash -eux "$dir/commands"); }
states() { awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "state") c = i } NR > 1 { print $c }' "$run/sweep.csv" | sort | uniq -c | xargs; }

check "the README has the commands" test "$(grep -c . "$dir/commands")" -ge 6
check "they run to their end" newcomer
check "  all 12 points are done: $(states)" test "$(states)" = "12 done"
check "  with a page" test -s "$run/sweep.html"
check "  and the Slurm is gone" test ! -e "$SLURM_CLUSTER_DIR"
finish
