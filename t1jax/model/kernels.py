# SPDX-License-Identifier: Apache-2.0
"""Attention within the texts of a row by kernels that ship with JAX: splash attention on TPU, cuDNN's on GPU.

Each function takes the rows of one device, pads them and transposes q, k and v as its kernel requires.

Axes: B rows, T positions (S: those of keys), N query heads, K kv heads, H head dim.
Source: FlashAttention-2, arXiv 2307.08691, of which both are relatives.
Deliberately not here: which kernel is used when, and what of the rows is padding (attention.py).
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from t1jax.model.blocked import SAVED

LANES, BLOCK = 128, 512  # splash: positions are a multiple of LANES, longer rows of BLOCK
ALIGNED = 8  # cuDNN reads so many values of its mask at a time
CUDNN_FORWARD = "dot_product_attention_fwd_wrapper"  # the primitive; JAX gives its results no name


def splash(
    q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, segment_BT: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over earlier tokens of the same segment, 0 being one too; [B, N, T, H].

    Computes half of all tiles, whatever the segments; scores are never in memory. `interpret` runs it without a TPU.
    JAX's kernel takes no precision for its products, so a TPU may round float32 in them: attention.py does not choose
    it for float32.
    """
    _, N, T, H = q_BNTH.shape
    block = min(BLOCK, T + -T % LANES)
    length = T + -T % block
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((length, length))] * N)
    sizes: dict[str, Any] = {f"block_{of}": block for of in ("q", "kv", "q_dkv", "kv_dkv", "q_dq", "kv_dq")}
    kernel = splash_attention_kernel.make_splash_mha(
        mask,
        block_sizes=splash_attention_kernel.BlockSizes(**sizes),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=SAVED,
        interpret=interpret,
    )

    def one_row(q_NTH: jax.Array, k_KTH: jax.Array, v_KTH: jax.Array, segment_T: jax.Array) -> jax.Array:
        return kernel(q_NTH, k_KTH, v_KTH, splash_attention_kernel.SegmentIds(segment_T, segment_T))

    q, k, v = (_longer(x, length, axis=2) for x in (q_BNTH * H**-0.5, k_BKTH, v_BKTH))
    return jax.vmap(one_row)(q, k, v, _longer(segment_BT, length, axis=1))[:, :, :T]


def cudnn(
    q_BNTH: jax.Array,
    k_BKTH: jax.Array,
    v_BKTH: jax.Array,
    mask_BTS: jax.Array,
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over earlier tokens where `mask_BTS` is True; [B, N, T, H].

    `implementation` "xla" makes the same call without a GPU.
    """
    T = q_BNTH.shape[2]
    length = T + -T % ALIGNED
    q, k, v = (_longer(x, length, axis=2).swapaxes(1, 2) for x in (q_BNTH, k_BKTH, v_BKTH))
    mask_BNTS = _longer(_longer(mask_BTS, length, axis=1), length, axis=2)[:, None]
    out_BTNH = jax.nn.dot_product_attention(q, k, v, mask=mask_BNTS, is_causal=True, implementation=implementation)
    return out_BTNH.swapaxes(1, 2)[:, :, :T]


def keep_for_backward(primitive: Any, *_: Any, **params: Any) -> bool:
    """A remat policy: what the backward of any kernel reads of its forward, which so does not run again."""
    return primitive.name == CUDNN_FORWARD or (primitive.name == "name" and params["name"] == SAVED)


def _longer(x: jax.Array, length: int, axis: int) -> jax.Array:
    """`x` with zeros after it, or False."""
    return jnp.pad(x, [(0, length - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])
