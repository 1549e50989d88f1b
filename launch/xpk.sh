#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A run on a GKE cluster of xpk: submit it, look at it, delete it. Settings: env.sh. Image: Dockerfile.
#
#   launch/xpk.sh [--dry-run] run | status | delete
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

xpk_workload() { call xpk workload "$@" "--cluster=$CLUSTER" "--project=$PROJECT" "--zone=$ZONE"; }

run() {
  local command slices=()
  ((NUM_SLICES == 1)) || slices=("--config.mesh.slices=$NUM_SLICES") # fewer than that are an error, not another mesh
  command=$(printf ' %q' python -m t1jax.main --multiprocess "--workdir=$SHARED_DIR/$RUN_ID" "${TRAIN_FLAGS[@]}" \
    "${slices[@]}")
  if ! xpk_workload create "--workload=$RUN_ID" "--tpu-type=$ACCELERATOR" "--num-slices=$NUM_SLICES" \
    "--docker-image=$IMAGE" "--max-restarts=$MAX_RESTARTS" "--command=cd /t1jax &&$command"; then
    say "the workload may have been created in part; to delete it: launch/xpk.sh delete"
    return 1
  fi
}

main() {
  if [[ ${1-} == --dry-run ]]; then
    DRY_RUN=yes
    shift
  fi
  need xpk 'pip install xpk'
  check_run
  check PROJECT '[a-z][a-z0-9-]{4,28}[a-z0-9]' 'the id of a Google Cloud project'
  check ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' 'a zone, such as us-east5-a'
  check CLUSTER '[a-z][a-z0-9-]*' 'the name of a cluster made by xpk cluster create'
  check NUM_SLICES '[1-9][0-9]*' 'a number of slices'
  case ${1-} in
    run)
      check IMAGE '[a-z0-9.:/_-]+' 'an image, such as us-docker.pkg.dev/PROJECT/REPOSITORY/t1jax:latest'
      run
      ;;
    status) xpk_workload list "--filter-by-job=$RUN_ID" ;;
    delete) xpk_workload delete "--workload=$RUN_ID" --force ;;
    *) refuse "got '$*'; expected [--dry-run] and one of run, status, delete" ;;
  esac
}

main "$@"
