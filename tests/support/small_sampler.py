# SPDX-License-Identifier: Apache-2.0
"""The smallest sampler: a random model, ragged prompts, what is drawn for them, and whether two draws are the same."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from configs import tiny
from t1jax import config
from t1jax.devices import sharding
from t1jax.model import qwen
from t1jax.rollouts import decode
from t1jax.rollouts.sampling import SamplingSettings
from t1jax.types import Prompts, Rollouts

V, C, T = 40, 7, 8
STOPS = (3, 11, 20)
ONE = (1, 1, 1)


@functools.cache
def make_model(mesh_shape: tuple[int, int, int] = ONE, dtype: str = "float32") -> qwen.Transformer:
    cfg = dataclasses.replace(
        config.load(tiny.get_config()).model,
        vocab_size=V,
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_size=48,
        tie_embeddings=False,
        compute_dtype=dtype,
    )
    sizes = dict(zip(sharding.MESH_AXES, mesh_shape, strict=True))
    mesh = sharding.make_mesh(config.MeshConfig(**sizes), jax.devices()[: int(np.prod(mesh_shape))])
    return qwen.Transformer(cfg, sharding.decode_layout(mesh))


@functools.cache
def make_params(mesh_shape: tuple[int, int, int] = ONE):
    """All parameters random, biases and norms too, and logits far enough apart to make some tokens likely."""
    model = make_model(mesh_shape)
    random = np.random.default_rng(0)

    def weight(box: nn.LogicallyPartitioned) -> np.ndarray:
        return random.normal(0, 0.3, box.value.shape).astype(np.float32)

    shapes = qwen.boxed_shapes(model)
    params = jax.tree.map(weight, shapes, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
    params["head"] *= 3
    return jax.device_put(params, qwen.shardings(model))


def make_prompts(count: int = 4, length: int = C, seed: int = 0) -> Prompts:
    """Ragged: 1 .. C tokens each; what pads them is random."""
    random = np.random.default_rng(seed)
    tokens = random.integers(0, V, (count, C)).astype(np.int32)
    tokens = np.pad(tokens, ((0, 0), (0, length - C)))
    valid = np.arange(length)[None] < (1 + (np.arange(count) * 5) % C)[:, None]
    return Prompts(tokens, valid, np.arange(100, 100 + count, dtype=np.int32))


@functools.cache
def sampler(mesh_shape=ONE, R=4, length=T, window=T, stops=STOPS, on_progress=None, dtype="float32", **how):
    return jax.jit(
        decode.make_rollout(
            make_model(mesh_shape, dtype),
            num_responses=R,
            max_new_tokens=length,
            window=window,
            stop_tokens=stops,
            on_progress=on_progress,
            **how,
        )
    )


def draw(prompts=None, temperature=1.2, key=0, forbid=None, mesh_shape=ONE, cuts=None, **how) -> Rollouts:
    settings = SamplingSettings(jnp.float32(temperature), **(cuts or {}))
    prompts = make_prompts() if prompts is None else prompts
    rollouts = sampler(mesh_shape, **how)(make_params(mesh_shape), prompts, jax.random.key(key), settings, forbid)
    return jax.tree.map(np.asarray, rollouts)


def same(a: Rollouts, b: Rollouts, atol: float = 1e-5) -> None:
    """The same tokens, and log-probabilities and entropies to rounding."""
    for name in ("tokens_BT", "sampled_BT", "stopped_B"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    np.testing.assert_allclose(a.logprob_BT, b.logprob_BT, atol=atol)
    np.testing.assert_allclose(a.entropy_BT, b.entropy_BT, atol=atol)
