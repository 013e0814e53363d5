#!/usr/bin/env bash
# Runs a command on TPU slices of a GKE cluster, as a workload of xpk.
#
#   launch/gke.sh --cluster C --type T --image I [flags] -- COMMAND…
#
#   --cluster C    the cluster, made by `xpk cluster create`
#   --type T       TPU type, such as v5litepod-16
#   --image I      docker image that has p5jax[tpu], see launch/README.md
#   --name N       the workload (p5jax)
#   --slices N     slices (1)
#   --restarts N   how often to start again after a failure or an orderly stop (10)
#   --grace S      seconds between SIGTERM and the end (180)
#   --spot         on spot capacity
#   --storage S    a volume, attached to the cluster by `xpk storage attach`
#   --project P, --zone Z, --dry-run
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cluster='' type='' image='' name=p5jax slices=1 restarts=10 grace=180 options=()
while (($#)); do
  case $1 in
    --?*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --cluster) cluster=$(value "$@"); shift 2 ;;
    --type) type=$(value "$@"); shift 2 ;;
    --image) image=$(value "$@"); shift 2 ;;
    --name) name=$(value "$@"); shift 2 ;;
    --slices) slices=$(number "$@"); shift 2 ;;
    --restarts) restarts=$(number "$@"); shift 2 ;;
    --grace) grace=$(number "$@"); shift 2 ;;
    --project | --zone | --storage) text=$(value "$@"); options+=("$1=$text"); shift 2 ;;
    --spot) options+=(--spot); shift ;;
    --dry-run) dry_run=1; shift ;;
    --) shift; break ;;
    *) fail "$1: unknown; expected -- before the command, or a flag of --help" ;;
  esac
done
need cluster type image
(($#)) || fail "found no command, expected -- COMMAND…"
tool xpk "pip install xpk"

run xpk workload create "--cluster=$cluster" "--workload=$name" "--tpu-type=$type" \
  "--num-slices=$slices" "--docker-image=$image" "--max-restarts=$restarts" --restart-on-exit-codes=1 \
  "--termination-grace-period-seconds=$grace" "${options[@]}" "--command=$(quoted "$@")"
