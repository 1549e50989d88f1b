# SPDX-License-Identifier: Apache-2.0
"""How long devices wait for a slow scorer: XLA's timeouts, and how they are raised.

Scoring is a host callback inside the program. While one shard's answers are judged, the other devices wait for it in
their next collective, and XLA gives up on a collective that takes too long:

    CPU, one process      40 s, then it aborts the process: xla_cpu_collective_call_terminate_timeout_seconds
    CPU, several          30 minutes: xla_cpu_collective_timeout_seconds (a reduce-scatter 30 s, which no flag changes:
                          github.com/jax-ml/jax/issues/40831; the step has none on CPU)
    GPU, several of one   40 s for the first exchange of each kind, which is in the step that is scored first:
    process               xla_gpu_first_collective_call_terminate_timeout_seconds; later ones wait inside NCCL, without
                          limit unless xla_gpu_nccl_termination_timeout_seconds is set
    TPU                   no limit is documented

Defaults of xla/debug_options_flags.cc as of jaxlib 0.10. `be_patient` raises them all to LONGEST_SCORING;
validation.py rejects configs whose scoring may take longer. A dead process is still detected by its heartbeat
(processes.py).
Deliberately not here: how long an answer may take (rewards/verifier.py).
"""

from __future__ import annotations

import os

from t1jax.validation import LONGEST_SCORING

FLAGS = (
    "xla_cpu_collective_call_terminate_timeout_seconds",
    "xla_cpu_collective_timeout_seconds",
    "xla_gpu_first_collective_call_terminate_timeout_seconds",
)


def be_patient() -> None:
    """Adds FLAGS to XLA_FLAGS, but for those that the user has set. Call before JAX has any device."""
    given = os.environ.get("XLA_FLAGS", "")
    added = [f"--{flag}={LONGEST_SCORING}" for flag in FLAGS if flag not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()
