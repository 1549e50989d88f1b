# SPDX-License-Identifier: Apache-2.0
"""LoRA: the weights of the checkpoint stay, and some matrices of the layers get a sum of rank r that is trained.

    W' = W + (alpha / r) B A       in PEFT's letters; ours act from the right: W' = W + (alpha / r) lora_a lora_b

W is kept in compute dtype, lora_a and lora_b are float32 masters. `merged` makes W' once a step, in float32, and casts
it once. Sampling and the update read that one array, so their ratio is what it is without LoRA. The update's backward
gives its gradient to the factors (products.py), and never makes that of W.

Axes: L layers (stacked on axis 0), D width, r rank.
Source: LoRA, arXiv 2106.09685; initial values as in PEFT: lora_a uniform within 1 / sqrt(fan in), lora_b 0.
Deliberately not here: files of adapters (weights/adapters.py), the optimiser (update/optim.py).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from t1jax.config import ModelConfig
from t1jax.devices.sharding import param_shardings
from t1jax.model import qwen
from t1jax.model.parameters import MATRICES, kinds
from t1jax.model.precision import rounded
from t1jax.types import Adapted, Params

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
TARGETS = {"attention": ATTENTION, "mlp": MLP, "all": (*ATTENTION, *MLP)}
A, B = "lora_a", "lora_b"


def factors(shape: tuple[Any, ...], name: str, rank: Any) -> dict[str, tuple[Any, ...]]:
    """The shapes of a matrix's factors, from its own, stacked; or their logical axes, from its own."""
    into, onto = MATRICES[name]
    return {A: (shape[0], *(shape[axis] for axis in into), rank), B: (shape[0], rank, *(shape[axis] for axis in onto))}


def boxed_shapes(model: qwen.Transformer) -> Any:
    """The shapes of the adapters, float32, in boxes that carry their logical axes; the rank is never split."""
    layers = qwen.boxed_shapes(model)["layers"]

    def boxes(name: str) -> dict[str, Any]:
        box = layers[name]
        shapes, names = (
            factors(of, name, rank) for of, rank in ((box.value.shape, model.cfg.lora_rank), (box.names, None))
        )
        return {
            key: nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shapes[key], jnp.float32), names[key]) for key in (A, B)
        }

    return {"layers": {name: boxes(name) for name in TARGETS[model.cfg.lora_targets]}}


def shardings(model: qwen.Transformer) -> Any:
    """The NamedSharding of each factor under the model's layout: as the matrix's own axes are."""
    return param_shardings(boxed_shapes(model), model.layout)


def base_shapes(model: qwen.Transformer) -> Any:
    """The shapes of the weights that stay, in the dtypes that they are kept in, with their shardings."""
    shapes = nn.unbox(qwen.boxed_shapes(model))

    def one(x: Any, kind: str, sharding: Any) -> jax.ShapeDtypeStruct:
        dtype = jnp.float32 if kind == "vector" else model.cfg.compute_dtype
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)

    return jax.tree.map(one, shapes, kinds(shapes), qwen.shardings(model))


def init(model: qwen.Transformer, key: jax.Array) -> Params:
    """New adapters, float32, born sharded; W' is W."""
    boxes = nn.unbox(boxed_shapes(model))

    def make(key: jax.Array) -> Params:
        layers = {}
        for number, (name, shapes) in enumerate(sorted(boxes["layers"].items())):
            a, b = shapes[A], shapes[B]
            bound = math.prod(a.shape[1:-1]) ** -0.5
            new = jax.random.uniform(jax.random.fold_in(key, number), a.shape, jnp.float32, -bound, bound)
            layers[name] = {A: new, B: jnp.zeros(b.shape, jnp.float32)}
        return {"layers": layers}

    return jax.jit(make, out_shardings=shardings(model))(key)


def merged(cfg: ModelConfig, policy: Params | Adapted) -> Params:
    """The weights that the model reads: `policy` itself, or of an Adapted one W', rounded once to the dtype of W.

    Traceable. A layer at a time, so that no more than one is in float32; what has no adapter is not copied.
    """
    if not isinstance(policy, Adapted):
        return policy
    scale = cfg.lora_alpha / cfg.lora_rank
    adapters = policy.adapters["layers"]

    def layer(parts: tuple[Params, Params]) -> Params:
        return {name: plus(w, parts[1][name], scale) for name, w in parts[0].items()}

    old = {name: policy.base["layers"][name] for name in adapters}
    return {**policy.base, "layers": {**policy.base["layers"], **jax.lax.map(layer, (old, adapters))}}


def plus(w: jax.Array, factors: Params, scale: float) -> jax.Array:
    """w + scale lora_a lora_b of one layer, in float32, rounded once to the dtype of w."""
    product = jnp.tensordot(factors[A], factors[B], axes=1, precision=jax.lax.Precision.HIGHEST)
    return rounded(w.astype(jnp.float32) + scale * product, str(w.dtype))
