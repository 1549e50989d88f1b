# SPDX-License-Identifier: Apache-2.0
"""Key and value heads over `tensor`: split if they divide; else each is copied to the devices that need it.

Queries are always split: a device has N / tensor of their heads, and needs the kv heads that these attend with. Where
`tensor` divides K, those are its share. Elsewhere the weights of k and v are whole on every device, and each layer
repeats their heads until they divide: from there on, the model is one with `spread` kv heads, each for fewer queries.
So kernels and cache know nothing of copies, and the gradient of a head is the sum over its copies, which is what
differentiation gives.

Axes: N query heads, K kv heads.
Source: arXiv 2211.05102, section 3.3, has attention with few kv heads over many devices.
Deliberately not here: the attention itself (attention.py, ring.py), the rules for other axes (devices/sharding.py).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from t1jax.config import ModelConfig
from t1jax.devices.sharding import Layout
from t1jax.model.products import Frozen, Weight

SPLIT, WHOLE = "kv_heads", "kv_heads_whole"  # logical axes of heads: over `tensor`; of weights that are copied


def spread(cfg: ModelConfig, tensor: int) -> int:
    """kv heads of a tensor group, copies too: K, or the least multiple of it that divides over the group."""
    return math.lcm(cfg.num_kv_heads, tensor)


def axis(cfg: ModelConfig, layout: Layout) -> str:
    """The logical axis of the heads of the weights of k and v."""
    return WHOLE if cfg.num_kv_heads % layout.parts(SPLIT) else SPLIT


def copied(layout: Layout, w: Weight, *axes: str) -> Weight:
    """A weight with these logical axes; if one is WHOLE, each of its heads as often as a split over `tensor` needs.

    The copies of a head follow each other, so that query head n attends with number n // G, as without copies.
    """
    if WHOLE not in axes:
        return w
    if not isinstance(w, Frozen):
        return _repeated(layout, w, *axes)
    b = None if w.b is None else _repeated(layout, w.b, None, *axes[1:])  # its output is the weight's
    return dataclasses.replace(w, weight=_repeated(layout, w.weight, *axes), b=b)


def _repeated(layout: Layout, w: jax.Array, *axes: str | None) -> jax.Array:
    at = axes.index(WHOLE)
    copies = math.lcm(w.shape[at], layout.parts(SPLIT)) // w.shape[at]
    shape = (*w.shape[:at], w.shape[at] * copies, *w.shape[at + 1 :])
    repeated = jnp.broadcast_to(jnp.expand_dims(w, at + 1), (*w.shape[: at + 1], copies, *w.shape[at + 1 :]))
    return layout.constrain(repeated.reshape(shape), *(SPLIT if axis == WHOLE else axis for axis in axes))


def note(cfg: ModelConfig, tensor: int) -> str:
    """What is said where heads are copied; nothing where they are not."""
    heads, each = cfg.num_kv_heads, spread(cfg, tensor) // tensor
    if heads % tensor == 0:
        return ""
    return (
        f"{heads} kv heads do not divide over mesh.tensor = {tensor}: each device holds {each} in the cache, "
        f"{tensor * each / heads:g} copies of each in a group, and the weights of k and v whole"
    )
