#!/usr/bin/env bash
# One sweep over all GPUs of a job, or one share of it per task of an array. From the checkout:
#
#   sbatch scripts/cluster/slurm.sh CONFIG.py
#   sbatch --array=0-7 --nodes=1 --ntasks-per-node=1 --gpus-per-node=1 scripts/cluster/slurm.sh CONFIG.py
#
# Of an array, some tasks again: SHARDS=8 sbatch --array=3,5 ... says of how many they are.
# What follows CONFIG.py goes to `advjax sweep` too. A job that was killed goes on where it stopped:
# submit it again.
#SBATCH --job-name=advjax-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
advjax=${ADVJAX:-.venv/bin/advjax}
: "${1:?name the config of the sweep: sbatch scripts/cluster/slurm.sh CONFIG.py}"

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  # tasks of an array start and end when they like: each takes a share and knows of no other
  if [ -z "${SHARDS:-}" ]; then
    SHARDS=$SLURM_ARRAY_TASK_COUNT
    if [ "$SLURM_ARRAY_TASK_MIN" != 0 ] || [ "$SLURM_ARRAY_TASK_MAX" != $((SHARDS - 1)) ]; then
      echo "$0: an array of a few shards does not say of how many: SHARDS=8 sbatch ..." >&2
      exit 2
    fi
  fi
  exec "$advjax" sweep "$@" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS"
fi

# srun hands this on only if it is told
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# one process per GPU: jax reads addresses and numbers from SLURM, and each process takes the GPU of
# its local number, so that all GPUs of a node must be visible to each. For one process per node:
# --ntasks-per-node=1, and JAX_LOCAL_DEVICE_IDS=0,1,2,3 in the environment.
exec srun --gpu-bind=none --kill-on-bad-exit=1 "$advjax" sweep "$@" --distributed
