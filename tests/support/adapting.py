# SPDX-License-Identifier: Apache-2.0
"""Policies with LoRA for tests: a random base in compute dtype, adapters whose product is not 0."""

from __future__ import annotations

import jax
import numpy as np
import small

from t1jax.model import lora, parameters, qwen
from t1jax.training.setup import rl_setup
from t1jax.types import Adapted


def in_compute_dtype(params, dtype):
    """What LoRA keeps of float32 weights."""
    return jax.tree.map(lambda x, k: x if k == "vector" else x.astype(dtype), params, parameters.kinds(params))


def make_policy(cfg, mesh, seed=0):
    """The base of small.make_params, and random factors of both kinds."""
    learner = rl_setup(cfg, mesh).learner
    random = np.random.default_rng(seed + 5)

    def factor(shape, sharding):
        return jax.device_put(random.normal(0, 0.1, shape.shape).astype(np.float32), sharding)

    adapters = jax.tree.map(factor, qwen.nn.unbox(lora.boxed_shapes(learner)), lora.shardings(learner))
    return Adapted(in_compute_dtype(small.make_params(cfg, mesh, seed), cfg.model.compute_dtype), adapters)


def start(cfg, mesh, seed=0):
    """A state whose anchor is not its policy."""
    state = rl_setup(cfg, mesh).init_state(make_policy(cfg, mesh, seed))
    random = np.random.default_rng(7)
    offset = jax.tree.map(
        lambda x: jax.device_put(random.normal(0, 0.02, x.shape).astype(np.float32), x.sharding), state.anchor_offset
    )
    return state.replace(anchor_offset=offset)
