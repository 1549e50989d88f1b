#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A Cloud TPU slice: get it, set it up, run, start again after a preemption, give it back. Settings: env.sh.
#
#   launch/tpu_pod.sh [--dry-run] create | setup | run | watch | status | logs | delete | all
#
#   create  asks for the slice and waits until it is there
#   setup   copies this checkout to all workers and installs it; again: only what changed
#   run     starts the run on all workers, in the background; again: only where it does not run
#   watch   waits for the end; starts it again when it broke off, with a new slice when that was taken away
#   status  the slice's state, the run's on each worker, and how far it is: exit code of t1jax.status
#   logs    the last lines of worker 0
#   delete  gives the slice back: until then it costs money
#   all     create, setup, run, watch, delete after success
#
# Exit codes: 0 done, 1 gave up, 2 a mistake in the settings or in the run's flags, 3 and 4 the run's own
# (docs/reliability.md), 130 interrupted; of status 5 and 6 as well, see t1jax.status.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

AGAIN=0       # restarts so far
MAY_EXIST='' # whether a slice may be there when this script ends

gcloud_tpu() { call gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"; }

# What the queued resource is: ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...; NONE where there is none.
state() {
  local said
  if said=$(gcloud compute tpus queued-resources describe "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" \
    --format='value(state.state)' 2>&1); then
    echo "${said:-UNKNOWN}"
  elif [[ $said == *NOT_FOUND* || $said == *"not found"* ]]; then
    echo NONE
  else
    say "gcloud cannot tell the state of $TPU_NAME: ${said//$'\n'/ }"
    echo UNKNOWN
  fi
}

on_all() { gcloud_tpu tpu-vm ssh "$TPU_NAME" --worker=all --command="$1"; }

remind() {
  local code=$?
  if [[ -n $MAY_EXIST && -z $DRY_RUN ]]; then
    say "the slice $TPU_NAME may still exist and cost money; to delete it:"
    printf '  gcloud compute tpus queued-resources delete %q --project=%q --zone=%q --force --quiet\n' \
      "$TPU_NAME" "$PROJECT" "$ZONE" >&2
  fi
  exit "$code"
}

create() {
  local now=NONE how=()
  [[ -n $DRY_RUN ]] || now=$(state)
  case $now in
    FAILED | SUSPENDED | SUSPENDING)
      delete || return 1
      now=NONE
      ;;
    UNKNOWN) return 1 ;;
  esac
  MAY_EXIST=yes
  if [[ $now == NONE ]]; then
    case $CAPACITY in
      on-demand) ;;
      spot) how+=(--spot) ;;
      *) how+=(--reserved "--reservation=$CAPACITY") ;;
    esac
    [[ -z $SERVICE_ACCOUNT ]] || how+=("--service-account=$SERVICE_ACCOUNT")
    [[ -z $NETWORK ]] || how+=("--network=$NETWORK")
    gcloud_tpu queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" --accelerator-type="$ACCELERATOR" \
      --runtime-version="$RUNTIME" "${how[@]}" || return 1
  fi
  [[ -z $DRY_RUN ]] || return 0
  while now=$(state) && [[ $now != ACTIVE ]]; do
    case $now in
      FAILED | SUSPENDED | SUSPENDING | NONE | UNKNOWN)
        say "$TPU_NAME is $now; expected it to become ACTIVE"
        return 1
        ;;
    esac
    say "$TPU_NAME is $now; looking again in $PAUSE s"
    sleep "$PAUSE"
  done
}

setup() {
  local archive mount='true'
  archive=$(mktemp)
  call git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD || return 1
  gcloud_tpu tpu-vm scp "$archive" "$TPU_NAME:t1jax.tar.gz" --worker=all || return 1
  rm -f "$archive"
  [[ -z $BUCKET ]] || mount=$(
    cat <<REMOTE
mountpoint -q $(printf %q "$SHARED_DIR") || {
  command -v gcsfuse >/dev/null || { sudo apt-get update -q && sudo apt-get install -yq gcsfuse; }
  sudo mkdir -p $(printf %q "$SHARED_DIR") && sudo chown "\$USER" $(printf %q "$SHARED_DIR")
  gcsfuse --implicit-dirs $(printf %q "$BUCKET") $(printf %q "$SHARED_DIR")
}
REMOTE
  )
  on_all "set -eu
$mount
hash=\$(sha256sum < t1jax.tar.gz)
[ \"\$(cat t1jax/.installed 2>/dev/null)\" = \"\$hash\" ] || {
  mkdir -p t1jax && tar -xzf t1jax.tar.gz -C t1jax
  [ -x ~/.local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh
  ~/.local/bin/uv venv --quiet --allow-existing --python=3.12 t1jax/.venv
  ~/.local/bin/uv pip install --quiet --python=t1jax/.venv './t1jax[tpu,gcs]'
  printf %s \"\$hash\" > t1jax/.installed
}" || return 1
}

run() {
  local command
  command=$(printf ' %q' python -m t1jax.main --multiprocess "--workdir=$SHARED_DIR/$RUN_ID" "${TRAIN_FLAGS[@]}")
  on_all "set -eu
cd t1jax && mkdir -p runs/$RUN_ID && cd runs/$RUN_ID
if [ -f pid ] && [ ! -f code ] && kill -0 \"\$(cat pid)\" 2>/dev/null; then echo 'runs already'; exit 0; fi
rm -f code
PATH=\"\$HOME/t1jax/.venv/bin:\$PATH\" setsid nohup sh -c 'cd ../..; \"\$@\"; echo \$? > runs/$RUN_ID/code' run$command \
  >> log 2>&1 < /dev/null &
echo \$! > pid" || return 1
}

# One word a worker: its exit code, `running`, or `lost`.
progress() {
  on_all "cd t1jax/runs/$RUN_ID 2>/dev/null || { echo 't1jax: lost'; exit 0; }
if [ -f code ]; then echo \"t1jax: \$(cat code)\"
elif kill -0 \"\$(cat pid)\" 2>/dev/null; then echo 't1jax: running'
else echo 't1jax: lost'; fi" | sed -n 's/^t1jax: //p'
}

# How the run is doing, by its workdir; t1jax.status touches no device.
report() {
  gcloud_tpu tpu-vm ssh "$TPU_NAME" --worker=0 --command="cd t1jax 2>/dev/null && [ -x .venv/bin/python ] || exit 0
JAX_PLATFORMS=cpu .venv/bin/python -m t1jax.status $(printf %q "$SHARED_DIR/$RUN_ID")" || return
}

# Counts a restart and waits; fails after MAX_RESTARTS of them.
again() {
  AGAIN=$((AGAIN + 1))
  if ((AGAIN > MAX_RESTARTS)); then
    say "$1; gave up after $MAX_RESTARTS restarts (MAX_RESTARTS)"
    return 1
  fi
  say "$1; restart $AGAIN of $MAX_RESTARTS in $(pause_before "$AGAIN") s"
  sleep "$(pause_before "$AGAIN")"
}

# Ends what still runs where one worker failed: asks first, and insists after a minute.
stop_workers() {
  on_all "cd t1jax/runs/$RUN_ID || exit 0
kill -- -\"\$(cat pid)\" 2>/dev/null || exit 0
for _ in \$(seq 60); do kill -0 \"\$(cat pid)\" 2>/dev/null || exit 0; sleep 1; done
kill -9 -- -\"\$(cat pid)\"" || true
}

watch() {
  if [[ -n $DRY_RUN ]]; then
    call gcloud compute tpus queued-resources describe "$TPU_NAME" --project="$PROJECT" --zone="$ZONE" \
      --format='value(state.state)'
    progress
    return
  fi
  local now said code
  while true; do
    now=$(state)
    case $now in
      UNKNOWN) again "the state of $TPU_NAME is not known" || return 1 ;;
      ACTIVE)
        if ! said=$(progress); then
          again "not every worker of $TPU_NAME answers" || return 1
        elif code=$(grep -xm1 '[234]' <<<"$said"); then
          say "the run ended with $code and would again; its own words: launch/tpu_pod.sh logs"
          return "$code"
        elif grep -qvx -e 0 -e running <<<"$said"; then
          again "the run broke off (${said//$'\n'/ })" || return 1
          stop_workers
          run || say "not every worker could be started"
        elif ! grep -qx running <<<"$said"; then
          say "$RUN_ID is done: $SHARED_DIR/$RUN_ID/report.html"
          [[ $SHARED_DIR == /* ]] || say "to read it: python -m t1jax.report $SHARED_DIR/$RUN_ID --out=$RUN_ID.html"
          return 0
        fi
        ;;
      *)
        again "$TPU_NAME is $now" || return 1
        { create && setup && run; } || say "the new slice could not be brought up"
        ;;
    esac
    sleep "$PAUSE"
  done
}

delete() {
  gcloud_tpu queued-resources delete "$TPU_NAME" --force --quiet || return 1
  MAY_EXIST=''
}

all() { create && setup && run && watch && delete; }

main() {
  if [[ ${1-} == --dry-run ]]; then
    DRY_RUN=yes
    shift
  fi
  local verb=${1-}
  case $verb in
    create | setup | run | watch | all) MAY_EXIST=$([[ $verb == create || $verb == all ]] || echo yes) ;;
    status | logs | delete) ;;
    *) refuse "got '$*'; expected [--dry-run] and one of create, setup, run, watch, status, logs, delete, all" ;;
  esac
  need gcloud 'see cloud.google.com/sdk/docs/install'
  check_run
  check PROJECT '[a-z][a-z0-9-]{4,28}[a-z0-9]' 'the id of a Google Cloud project'
  check ZONE '[a-z]+-[a-z]+[0-9]+-[a-z]' 'a zone, such as us-east5-a'
  check TPU_NAME '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' 'lower-case letters, digits and -, a letter first'
  check ACCELERATOR 'v[0-9][a-z]*-[0-9]+' 'a type, such as v5p-256'
  check RUNTIME '[a-z0-9.-]+' 'a runtime version, such as v2-alpha-tpuv5'
  check NUM_SLICES 1 '1, as this script runs a single slice; xpk.sh runs several'
  check CAPACITY 'on-demand|spot|[a-z/][a-z0-9/-]*' 'on-demand, spot, or the name of a reservation'
  trap remind EXIT
  trap 'exit 130' INT TERM
  case $verb in
    status)
      [[ -n $DRY_RUN ]] || say "$TPU_NAME is $(state)"
      progress
      report
      ;;
    logs) gcloud_tpu tpu-vm ssh "$TPU_NAME" --worker=0 --command="tail -n 100 t1jax/runs/$RUN_ID/log" ;;
    *) "$verb" ;;
  esac
}

main "$@"
