# SPDX-License-Identifier: Apache-2.0
"""Rotary positions and grouped-query attention: the one place that picks how attention is computed.

Axes: B rows, X rows of a key/value source (X divides B), T query positions, S key positions, N query heads,
K kv heads, G = N // K, H head dim.
Source: RoPE, arXiv 2104.09864; grouped-query attention, arXiv 2305.13245.
Deliberately not here: projections and caches (qwen.py).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KeyValues(NamedTuple):
    """Keys and values that queries may attend, and which of them they may.

    Row b of the queries reads row b // (B // X) of the source: a prompt's keys serve all its responses.
    """

    k_XKSH: jax.Array
    v_XKSH: jax.Array
    mask_XTS: jax.Array  # bool, True = may attend; T may be 1 for all queries alike


def rope(x_BNTH: jax.Array, position_BT: jax.Array, theta: float) -> jax.Array:
    """x rotated by its position: pairs (h, h + H/2) by angle position * theta^(-2h/H); computed in float32."""
    half = x_BNTH.shape[-1] // 2
    frequency_h = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BTh = position_BT[:, :, None].astype(jnp.float32) * frequency_h[None, None, :]
    cos, sin = jnp.cos(angle_BTh)[:, None], jnp.sin(angle_BTh)[:, None]
    first, second = jnp.split(x_BNTH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BNTH.dtype)


def attend(q_BNTH: jax.Array, *sources: KeyValues) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over all sources' keys together; [B, N, T, H], softmax in float32.

    A query that may attend nothing at all returns a mean of values, never NaN.
    """
    B, N, T, H = q_BNTH.shape
    scores = []
    for k_XKSH, _, mask_XTS in sources:
        X, K, S, _ = k_XKSH.shape
        q_XRKGTH = q_BNTH.reshape(X, B // X, K, N // K, T, H)
        s = jnp.einsum("XRKGTH,XKSH->XKRGTS", q_XRKGTH, k_XKSH, preferred_element_type=jnp.float32) * H**-0.5
        s = jnp.where(mask_XTS[:, None, None, None], s, -1e30)
        scores.append(s.swapaxes(1, 2).reshape(B, N, T, S))
    highest = jnp.max(jnp.stack([s.max(-1, initial=-1e30) for s in scores]), axis=0)
    weights = [jnp.exp(s - jax.lax.stop_gradient(highest)[..., None]) for s in scores]
    total_BNT = jnp.zeros(q_BNTH.shape[:3], jnp.float32)
    out = jnp.zeros(q_BNTH.shape, jnp.float32)
    for w_BNTS, (_, v_XKSH, _) in zip(weights, sources, strict=True):
        X, K, S, _ = v_XKSH.shape
        w_XRKGTS = w_BNTS.reshape(X, B // X, K, N // K, T, S).astype(v_XKSH.dtype)
        o = jnp.einsum("XRKGTS,XKSH->XKRGTH", w_XRKGTS, v_XKSH, preferred_element_type=jnp.float32)
        out = out + o.swapaxes(1, 2).reshape(B, N, T, H)
        total_BNT = total_BNT + w_BNTS.sum(-1)
    return (out / total_BNT[..., None]).astype(q_BNTH.dtype)
