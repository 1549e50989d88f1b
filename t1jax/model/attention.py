# SPDX-License-Identifier: Apache-2.0
"""Rotary positions, and attention within the texts of a row: the one place that chooses the implementation.

Axes: B rows, T query positions, S key positions, N query heads, K kv heads, G = N // K, H head dim, h pairs of a head
that turn: H / 2, or fewer with rope_share.
Source: RoPE, arXiv 2104.09864; its scalings as in transformers' modeling_rope_utils.py: linear, arXiv 2306.15595; YaRN,
arXiv 2309.00071; Llama 3, arXiv 2407.21783 and its reference code. Grouped-query attention, arXiv 2305.13245.
Deliberately not here: the kernels (blocked.py, splash.py, cudnn.py, triton.py), projections (qwen.py), the sampler's
cache (ring.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from t1jax.config import ConfigError, ModelConfig
from t1jax.devices.sharding import Layout
from t1jax.model import blocked, cudnn, splash, triton
from t1jax.model.precision import einsum, level, rounded

PREFERRED = {"tpu": ("splash",), "gpu": ("cudnn", "triton")}  # the kernels of a platform; elsewhere xla
LISTED = {"blocked": blocked, "splash": splash, "triton": triton}  # which read lists of the tiles that are needed
CUDNN_LENGTH = 4096  # its mask is an array of length x length a row
LONGEST = {"cudnn": CUDNN_LENGTH, "splash": splash.LONG}  # rows that responses are packed into; elsewhere any
PLAIN = 256  # rows of up to so many positions are attended whole: faster than tiles, and scores are few


@struct.dataclass
class Texts:
    """Which tokens of a row attend which. Made by `texts`."""

    segment_BT: jax.Array  # int32, 0 for padding
    where: Any  # what the kernel reads besides q, k and v; its leaves are split as B is
    kernel: str = struct.field(pytree_node=False)  # plain, blocked, splash, cudnn or triton


def choose(cfg: ModelConfig, platform: str, length: int) -> tuple[str, str]:
    """The kernel for texts in rows, xla, splash, cudnn or triton, and why this one.

    Args:
      cfg: whose `attention` is auto, for what suits platform and shape, or the kernel that it has to be.
      platform: cpu, tpu or gpu.
      length: positions of a row.

    Raises:
      ConfigError: the kernel asked for cannot do it.
    """
    if cfg.attention != "auto":
        if misfit := _misfit(cfg.attention, cfg, platform, length):
            raise ConfigError(f"model.attention is {cfg.attention}, but {misfit}; set model.attention to auto or xla")
        return cfg.attention, "model.attention asks for it"
    preferred = PREFERRED.get(platform, ())
    if preferred and length <= PLAIN:
        return "xla", f"{length} positions are few"
    misfits = ""
    for kernel in preferred:
        misfit = _misfit(kernel, cfg, platform, length)
        if not misfit:
            return kernel, f"{misfits}the platform is {platform}"
        misfits += f"not {kernel}: {misfit}; "
    return "xla", misfits.removesuffix("; ") or f"the platform is {platform}"


def longest_row(cfg: ModelConfig, platform: str) -> int:
    """Positions that a row may have and still be attended, without waste, by the kernel that short rows are."""
    return LONGEST.get(choose(cfg, platform, PLAIN + 1)[0], 2**31 - 1)


def _misfit(kernel: str, cfg: ModelConfig, platform: str, length: int) -> str:
    """What keeps the kernel from its work: what was found and what is expected; nothing if it can."""
    H, dtype = cfg.head_dim, cfg.compute_dtype
    facts = {
        "xla": [],
        "splash": [
            (platform != "tpu", f"the platform is {platform}, expected tpu"),
            (dtype == "float16", f"model.compute_dtype is {dtype}, expected bfloat16 or float32"),
        ],
        "cudnn": [
            (platform != "gpu", f"the platform is {platform}, expected gpu"),
            (dtype == "float32", f"model.compute_dtype is {dtype}, expected bfloat16 or float16"),
            (H % 8 > 0 or H > 128, f"model.head_dim is {H}, expected a multiple of 8 of at most 128"),
            (length > CUDNN_LENGTH, f"a row has {length} positions, expected at most {CUDNN_LENGTH}"),
        ],
        "triton": [
            (platform != "gpu", f"the platform is {platform}, expected gpu"),
            (dtype == "float32", f"model.compute_dtype is {dtype}, expected bfloat16 or float16"),
            (H not in triton.HEADS, f"model.head_dim is {H}, expected one of {', '.join(map(str, triton.HEADS))}"),
        ],
    }
    return next((fact for holds, fact in facts[kernel] if holds), "")


def texts(cfg: ModelConfig, layout: Layout, segment_BT: jax.Array, parent_BT: jax.Array | None) -> Texts:
    """Which tokens attend which, as the kernel of choice wants it; once a forward, for all layers.

    Raises:
      ConfigError: the kernel asked for cannot do it.
    """
    T = segment_BT.shape[1]
    kernel, _ = choose(cfg, layout.mesh.devices.flat[0].platform, T)
    if kernel == "xla":
        kernel = "blocked" if T > PLAIN else "plain"
    parent_BT = segment_BT if parent_BT is None else parent_BT
    where: Any = None
    if kernel in LISTED:
        rows = layout.spec("batch")
        make = jax.shard_map(LISTED[kernel].tiles, mesh=layout.mesh, in_specs=rows, out_specs=rows, check_vma=False)
        where = make(segment_BT, parent_BT)
    else:
        where = mask(segment_BT, parent_BT)
    return Texts(segment_BT, where, kernel)


def mask(segment_BT: jax.Array, parent_BT: jax.Array) -> jax.Array:
    """bool[B, T, S]: token t attends s <= t if segment_s > 0 is segment_t or parent_t."""
    key_B1S = segment_BT[:, None]
    related_BTS = (segment_BT[:, :, None] == key_B1S) | (parent_BT[:, :, None] == key_B1S)
    T = segment_BT.shape[1]
    return related_BTS & (key_B1S > 0) & jnp.tril(jnp.ones((T, T), bool))[None]


def frequencies(cfg: ModelConfig) -> np.ndarray:
    """float32[h] radians a position: theta^(-i/h), slowed down for texts longer than the model has been trained on.

    A frequency is divided by rope_factor as far as it is slow. How far, between not at all and wholly: llama3 goes by
    its turns in the original length, from rope_high down to rope_low; yarn by its index, between the two whole
    indices around those with so many turns. Constants of the compiled program.
    """
    width = int(cfg.head_dim * cfg.rope_share)
    index_h = np.arange(width // 2)
    fast_h = cfg.rope_theta ** (-2 * index_h / width)
    if cfg.rope_scaling == "none":
        slow_h = np.zeros(index_h.shape)
    elif cfg.rope_scaling == "linear":
        slow_h = np.ones(index_h.shape)
    elif cfg.rope_scaling == "llama3":
        turns_h = cfg.rope_original_length * fast_h / (2 * math.pi)
        slow_h = np.clip((cfg.rope_high - turns_h) / (cfg.rope_high - cfg.rope_low), 0, 1)
    elif cfg.rope_scaling == "yarn":
        first, last = (
            width * math.log(cfg.rope_original_length / (2 * math.pi * turns)) / (2 * math.log(cfg.rope_theta))
            for turns in (cfg.rope_high, cfg.rope_low)
        )
        first, last = max(math.floor(first), 0), min(math.ceil(last), width - 1)
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


def rope(x_BNTH: jax.Array, cos_BTh: jax.Array, sin_BTh: jax.Array, interleaved: bool = False) -> jax.Array:
    """x rotated by its position, in float32: pairs (i, i + h), or (2i, 2i + 1), by the angle of `rotations`.

    What is beyond 2h of H stays as it is.
    """
    x = x_BNTH.astype(jnp.float32)
    cos, sin, width = cos_BTh[:, None], sin_BTh[:, None], 2 * cos_BTh.shape[-1]
    turning, still = x[..., :width], x[..., width:]
    if interleaved:  # by rolling: an axis of two would fill a TPU's memory with padding
        cos, sin = (jnp.repeat(y, 2, axis=-1) for y in (cos, sin))
        is_first = np.arange(width) % 2 == 0
        other = jnp.where(is_first, -jnp.roll(turning, -1, axis=-1), jnp.roll(turning, 1, axis=-1))
        return jnp.concatenate([turning * cos + other * sin, still], axis=-1)
    first, second = jnp.split(turning, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, still], axis=-1)


def attend(layout: Layout, q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, texts: Texts) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over what a token attends, [B, N, T, H]; 0 for padding, of which nothing is read.

    Each device computes its own rows and heads; nothing crosses devices.
    """
    q_spec, kv_spec = (layout.spec("batch", heads, None, None) for heads in ("q_heads", "kv_heads"))
    specs = (q_spec, kv_spec, kv_spec, layout.spec("batch"))

    def run(kernel: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        local = jax.shard_map(kernel, mesh=layout.mesh, in_specs=specs, out_specs=q_spec, check_vma=False)
        return local(q, k, v, texts.where)

    if texts.kernel in LISTED:  # which leave padding out by themselves
        return run(LISTED[texts.kernel].attend, q_BNTH, k_BKTH, v_BKTH)
    there_BT = texts.segment_BT[:, None, :, None] > 0
    q, k, v = (jnp.where(there_BT, x, jnp.zeros((), x.dtype)) for x in (q_BNTH, k_BKTH, v_BKTH))
    if texts.kernel == "plain":
        out = plain(q, k, v, texts.where)
    else:
        out = run(cudnn.attend, q, k, v)
    return jnp.where(there_BT, out, jnp.zeros((), out.dtype))


def plain(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v where `mask_BTS` is True, [B, N, T, H], in one piece; softmax in float32.

    A query that may attend nothing at all returns a mean of values, never NaN.
    """
    B, N, T, H = q_BNTH.shape
    q_BKGTH = q_BNTH.reshape(B, k_BKSH.shape[1], -1, T, H)
    s = einsum("BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH) * H**-0.5
    s = jnp.where(mask_BTS[:, None, None], s, -1e30)
    w = jnp.exp(s - level(jax.lax.stop_gradient(s.max(-1)), v_BKSH.dtype)[..., None])
    out = einsum("BKGTS,BKSH->BKGTH", rounded(w, v_BKSH.dtype), v_BKSH)
    return rounded(out / w.sum(-1)[..., None], q_BNTH.dtype).reshape(B, N, T, H)
