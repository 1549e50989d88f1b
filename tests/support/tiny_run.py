# SPDX-License-Identifier: Apache-2.0
"""The whole of T1 in miniature: the knobs of a run of seconds, and what is read of a workdir."""

from __future__ import annotations

import jax
import numpy as np
import small

from t1jax.host import metrics
from t1jax.training import checkpoint, stages
from t1jax.training.setup import rl_setup

KNOBS = {
    "data__prompt_length": 24,
    "mesh__fsdp": 1,
    "mesh__data": 8,
    "sft__num_steps": 5,
    "sft__sequence_length": 64,
    "rl__num_steps": 5,
    "rl__max_new_tokens": 24,
    "rl__window": 12,
    "eval__num_problems": 12,
    "eval__batch_size": 8,
    "eval__quick_problems": 8,
    "eval__every": 4,
    "eval__samples": 2,
    "eval__keep_responses": 10,
    "scaling__budgets": (4, 16),
    "checkpoint__sft_every": 2,
    "checkpoint__every": 2,
}
CFG = small.make_config(**KNOBS)
TIMES = ("seconds", "tokens_per_second")


def rows_of(workdir):
    """The metrics rows without what a clock says."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in metrics.read_rows(workdir)]


def last_state(workdir, cfg=CFG):
    """Every array of the last RL checkpoint."""

    mesh = stages.sharding.make_mesh(cfg.mesh)
    shapes = rl_setup(cfg, mesh).state_shapes()
    tokens = stages.tokenizer.load(workdir / "tokenizer")
    with checkpoint.Checkpoints(workdir / "checkpoints/rl", cfg, tokens) as kept:
        assert kept.latest() == cfg.rl.num_steps
        return jax.tree.map(np.asarray, kept.restore(shapes))
