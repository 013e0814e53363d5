#!/usr/bin/env bash
# Submits a command to SLURM as one JAX program over the GPUs (or CPUs) of some nodes.
#
#   launch/slurm.sh [flags] -- COMMAND…
#
#   --nodes N       nodes (1)
#   --gpus G        GPUs per node (none: CPUs)
#   --per WHAT      one process per node or per gpu (node)
#   --cpus C        CPU cores per process
#   --time T        limit, as SLURM writes it (2:00:00)
#   --account A, --partition P, --name N (p5jax)
#   --grace S       seconds before the limit at which p5jax is told to save and stop (180)
#   --dry-run       print the command instead
#
# At the limit, and when a node fails or the job is preempted, the job is queued again and resumes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

nodes=1 gpus='' per=node grace=180 time=2:00:00 name=p5jax options=()
while (($#)); do
  case $1 in
    --?*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --nodes) nodes=$(number "$@"); shift 2 ;;
    --gpus) gpus=$(number "$@"); shift 2 ;;
    --per) per=$(value "$@"); shift 2 ;;
    --cpus) cpus=$(number "$@"); options+=("--cpus-per-task=$cpus"); shift 2 ;;
    --time) time=$(value "$@"); shift 2 ;;
    --account | --partition) text=$(value "$@"); options+=("$1=$text"); shift 2 ;;
    --name) name=$(value "$@"); shift 2 ;;
    --grace) grace=$(number "$@"); shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    --) shift; break ;;
    *) fail "$1: unknown; expected -- before the command, or a flag of --help" ;;
  esac
done
(($#)) || fail "found no command, expected -- COMMAND…"
[[ $per == node || $per == gpu ]] || fail "--per: found $per, expected node or gpu"
[[ $per == node || -n $gpus ]] || fail "--per gpu: expected --gpus too"
tool sbatch SLURM

tasks=1
[[ $per == node ]] || tasks=$gpus
step="srun --kill-on-bad-exit=1 $(quoted "$@")"
if [[ -n $gpus ]]; then
  options+=("--gpus-per-node=$gpus")
  # On SLURM JAX gives each process one GPU, the one of its number on the node, unless told.
  [[ $per == gpu ]] || step="JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1))) $step"
fi
# At the warning the batch shell has p5jax save and stop; 143 says that it did.
job="late=; trap 'late=1; kill -TERM \$!' USR1; $step & step=\$!; wait \$step; status=\$?; "
job+="if [ \$late ]; then wait \$step; status=\$?; "
job+="[ \$status -ne 143 ] || scontrol requeue \$SLURM_JOB_ID; fi; exit \$status"
run sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$tasks" "--time=$time" \
  "${options[@]}" --requeue "--signal=B:USR1@$grace" --open-mode=append --output=%x-%j.log \
  --wrap "$job"
