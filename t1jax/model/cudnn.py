# SPDX-License-Identifier: Apache-2.0
"""Attention within the texts of a row on a GPU, by cuDNN's kernel, for rows that a mask of T x T is made of.

Axes: B rows, T positions (S: those of keys), N query heads, K kv heads, H head dim.
Source: FlashAttention-2, arXiv 2307.08691, of which it is a relative.
Deliberately not here: which kernel is used when, and what of the rows is padding (attention.py).
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from t1jax.model.blocked import SAVED

ALIGNED = 8  # cuDNN reads so many values of its mask at a time
FORWARD = "dot_product_attention_fwd_wrapper"  # the primitive; JAX gives its results no name


def attend(
    q_BNTH: jax.Array,
    k_BKTH: jax.Array,
    v_BKTH: jax.Array,
    mask_BTS: jax.Array,
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over earlier tokens where `mask_BTS` is True; [B, N, T, H].

    Rows are padded, and q, k and v transposed, as the kernel requires. `implementation` "xla" makes the same call
    without a GPU.
    """
    T = q_BNTH.shape[2]
    length = T + -T % ALIGNED
    q, k, v = (_longer(x, length, axis=2).swapaxes(1, 2) for x in (q_BNTH, k_BKTH, v_BKTH))
    mask_BNTS = _longer(_longer(mask_BTS, length, axis=1), length, axis=2)[:, None]
    out_BTNH = jax.nn.dot_product_attention(q, k, v, mask=mask_BNTS, is_causal=True, implementation=implementation)
    return out_BTNH.swapaxes(1, 2)[:, :, :T]


def keep_for_backward(primitive: Any, *_: Any, **params: Any) -> bool:
    """A remat policy: what the backward of any kernel reads of its forward, which so does not run again."""
    return primitive.name == FORWARD or (primitive.name == "name" and params["name"] == SAVED)


def _longer(x: jax.Array, length: int, axis: int) -> jax.Array:
    """`x` with zeros after it, or False."""
    return jnp.pad(x, [(0, length - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])
