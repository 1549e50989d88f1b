# SPDX-License-Identifier: Apache-2.0
# docker build -t t1jax .                          for TPUs on GKE
# docker build -t t1jax --build-arg EXTRA=cuda .   for GPUs
FROM python:3.12-slim
ARG EXTRA=tpu
WORKDIR /t1jax
COPY . .
RUN pip install --no-cache-dir ".[${EXTRA},gcs]"
CMD ["python", "-m", "t1jax.main", "--help"]
