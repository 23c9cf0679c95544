#!/usr/bin/env bash
# A command of the course on several machines under Slurm:
#   sbatch --nodes 8 benchmarks/launch/slurm.sh pretrain /shared/run --source /shared/texts --steps 100000 --shard
# Every node needs the same environment, and must see the folders that the command names. One torchrun a node
# starts a process a GPU. Where a process ends, srun ends all of the job within half a minute; a job that was
# preempted or lost a node is queued again, and the same command goes on from the last checkpoint, on as many
# nodes as there are then.
#SBATCH --job-name=choosing-k
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail
if [ "$#" -eq 0 ]; then
  echo "say which command of topk-lib to run, as: sbatch $0 pretrain FOLDER --steps 1000" >&2
  exit 2
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
exec srun --kill-on-bad-exit=1 --wait=30 \
  torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" --max-restarts=0 \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:$port" \
  --module topk_lib.cli "$@"
