# SPDX-License-Identifier: Apache-2.0
"""Where numbers are rounded to the compute dtype, and what is accumulated in float32.

Sampler and learner run the same weights through different computations. In bfloat16 they agree only if they round the
same numbers in the same places. So activations between layers are float32, everything between two matrix products is
computed in float32, and a number is rounded once, as input to a matrix product.

Master weights are float32. `lookup`, and the functions of products.py, take the master and cast it themselves, so that
its gradient is never in the compute dtype, neither when a device accumulates it nor when devices reduce it.

Axes: V vocabulary, D width, B rows, S positions of a row, T positions that are asked for.
Source: float32 masters and accumulation, arXiv 1710.03740.
Deliberately not here: products with weights (products.py), loss scaling for float16 (optim.py), the head (logprobs.py).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from t1jax.devices.sharding import Layout

LN2 = math.log(2)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, float32. x: [..., D] or [..., H]; scale: [D] or [H]."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return y * jnp.broadcast_to(scale.astype(jnp.float32), y.shape)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def rounded(x: jax.Array, dtype: str) -> jax.Array:
    """`x` in `dtype`; XLA, which may drop a cast and the cast back, must keep this one. Its gradient is cast back."""
    if x.dtype == dtype:
        return x
    to = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, to.nexp, to.nmant).astype(dtype)


def _rounded_forward(x: jax.Array, dtype: str) -> tuple[jax.Array, jax.Array]:
    return rounded(x, dtype), jnp.zeros((), x.dtype)


def _rounded_backward(dtype: str, like: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient.astype(like.dtype),)


rounded.defvjp(_rounded_forward, _rounded_backward)


def einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """einsum, added up in float32 and left there; float32 operands are not rounded, as a TPU would by default."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == y.dtype == jnp.float32 else None
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def lookup(layout: Layout, dtype: str, table_VD: jax.Array, index_BT: jax.Array) -> jax.Array:
    """Rows of a table, [B, T, D] in `dtype`; the gradients of a row that is read often are added up in float32.

    The table is cast first and then made whole along D: what crosses devices has `dtype`.
    """
    return jnp.take(layout.constrain(table_VD.astype(dtype), "vocab", None), index_BT, axis=0)


def _lookup_forward(layout: Layout, dtype: str, table_VD: jax.Array, index_BT: jax.Array) -> tuple[jax.Array, Any]:
    return lookup(layout, dtype, table_VD, index_BT), (table_VD, index_BT)


def _lookup_backward(layout: Layout, dtype: str, saved: Any, dout_BTD: jax.Array) -> tuple[jax.Array, None]:
    table_VD, index_BT = saved
    zero_VD = layout.constrain(jnp.zeros(table_VD.shape, jnp.float32), "vocab", None)
    gradient_VD = zero_VD.at[index_BT].add(dout_BTD.astype(jnp.float32))
    return layout.constrain(gradient_VD, "vocab", None).astype(table_VD.dtype), None


lookup.defvjp(_lookup_forward, _lookup_backward)


def pick(x_BSD: jax.Array, index_BT: jax.Array) -> jax.Array:
    """x[b, index[b, t]], [B, T, D]; a state that many tokens read has their gradients added up in float32."""
    return jnp.take_along_axis(x_BSD.astype(jnp.float32), index_BT[..., None], axis=1).astype(x_BSD.dtype)


def level(highest: jax.Array, dtype: Any) -> jax.Array:
    """A reference for exp(score - reference), at or above `highest`: the next multiple of ln 2.

    Over different references the weight of a score differs by a power of two, with which rounding commutes. So online
    softmax rounds its weights to `dtype` alike whatever the blocks, and as softmax over the whole row does.
    """
    if dtype == jnp.float32:  # nothing is rounded
        return highest
    return jnp.ceil(highest / LN2) * LN2
