#!/usr/bin/env bash
# Runs a command as several processes of one JAX program on this machine.
#
#   launch/local.sh [-n N] [--devices D] [--port PORT] [--grace SECONDS] [--dry-run] -- COMMAND…
#
#   -n N             processes (2)
#   --devices D      simulated CPU devices per process (none: what JAX finds)
#   --port PORT      the coordinator's port (any)
#   --grace SECONDS  when one fails: between SIGTERM and SIGKILL to the others (30)
#
# SIGTERM and Ctrl-C stop all (SIGTERM). Exit status: that of the first process that failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=2 devices='' grace=30 port=$((20000 + RANDOM % 12000)) # below what kernels hand out
while (($#)); do
  case $1 in
    --?*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    -n) processes=$(number "$@"); shift 2 ;;
    --devices) devices=$(number "$@"); shift 2 ;;
    --port) port=$(number "$@"); shift 2 ;;
    --grace) grace=$(number "$@"); shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    --) shift; break ;;
    *) fail "$1: unknown; expected -- before the command, or a flag of --help" ;;
  esac
done
(($#)) || fail "found no command, expected -- COMMAND…"
tool "$1" "what you mean to run"

prefix() { trap '' TERM INT; exec sed -u "s/^/[$1] /"; } # outlives what it reads from
signal_all() { for pid in "${!running[@]}"; do kill -s "$1" -- "-$pid" 2>/dev/null || true; done; }

declare -A running=() # process group -> JAX_PROCESS_ID
status=0 stopping='' watchdog=''
trap 'stopping=1; signal_all TERM' TERM INT HUP
trap '[[ -z $watchdog ]] || kill -- "-$watchdog" 2>/dev/null || true' EXIT
set -m # a process group each: a signal reaches what a command starts, and Ctrl-C comes here alone
for ((i = 0; i < processes; i++)); do
  process=(env "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$processes")
  process+=("JAX_PROCESS_ID=$i")
  [[ -z $devices ]] || process+=(JAX_PLATFORMS=cpu
    "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices")
  [[ -z $dry_run ]] || { echo "$(quoted "${process[@]}" "$@") &" && continue; }
  "${process[@]}" "$@" </dev/null > >(prefix "$i") 2> >(prefix "$i" >&2) &
  running[$!]=$i
done
while ((${#running[@]})); do
  ended='' code=0
  wait -n -p ended "${!running[@]}" 2>/dev/null || code=$?
  [[ -n ${ended-} ]] || continue # a signal came, and was passed on
  i=${running[$ended]} && unset "running[$ended]"
  ((code && !status)) || continue
  status=$code
  [[ -z $stopping ]] || continue
  echo "local.sh: process $i ended with status $code; stopping the others" >&2
  signal_all TERM
  { sleep "$grace"; signal_all KILL; } >/dev/null 2>&1 & watchdog=$!
done
exit "$status"
