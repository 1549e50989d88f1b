#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A Hugging Face folder -> the form that every process reads in parts, on the storage that all workers see. Once.
# In a bucket t1jax.convert itself refuses a folder that is not empty, unless its own interrupted work is there.
#
#   launch/convert_32b.sh [--dry-run] HF_DIR       such as models/Qwen2.5-32B
#
# Needs 66 GB beside the result for 32 billion weights in bfloat16, and little memory. Settings: env.sh.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

main() {
  if [[ ${1-} == --dry-run ]]; then
    DRY_RUN=yes
    shift
  fi
  (($# == 1)) || refuse "got '$*'; expected [--dry-run] and a Hugging Face folder"
  local source=$1 target=$SHARED_DIR/models/$RUN_ID
  check_run
  need python "an environment with pip install ."
  [[ -n $DRY_RUN || -f $source/config.json ]] || refuse "$source has no config.json; expected a Hugging Face folder"
  if [[ -e $target ]]; then
    say "$target is there already; delete it to convert again"
    exit 0
  fi
  [[ $SHARED_DIR == gs://* ]] || call mkdir -p "$SHARED_DIR/models"
  call python -m t1jax.convert hf-to-orbax "--src=$source" "--dst=$target"
}

main "$@"
