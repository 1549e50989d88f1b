# SPDX-License-Identifier: Apache-2.0
"""Rotary positions and grouped-query attention: the one place that picks how attention is computed.

Axes: B rows, X rows of a key/value source (X divides B), T query positions, S key positions, N query heads,
K kv heads, G = N // K, H head dim, h = H / 2 pairs that turn.
Source: RoPE, arXiv 2104.09864; its scalings as in transformers' modeling_rope_utils.py: linear, arXiv 2306.15595; YaRN,
arXiv 2309.00071; Llama 3, arXiv 2407.21783 and its reference code. Grouped-query attention, arXiv 2305.13245.
Deliberately not here: projections and caches (qwen.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t1jax.config import ConfigError, ModelConfig

PREFERRED = {"tpu": "splash", "gpu": "cudnn"}  # the kernel of a platform; elsewhere xla
SHORT = 128  # rows of so many positions are one block for any kernel
CUDNN_LENGTH = 4096  # its mask is an array of length x length a row


class KeyValues(NamedTuple):
    """Keys and values that queries may attend, and which of them they may.

    Row b of the queries reads row b // (B // X) of the source: a prompt's keys serve all its responses.
    """

    k_XKSH: jax.Array
    v_XKSH: jax.Array
    mask_XTS: jax.Array  # bool, True = may attend; T may be 1 for all queries alike


def choose(cfg: ModelConfig, platform: str, length: int, parents: bool) -> tuple[str, str]:
    """The kernel for texts in rows, xla, splash or cudnn, and why this one.

    Args:
      cfg: whose `attention` is auto, for what suits platform and shape, or the kernel that it has to be.
      platform: cpu, tpu or gpu.
      length: positions of a row.
      parents: whether texts attend a parent besides themselves.

    Raises:
      ConfigError: the kernel asked for cannot do it.
    """
    if cfg.attention != "auto":
        if misfit := _misfit(cfg.attention, cfg, platform, length, parents):
            raise ConfigError(f"model.attention is {cfg.attention}, but {misfit}; set model.attention to auto or xla")
        return cfg.attention, "model.attention asks for it"
    kernel = PREFERRED.get(platform, "xla")
    if kernel != "xla" and length <= SHORT:
        return "xla", f"{length} positions are one block"
    misfit = _misfit(kernel, cfg, platform, length, parents)
    return ("xla", f"not {kernel}: {misfit}") if misfit else (kernel, f"the platform is {platform}")


def shares_prompts(cfg: ModelConfig, platform: str) -> bool:
    """Whether the responses of a row may attend one copy of their prompt, as their parent."""
    return choose(cfg, platform, SHORT + 1, parents=False)[0] != "splash"


def _misfit(kernel: str, cfg: ModelConfig, platform: str, length: int, parents: bool) -> str:
    """What keeps the kernel from its work: what was found and what is expected; nothing if it can."""
    if kernel == "splash":
        facts = (
            (platform != "tpu", f"the platform is {platform}, expected tpu"),
            (parents, "texts of a row share their prompt, expected a copy of the prompt before each"),
        )
    elif kernel == "cudnn":
        H = cfg.head_dim
        facts = (
            (platform != "gpu", f"the platform is {platform}, expected gpu"),
            (cfg.compute_dtype != "bfloat16", f"model.compute_dtype is {cfg.compute_dtype}, expected bfloat16"),
            (H % 8 > 0 or H > 128, f"model.head_dim is {H}, expected a multiple of 8 of at most 128"),
            (length > CUDNN_LENGTH, f"a row has {length} positions, expected at most {CUDNN_LENGTH}"),
        )
    else:
        facts = ()
    return next((fact for found, fact in facts if found), "")


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
