# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the launch scripts share: checked settings, commands that are shown before they run, dry runs.

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # for tpu_pod.sh
ROOT=$(dirname -- "$HERE")
PROGRAM=${0##*/}
DRY_RUN=${DRY_RUN:-}

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }

# A mistake in env.sh or on the command line.
refuse() {
  say "$*"
  exit 2
}

# Prints the command so that it can be pasted, and runs it unless this is a dry run.
call() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  [[ -n $DRY_RUN ]] || "$@"
}

need() {
  [[ -n $DRY_RUN ]] || command -v "$1" >/dev/null || refuse "$1 is not installed; expected it on PATH: $2"
}

# check NAME REGEX EXPECTED: the value of a variable of env.sh.
check() {
  local value=${!1-}
  [[ $value =~ ^($2)$ ]] || refuse "$1 is '$value'; expected $3; edit launch/env.sh or set $1"
}

# Checks what every script reads.
check_run() {
  check RUN_ID '[a-z]([a-z0-9-]{0,38}[a-z0-9])?' 'lower-case letters, digits and -, at most 40, a letter first'
  check SHARED_DIR '/.+|gs://[a-z0-9][^ ]+[^/]' 'gs://BUCKET/..., or an absolute path that all workers see'
  [[ -z ${BUCKET-} || $SHARED_DIR == /* ]] || refuse "BUCKET is '$BUCKET'; expected none, as SHARED_DIR is $SHARED_DIR"
  check MAX_RESTARTS '[0-9]{1,4}' 'a number'
  check PAUSE '[0-9]{1,5}' 'a number of seconds'
  local flag
  for flag in "${TRAIN_FLAGS[@]}"; do
    [[ $flag == --* ]] || refuse "TRAIN_FLAGS has '$flag'; expected flags of t1jax.main, each as --NAME=VALUE"
    [[ $flag != --workdir* ]] || refuse "TRAIN_FLAGS has '$flag'; expected no --workdir: it is SHARED_DIR/RUN_ID"
  done
}

# The pause before the N-th restart: doubled each time, an hour at most.
pause_before() {
  local seconds=$((PAUSE << ($1 < 10 ? $1 - 1 : 9)))
  echo $((seconds < 3600 ? seconds : 3600))
}

# shellcheck source=env.sh
source "$HERE/env.sh"
