# SPDX-License-Identifier: Apache-2.0
"""Rotary positions and grouped-query attention: the one place that picks how attention is computed.

Axes: B rows, X rows of a key/value source (X divides B), T query positions, S key positions, N query heads,
K kv heads, G = N // K, H head dim, h = H / 2 pairs that turn.
Source: RoPE, arXiv 2104.09864; its scalings as in transformers' modeling_rope_utils.py: linear, arXiv 2306.15595; YaRN,
arXiv 2309.00071; Llama 3, arXiv 2407.21783 and its reference code. Grouped-query attention, arXiv 2305.13245.
Deliberately not here: projections (qwen.py), the sampler's cache (ring.py), tiles (blocked.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t1jax.config import ModelConfig
from t1jax.model import blocked
from t1jax.sharding import Layout


class KeyValues(NamedTuple):
    """Keys and values that queries may attend, and which of them they may.

    Row b of the queries reads row b // (B // X) of the source: a prompt's keys serve all its responses.
    """

    k_XKSH: jax.Array
    v_XKSH: jax.Array
    mask_XTS: jax.Array  # bool, True = may attend; T may be 1 for all queries alike


def frequencies(cfg: ModelConfig) -> np.ndarray:
    """float32[h] radians a position: theta^(-2i/H), slowed down for texts longer than the model has been trained on.

    A frequency is divided by rope_factor as far as it is slow. How far, between not at all and wholly: llama3 goes by
    its turns in the original length, from rope_high down to rope_low; yarn by its index, between the two whole
    indices around those with so many turns. Constants of the compiled program.
    """
    index_h = np.arange(cfg.head_dim // 2)
    fast_h = cfg.rope_theta ** (-2 * index_h / cfg.head_dim)
    if cfg.rope_scaling == "none":
        slow_h = np.zeros(index_h.shape)
    elif cfg.rope_scaling == "linear":
        slow_h = np.ones(index_h.shape)
    elif cfg.rope_scaling == "llama3":
        turns_h = cfg.rope_original_length * fast_h / (2 * math.pi)
        slow_h = np.clip((cfg.rope_high - turns_h) / (cfg.rope_high - cfg.rope_low), 0, 1)
    elif cfg.rope_scaling == "yarn":
        first, last = (
            cfg.head_dim * math.log(cfg.rope_original_length / (2 * math.pi * turns)) / (2 * math.log(cfg.rope_theta))
            for turns in (cfg.rope_high, cfg.rope_low)
        )
        first, last = max(math.floor(first), 0), min(math.ceil(last), cfg.head_dim - 1)
        slow_h = np.clip((index_h - first) / (last - first or 0.001), 0, 1)
    else:
        raise ValueError(f"got rope_scaling {cfg.rope_scaling!r}, expected none, linear, yarn or llama3")
    return (fast_h * (1 - slow_h + slow_h / cfg.rope_factor)).astype(np.float32)


def rotations(position_BT: jax.Array, cfg: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32[B, T, h], of position times frequency; once a forward, for all layers.

    Yarn stretches both, hence q and k, by rope_attention_factor, or by 0.1 ln(rope_factor) + 1 where that is 0.
    """
    angle_BTh = position_BT[:, :, None].astype(jnp.float32) * frequencies(cfg)[None, None, :]
    stretch = 1.0
    if cfg.rope_scaling == "yarn":
        stretch = cfg.rope_attention_factor or 0.1 * math.log(cfg.rope_factor) + 1
    return jnp.cos(angle_BTh) * stretch, jnp.sin(angle_BTh) * stretch


def rope(x_BNTH: jax.Array, cos_BTh: jax.Array, sin_BTh: jax.Array) -> jax.Array:
    """x rotated by its position: pairs (i, i + H/2) by the angle of `rotations`; computed in float32."""
    cos, sin = cos_BTh[:, None], sin_BTh[:, None]
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


class Texts(NamedTuple):
    """Which tokens of a row attend which, ready for all layers: one of the two, by the row's length."""

    mask_BTT: jax.Array | None  # bool, rows of up to one block
    tiles: blocked.Tiles | None


def texts(layout: Layout, segment_BT: jax.Array, parent_BT: jax.Array | None) -> Texts:
    """A token attends itself, and earlier tokens whose nonzero segment is its own segment or its parent."""
    parent_BT = segment_BT if parent_BT is None else parent_BT
    T = segment_BT.shape[1]
    if T <= blocked.BLOCK:
        key_BT = segment_BT[:, None]
        seen_BTT = (key_BT > 0) & ((key_BT == segment_BT[..., None]) | (key_BT == parent_BT[..., None]))
        return Texts(seen_BTT & jnp.tril(jnp.ones((T, T), bool))[None], None)
    rows = layout.spec("batch")
    make = jax.shard_map(blocked.tiles, mesh=layout.mesh, in_specs=rows, out_specs=rows, check_vma=False)
    return Texts(None, make(segment_BT, parent_BT))


def attend_texts(layout: Layout, q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, texts: Texts) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v of each token over what it attends; [B, N, T, H]. Every device does its own rows and
    heads.
    """
    if texts.tiles is None:
        assert texts.mask_BTT is not None
        return attend(q_BNTH, KeyValues(k_BKTH, v_BKTH, texts.mask_BTT))
    q_spec, kv_spec = (layout.spec("batch", heads, None, None) for heads in ("q_heads", "kv_heads"))
    specs = (q_spec, kv_spec, kv_spec, layout.spec("batch"))
    run = jax.shard_map(blocked.attend, mesh=layout.mesh, in_specs=specs, out_specs=q_spec, check_vma=False)
    return run(q_BNTH, k_BKTH, v_BKTH, texts.tiles)


def shares_prompts(cfg: ModelConfig, layout: Layout) -> bool:
    """Whether responses in a row may share their prompt: whether the kernel in use knows parents."""
    return True
