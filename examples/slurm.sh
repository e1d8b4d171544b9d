#!/usr/bin/env bash
# A run on a Slurm cluster that outlives its time limit: it saves shortly before the end and queues itself again, until
# the run is complete. Copy this file, change the lines marked with <--, and submit it once:
#
#     sbatch slurm.sh
#
#SBATCH --job-name=gpt
#SBATCH --nodes=2                  # <-- machines
#SBATCH --ntasks-per-node=8        # <-- processes on each: one for every GPU
#SBATCH --gpus-per-node=8          # <-- the same number
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00            # <-- what the cluster allows at most
#SBATCH --signal=B:USR1@300        # this script hears SIGUSR1 five minutes before that time is over
#SBATCH --requeue
#SBATCH --open-mode=append         # the output of all parts in one file
#SBATCH --output=gpt-%j.out

set -uo pipefail

# The folders of the data and of the run have to be on a file system that all machines share.
# What stands behind `gpt train` is the run: given again, the same command continues it.
# shellcheck disable=SC2206
command=(${GPT_COMMAND:-gpt train --data-root /shared/edu_fineweb10B --log-dir /shared/log/gpt2})  # <--

# SIGUSR1 comes from Slurm before the time limit. To end the run early, saved and not queued again:
#
#     scancel --batch --signal=TERM JOBID
#
# (a plain `scancel` kills it, and what came after the last checkpoint is computed again). srun passes SIGUSR1 on to all
# tasks, which save, and end with 75; at SIGTERM it would kill them.
cancelled=no
step=
trap 'kill -USR1 $step 2>/dev/null' USR1
trap 'cancelled=yes; kill -USR1 $step 2>/dev/null' TERM

# One task for each GPU: `gpt` sees that it is one of several, and which. Since Slurm 22.05 srun does not take
# --cpus-per-task from above by itself. --kill-on-bad-exit=0, since a process that fails ends the others by itself, and
# those that were stopped are to save in peace.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 "${command[@]}" &
step=$!

wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do  # a signal ends `wait`, not the step
    wait "$step"
    code=$?
done

if [ "$code" -eq 75 ] && [ "$cancelled" = no ]; then  # stopped early, saved, and safe to start again
    echo "Stopped with a checkpoint; queueing the job again."
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
