#!/usr/bin/env bash
# A training on several nodes of a SLURM job: nodes.sh NODES PROCESSES CORES ARGUMENT... runs `vidm ARGUMENT...` in
# PROCESSES processes on each node. The first node of the step is where they meet.
set -euo pipefail

if [ "$1" != --node ]; then
    if ! command -v srun >/dev/null; then
        echo "vidm: running.nodes: $1 asked for, but this is no SLURM cluster (no srun); set it to 1" >&2
        exit 2
    fi
    # Cores are said again: since SLURM 22.05 a step does not take them over from its job.
    exec srun --nodes="$1" --ntasks="$1" --ntasks-per-node=1 --cpus-per-task="$3" \
        bash "${BASH_SOURCE[0]}" --node "${@:1:2}" "${@:4}"
fi
shift
first=$(scontrol show hostnames "$SLURM_STEP_NODELIST" | head -n 1)
# A port of the job's own, in case that two of them start on one node.
exec torchrun --nnodes="$1" --nproc-per-node="$2" --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 10000))" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 -m vidm.cli "${@:3}"
