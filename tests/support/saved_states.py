# SPDX-License-Identifier: Apache-2.0
"""Small train states on any mesh, to be saved and compared with what is restored."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import tiny
from t1jax import config
from t1jax.config import Config
from t1jax.devices import sharding
from t1jax.tasks.pairs.task import PairsTask
from t1jax.text import tokenizer
from t1jax.types import LossScale, TrainState


def make_config(**knobs: object) -> Config:
    tree = config.load(tiny.get_config()).to_dict()
    tree["checkpoint"].update(every=5, keep=2)
    for name, value in knobs.items():
        section, _, knob = name.partition("__")
        tree[section][knob] = value
    return config.load(tree)


CFG = make_config()
TASK = PairsTask(CFG.task)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def make_tokens() -> tokenizer.SentencePieceTokenizer:
    model = tokenizer.train_sentencepiece(TASK.corpus(300, 0), CFG.model.vocab_size, TASK.symbols(), 0)
    return tokenizer.SentencePieceTokenizer(model)


def make_mesh(*shape: int) -> Mesh:
    devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return Mesh(devices, sharding.MESH_AXES)


def shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Matrices over fsdp and tensor, all else whole on each device."""

    def one(x: jax.Array) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec("fsdp", "tensor") if x.ndim == 2 else PartitionSpec())

    return jax.tree.map(one, state)


def make_state(mesh: Mesh, scale: float = 1.0, anchor: bool = True) -> TrainState:
    w = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32) * scale
    params = {"layers": {"w": w, "bias": np.arange(8, dtype=np.float32)}, "head": w[::-1].copy()}
    state = TrainState(
        step=np.int32(7),
        params=params,
        opt_state=OPTIMIZER.init(params),
        anchor_offset=jax.tree.map(lambda x: x * 1e-6, params) if anchor else None,
        rng=np.array([1, 2], np.uint32),
        loss_scale=LossScale(np.float32(2**14), np.int32(3)) if anchor else None,
    )
    return jax.tree.map(jax.device_put, state, shardings(mesh, state))


def abstract(state: TrainState, mesh: Mesh) -> TrainState:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings(mesh, state))


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
