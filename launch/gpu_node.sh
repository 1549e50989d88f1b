#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One machine, all its GPUs, one process; started again when it breaks off. Settings: env.sh (the run's).
#
#   launch/gpu_node.sh [--dry-run]
#
# Exit code: the run's; only what ended with 1, a failure, is started again.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

main() {
  case ${1-} in
    --dry-run) DRY_RUN=yes ;;
    '') ;;
    *) refuse "got '$*'; expected nothing, or --dry-run" ;;
  esac
  need python "an environment with pip install '.[cuda]'"
  check_run
  local code=0 again=0
  while true; do
    code=0
    call python -m t1jax.main "--workdir=$SHARED_DIR/$RUN_ID" "${TRAIN_FLAGS[@]}" || code=$?
    ((code == 1)) || exit "$code"
    again=$((again + 1))
    if ((again > MAX_RESTARTS)); then
      say "the run ended with $code; gave up after $MAX_RESTARTS restarts (MAX_RESTARTS)"
      exit "$code"
    fi
    say "the run ended with $code; restart $again of $MAX_RESTARTS in $(pause_before "$again") s"
    sleep "$(pause_before "$again")"
  done
}

main "$@"
