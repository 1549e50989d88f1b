# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034  # read by the scripts beside it
# What the launch scripts need to know. Edit this file, or set a variable before: RUN_ID=second launch/tpu_pod.sh run

# The run. The same RUN_ID again continues the run; each has a workdir of its own.
RUN_ID=${RUN_ID:-qwen32b}
# Where all workers read and write, checkpoints too: a bucket in the zone's region (gs://BUCKET or a folder in it), or an
# absolute path that all see: Filestore (NFS), or a mounted bucket.
PROJECT=${PROJECT:-}
SHARED_DIR=${SHARED_DIR:-gs://$PROJECT-t1jax}
# Where SHARED_DIR is a path: a bucket that tpu_pod.sh mounts there with gcsfuse; empty: it is mounted already. Use one
# with hierarchical namespace: only there is renaming a folder atomic.
BUCKET=${BUCKET:-}
# What t1jax.main is told, one flag each; --workdir and --multiprocess are added.
if [[ -z ${TRAIN_FLAGS+x} ]]; then
  TRAIN_FLAGS=(
    --config=configs/qwen32b.py
    --config.model.checkpoint="$SHARED_DIR/models/qwen32b"
    --config.data.train="$SHARED_DIR/data/train.jsonl"
    --config.data.eval="$SHARED_DIR/data/math500.jsonl"
  )
fi
# How often a run that ended badly, or whose slice was taken away, is started again, and the first pause, seconds.
MAX_RESTARTS=${MAX_RESTARTS:-20}
PAUSE=${PAUSE:-60}

# Google Cloud: tpu_pod.sh, xpk.sh.
ZONE=${ZONE:-us-east5-a}
TPU_NAME=${TPU_NAME:-t1jax-$RUN_ID}
# v5p counts cores: v5p-256 is 4x4x8, 128 chips. v6e and v5e count chips: v6e-64 is 8x8, v5litepod-4 is 2x2.
ACCELERATOR=${ACCELERATOR:-v5p-256}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5}
# on-demand, spot, or the name of a reservation.
CAPACITY=${CAPACITY:-spot}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-}
NETWORK=${NETWORK:-}

# GKE: xpk.sh.
CLUSTER=${CLUSTER:-}
IMAGE=${IMAGE:-}
# Slices of ACCELERATOR, joined by the data-centre network: TRAIN_FLAGS then need a mesh.data that is a multiple of it.
# Only xpk.sh starts more than one.
NUM_SLICES=${NUM_SLICES:-1}
