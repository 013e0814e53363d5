#!/usr/bin/env bash
# Trains on a Cloud TPU VM, or a slice of several, through gcloud.
#
#   launch/tpu_vm.sh ACTION --name N --zone Z [--project P] [--dry-run] [flags]
#
#   create --type v5litepod-16 --version V [--spot]
#   setup [--data DIR]      install p5jax (this checkout's commit), copy DIR, on all workers
#   run -- COMMAND…         start on all workers, detached: a lost connection does not matter
#   log | stop              follow worker 0's output | SIGTERM to all: p5jax saves and stops
#   fetch --from DIR --to DIR       from worker 0's home folder
#   delete
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

action=${1-} name='' zone='' type='' version='' data='' from='' to='' options=() spot=()
[[ " create setup run log stop fetch delete " == *" ${action:-nothing} "* ]] ||
  fail "found ${action:-nothing}, expected create, setup, run, log, stop, fetch or delete"
shift
while (($#)); do
  case $action:$1 in
    *:--?*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    *:--name | *:--zone | create:--type | create:--version | setup:--data | fetch:--from | \
      fetch:--to)
      text=$(value "$@"); printf -v "${1#--}" %s "$text"; shift 2 ;;
    *:--project) text=$(value "$@"); options+=("$1=$text"); shift 2 ;;
    create:--spot) spot=("$1"); shift ;;
    *:--dry-run) dry_run=1; shift ;;
    run:--) shift; break ;;
    *) fail "$action: $1: unknown; see --help" ;;
  esac
done
need name zone
[[ $action != create ]] || need type version
[[ $action != fetch ]] || need from to
[[ $action != run ]] || (($#)) || fail "found no command, expected -- COMMAND…"
[[ -z $data || -d $data ]] || fail "--data: found $data, expected a folder"
tool gcloud "the Google Cloud CLI"

tpu() { run gcloud compute tpus tpu-vm "$@" "--zone=$zone" "${options[@]}"; }
on() { tpu ssh "$name" "--worker=$1" "--command=$2"; }
case $action in
  create) tpu create "$name" "--accelerator-type=$type" "--version=$version" "${spot[@]}" ;;
  setup)
    archive=$(mktemp -u "${TMPDIR:-/tmp}/p5jax-XXXXXX.tar.gz")
    trap 'rm -f "$archive"' EXIT
    run git -C "$(dirname "$0")/.." archive --prefix=p5jax/ "--output=$archive" HEAD
    tpu scp "$archive" "$name:p5jax.tar.gz" --worker=all
    [[ -z $data ]] || tpu scp --recurse "$data" "$name:" --worker=all
    # uv brings a Python: the runtimes' own may be older than p5jax needs.
    on all "curl -LsSf https://astral.sh/uv/install.sh | sh && tar xzf p5jax.tar.gz && \
~/.local/bin/uv venv --clear --python 3.12 env && \
~/.local/bin/uv pip install --python env --constraint p5jax/constraints.txt './p5jax[tpu]'" ;;
  run) on all "PATH=\$PWD/env/bin:\$PATH nohup setsid $(quoted "$@") >p5jax.log 2>&1 </dev/null & \
echo \$! >p5jax.pid" ;;
  log) on 0 "tail -n +1 -F --pid=\$(cat p5jax.pid) p5jax.log" ;;
  stop) on all "kill -TERM \$(cat p5jax.pid)" ;;
  fetch) tpu scp --recurse "$name:$from" "$to" --worker=0 ;;
  delete) tpu delete "$name" ;;
esac
