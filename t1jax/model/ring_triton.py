# SPDX-License-Identifier: Apache-2.0
"""Attention of each lane to its own columns of the ring on a GPU, by a kernel in Pallas that XLA compiles with Triton.

The kernel reads the ring where it lies: no block is copied, and a lane reads its own columns only, however long the
others are. The columns of a lane are split over several programs where lanes are too few to keep a GPU busy; what
they find is joined afterwards.

Axes: B lanes in use, K kv heads, G query heads per kv head, H head dim, L layers, J blocks, S columns of a block, X
shards of the batch, M lanes of a shard; g = G, but at least 16; z splits, c columns at a time.
Source: FlashAttention-2, arXiv 2307.08691; splits along the keys, arXiv 2311.01282.
Deliberately not here: the ring, the prompt's part, what joins the two (ring.py).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from t1jax.config import ModelConfig
from t1jax.devices.sharding import Layout
from t1jax.model.triton import HEADS, LOG2E, dot, level

WIDE = 128  # bytes of a row of keys at a time: c is so many over the size of a value, where a block has so many columns
LEAST = 16  # of each dimension of a product on tensor cores
PROGRAMS, SPLITS = 512, 16  # so many programs keep a GPU busy; into so many parts is a lane split at most
INTERPRET = False  # run without a GPU: for tests


def suits(cfg: ModelConfig, layout: Layout, columns: int) -> bool:
    """Whether the kernel can read a ring with blocks of so many columns: on a GPU, what tiles can be made of."""
    platform = "gpu" if INTERPRET else layout.mesh.devices.flat[0].platform
    return platform == "gpu" and cfg.head_dim in HEADS and columns >= LEAST


def own(
    layout: Layout,
    q_BKGH: jax.Array,
    k_LJXMKHS: jax.Array,
    v_LJXMKSH: jax.Array,
    layer: jax.Array,
    column: jax.Array,
    length_B: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Softmax over the columns of each lane, unfinished, in float32.

    Each device reads its own lanes and heads; nothing crosses devices.

    Args:
      layout: of the decode cache.
      q_BKGH: compute dtype, as the rings.
      k_LJXMKHS: keys.
      v_LJXMKSH: values.
      layer: int32[], which of L.
      column: int32[], the newest, counted since the beginning.
      length_B: int32, columns before it that a lane attends.

    Returns:
      the reference of each query's weights [B, K, G], the sum of exp(score - reference) [B, K, G], and of those times
      the values [B, K, G, H].
    """
    queries, numbers = layout.spec("batch", "kv_heads", None, None), layout.spec("batch", "kv_heads", None)
    ring = layout.spec(None, None, "batch", None, "kv_heads", None, None)
    local = jax.shard_map(
        _own,
        mesh=layout.mesh,
        in_specs=(queries, ring, ring, layout.spec(), layout.spec(), layout.spec("batch")),
        out_specs=(numbers, numbers, queries),
        check_vma=False,
    )
    found: tuple[jax.Array, jax.Array, jax.Array] = local(q_BKGH, k_LJXMKHS, v_LJXMKSH, layer, column, length_B)
    return found


def _own(
    q_BKGH: jax.Array,
    k_LJXMKHS: jax.Array,
    v_LJXMKSH: jax.Array,
    layer: jax.Array,
    column: jax.Array,
    length_B: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    B, K, G, H = q_BKGH.shape
    J, S = k_LJXMKHS.shape[1], k_LJXMKHS.shape[6]
    c = min(WIDE // k_LJXMKHS.dtype.itemsize, 1 << S.bit_length() - 1)
    g, splits = max(LEAST, pl.next_power_of_2(G)), min(max(PROGRAMS // (B * K), 1), SPLITS, J * -(-S // c))
    numbers = pl.BlockSpec((None, None, None, g), lambda z, h, b: (z, b, h, 0))
    highest_zBKG, total_zBKG, out_zBKGH = pl.pallas_call(
        partial(_kernel, G=G, c=c, splits=splits),
        out_shape=[
            *[jax.ShapeDtypeStruct((splits, B, K, G), jnp.float32)] * 2,
            jax.ShapeDtypeStruct((splits, B, K, G, H), jnp.float32),
        ],
        grid=(splits, K, B),
        in_specs=[pl.BlockSpec((None, None, g, H), lambda z, h, b: (b, h, 0, 0))] + [pl.BlockSpec()] * 5,
        out_specs=[numbers, numbers, pl.BlockSpec((None, None, None, g, H), lambda z, h, b: (z, b, h, 0, 0))],
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=3),
        interpret=INTERPRET,
        name="own_columns",
    )(q_BKGH, k_LJXMKHS, v_LJXMKSH, layer, column, length_B)
    highest_BKG = highest_zBKG.max(0)
    share_zBKG = jnp.exp(highest_zBKG - highest_BKG[None])
    return highest_BKG, (share_zBKG * total_zBKG).sum(0), (share_zBKG[..., None] * out_zBKGH).sum(0)


def _kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    layer_ref: Any,
    column_ref: Any,
    length_ref: Any,
    highest_ref: Any,
    total_ref: Any,
    out_ref: Any,
    *,
    G: int,
    c: int,
    splits: int,
) -> None:
    """A part of the columns of a lane, for the query heads of a kv head."""
    z, h, b = (pl.program_id(axis) for axis in range(3))
    layer, column, length = layer_ref[()], column_ref[()], length_ref[b]
    J, S = k_ref.shape[1], k_ref.shape[6]
    g, H = q_ref.shape
    there_g = jnp.arange(g) < G
    q_gH = plgpu.load(q_ref, mask=there_g[:, None], other=0.0)
    parts = -(-S // c)  # of a block; the last overlaps the one before where c does not divide S

    def part_of(column: jax.Array) -> jax.Array:
        """Counted since the beginning."""
        turn = jax.lax.div(column, S)
        return turn * parts + jax.lax.div(column - turn * S, c)

    first, end = part_of(jnp.maximum(column - length, 0)), part_of(column) + 1
    each = jax.lax.div(end - first + splits - 1, splits)

    def some_columns(i: jax.Array, so_far: Any) -> Any:
        highest_g, total_g, out_gH = so_far
        turn = jax.lax.div(i, parts)
        begin = (i - turn * parts) * c  # by rem, Triton would not see that it is a multiple, and read value by value
        at = begin if S % c == 0 else jnp.minimum(begin, S - c)
        block, columns = (layer, jax.lax.rem(turn, J), 0, b, h), pl.ds(at, c)
        k_Hc, v_cH = k_ref[*block, :, columns], v_ref[*block, columns, :]
        at_c = at + jnp.arange(c, dtype=jnp.int32)
        ago_c = column - turn * S - at_c
        seen_c = (ago_c >= 0) & (ago_c <= length) & (at_c >= begin)
        s_gc = jnp.where(seen_c[None], dot(q_gH, k_Hc) * (H**-0.5 * LOG2E), -1e30)
        higher_g = jnp.maximum(highest_g, level(s_gc.max(-1), v_cH.dtype))
        w_gc, less_g = jnp.exp2(s_gc - higher_g[:, None]), jnp.exp2(highest_g - higher_g)
        return higher_g, total_g * less_g + w_gc.sum(-1), out_gH * less_g[:, None] + dot(w_gc.astype(v_cH.dtype), v_cH)

    # -1e29 is above what is masked, so that columns that are not the lane's weigh nothing
    zero_g = jnp.zeros(g, jnp.float32)
    begin = first + z * each
    highest_g, total_g, out_gH = jax.lax.fori_loop(
        begin, jnp.minimum(begin + each, end), some_columns, (zero_g - 1e29, zero_g, jnp.zeros((g, H), jnp.float32))
    )
    plgpu.store(highest_ref, highest_g * math.log(2), mask=there_g)
    plgpu.store(total_ref, total_g, mask=there_g)
    plgpu.store(out_ref, out_gH, mask=there_g[:, None])
