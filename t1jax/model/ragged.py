# SPDX-License-Identifier: Apache-2.0
"""The sampler's attention over its ring on a TPU: each live lane reads the blocks with its own columns, no other.

A Pallas kernel that takes a shard's live lanes one after another, a few blocks at a time. While it computes with some,
it copies the next ones from HBM, across lanes too; a lane that is idle costs no read. It continues the softmax that
ring.py began with the prompt. It also writes the new column of keys, which in XLA's layout is a copy of its own.

Axes: B lanes in use, X shards of the batch, M lanes of a shard, K kv heads, G query heads of each, H head dim, L
layers, J blocks, S columns of a block; e blocks that are attended at a time; s rows of h values of a block, `folded`.
Source: softmax over blocks one after another, arXiv 2205.14135; decoding ragged lengths, arXiv 2309.06180.
Deliberately not here: the ring, and attention over it where there is no kernel (ring.py).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t1jax.config import ModelConfig
from t1jax.devices.sharding import Layout
from t1jax.model import heads
from t1jax.model.precision import level

NAME = "ragged_decode"  # of the kernel, in a compiled program
IDLE = -1  # length of a lane that is not read
AT_ONCE = 4  # most blocks attended at a time: while one product is under way, the next can begin
BUFFERS = 8 * 2**20  # most bytes of keys and values in VMEM
ALIGNED = 128  # values of a row of the ring in VMEM
LOW = -1e30  # score of a column that is not seen


class Order(NamedTuple):
    """The lanes of each shard, those that are live first."""

    lane_XM: jax.Array  # int32[X, B / X]
    live_X: jax.Array  # int32[X] how many are live


def suits(cfg: ModelConfig, layout: Layout, columns: int) -> bool:
    """Whether the kernel can attend a ring with blocks of so many columns: on a TPU, blocks that fill rows of VMEM."""
    platform = layout.mesh.devices.flat[0].platform
    tensor = layout.parts("kv_heads")
    fits = _buffers(heads.spread(cfg, tensor) // tensor, columns, cfg.head_dim, jnp.dtype(cfg.compute_dtype)) <= BUFFERS
    full = not (columns % ALIGNED or folded(columns, cfg.head_dim)[1] % ALIGNED)
    return platform == "tpu" and fits and full


def folded(S: int, H: int) -> tuple[int, int]:
    """(s, h): the rows in which values of a block lie, and their width, so that narrow heads fill a row of VMEM.

    h is H times the parts that the columns of a block are folded into: column c is in row c % s, from c // s * H on.
    """
    parts = math.gcd(S, max(ALIGNED // H, 1))
    return S // parts, parts * H


def _buffers(heads: int, columns: int, head_dim: int, dtype: Any) -> int:
    """Bytes of both buffers for a block of keys and values each, of so many kv heads of a device."""
    return 2 * 2 * heads * columns * head_dim * dtype.itemsize


def order(layout: Layout, length_B: jax.Array) -> Order:
    """The lanes of each shard in the order in which they are read; once a token, for all layers."""
    live_XM = length_B.reshape(layout.batch_shards, -1) != IDLE
    lane_XM = jnp.argsort(~live_XM, axis=1, stable=True).astype(jnp.int32)
    return Order(layout.constrain(lane_XM, "batch", None), jnp.sum(live_XM, axis=1, dtype=jnp.int32))


def attend(
    layout: Layout,
    q_BKGH: jax.Array,
    so_far: tuple[jax.Array, jax.Array, jax.Array],
    k_BKH: jax.Array,
    k_LJXMKHS: jax.Array,
    v_LJXMKsh: jax.Array,
    layer: jax.Array,
    column: jax.Array,
    length_B: jax.Array,
    lanes: Order,
) -> tuple[jax.Array, jax.Array]:
    """softmax(q k^T / sqrt(H)) v over a lane's own columns and what came before them; [B, K, G, H], 0 of an idle lane.

    Also returns the ring of keys with the new ones of live lanes in it. Each device reads its own lanes and heads.
    Scores and sums are float32; weights are rounded to the dtype of v.

    Args:
      layout: how lanes and heads are split.
      q_BKGH: queries, compute dtype.
      so_far: float32 highest score [B, K, G], sum of weights [B, K, G] and weighted sum of values [B, K, G, H].
      k_BKH: keys of this token, compute dtype.
      k_LJXMKHS: the ring of keys, compute dtype, before them.
      v_LJXMKsh: the ring of values, `folded`, with the column of this token in it.
      layer: int32[].
      column: int32[] the newest column, counted since the beginning.
      length_B: int32[B] columns before it that a lane attends; IDLE: none, and not the newest either.
      lanes: as `order` gives them.
    """
    heads, rows = layout.spec("batch", "kv_heads"), layout.spec("batch")
    ring = layout.spec(None, None, "batch", None, "kv_heads")
    everywhere = layout.spec()
    K, H, S = k_LJXMKHS.shape[4:]
    at_once = min(AT_ONCE, BUFFERS // _buffers(K // layout.parts("kv_heads"), S, H, v_LJXMKsh.dtype))
    call = partial(_local, at_once=at_once, interpret=layout.on_cpu)
    specs = (heads, heads, heads, ring, ring, everywhere, everywhere, rows, rows)
    local = jax.shard_map(call, mesh=layout.mesh, in_specs=specs, out_specs=(heads, ring), check_vma=False)
    found: tuple[jax.Array, jax.Array] = local(
        q_BKGH, so_far, k_BKH, k_LJXMKHS, v_LJXMKsh, layer, column, length_B, lanes
    )
    return found


def _local(
    q_BKGH: jax.Array,
    so_far: tuple[jax.Array, jax.Array, jax.Array],
    k_BKH: jax.Array,
    k_LJXMKHS: jax.Array,
    v_LJXMKsh: jax.Array,
    layer: jax.Array,
    column: jax.Array,
    length_B: jax.Array,
    lanes: Order,
    *,
    at_once: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """`attend` on one device, X = 1."""
    B, K, G, H = q_BKGH.shape
    S = k_LJXMKHS.shape[6]

    def of_lane(b: Any, layer: Any, column: Any, live: Any, lane: Any, *_: Any) -> tuple[Any, ...]:
        return lane[b], 0, 0, 0

    def spec(*last: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, K, *last), of_lane)

    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=5,
        grid=(B,),
        in_specs=[spec(G, H), spec(G, 1), spec(G, 1), spec(G, H), spec(1, H), anywhere, anywhere],
        out_specs=[spec(G, H), anywhere],
        scratch_shapes=[
            pltpu.VMEM((2, at_once, K, H, S), k_LJXMKHS.dtype),
            pltpu.VMEM((2, at_once, K, *v_LJXMKsh.shape[5:]), v_LJXMKsh.dtype),
            pltpu.SemaphoreType.DMA((2, 2, at_once)),
            pltpu.SMEM((1,), jnp.int32),
            pltpu.VMEM((K, H, min(S, ALIGNED)), k_LJXMKHS.dtype),
            pltpu.SemaphoreType.DMA,
        ],
    )
    highest_BKG, total_BKG, out_BKGH = so_far
    scalars = (layer.reshape(1), column.reshape(1), lanes.live_X, lanes.lane_XM[0], length_B)
    arrays = (q_BKGH, highest_BKG[..., None], total_BKG[..., None], out_BKGH, k_BKH[:, :, None], k_LJXMKHS, v_LJXMKsh)
    out: tuple[jax.Array, jax.Array] = pl.pallas_call(
        _kernel,
        grid_spec=grid,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q_BKGH, k_LJXMKHS)],
        input_output_aliases={len(scalars) + 5: 1},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
        name=NAME,
    )(*scalars, *arrays)
    return out


def _kernel(
    layer_ref: Any,
    column_ref: Any,
    live_ref: Any,
    lane_ref: Any,
    length_ref: Any,
    q_ref: Any,
    highest_ref: Any,
    total_ref: Any,
    so_far_ref: Any,
    new_ref: Any,
    k_hbm: Any,
    v_hbm: Any,
    out_ref: Any,
    k_after_hbm: Any,
    k_buffer: Any,
    v_buffer: Any,
    arrived: Any,
    slot_ref: Any,
    changed_ref: Any,
    written: Any,
) -> None:
    """One lane. Which of the two buffers its first blocks are in, the lane before it left in `slot_ref`."""
    J, (_, E, K, _, S) = k_hbm.shape[1], k_buffer.shape
    layer, column, live, number = layer_ref[0], column_ref[0], live_ref[0], pl.program_id(0)
    newest = column // S

    def first_of(lane: Any) -> Any:
        return (column - length_ref[lane]) // S

    def each_copy(lane: Any, block: Any, slot: Any, act: Any) -> None:
        """`act` on the copies into `slot` of the blocks from `block` on, as far as there are any."""
        for e in range(E):

            @pl.when(block + e <= newest)
            def act_on_one(e: int = e) -> None:
                place = (layer, jax.lax.rem(block + e, J), 0, lane)
                act(pltpu.make_async_copy(k_hbm.at[place], k_buffer.at[slot, e], arrived.at[0, slot, e]))
                act(pltpu.make_async_copy(v_hbm.at[place], v_buffer.at[slot, e], arrived.at[1, slot, e]))

    def start(copy: Any) -> None:
        copy.start()

    @pl.when(number == 0)
    def first_lane() -> None:
        slot_ref[0] = 0
        v_buffer[...] = jnp.zeros_like(v_buffer)  # a weight of 0 times what was never written must be 0

        @pl.when(live > 0)
        def its_blocks() -> None:
            each_copy(lane_ref[0], first_of(lane_ref[0]), 0, start)

    @pl.when(number >= live)
    def idle_lane() -> None:
        out_ref[...] = jnp.zeros_like(out_ref)

    @pl.when(number < live)
    def live_lane() -> None:
        lane = lane_ref[number]
        first = first_of(lane)
        turns = (newest - first) // E + 1
        width = changed_ref.shape[2]
        at = column - newest * S
        begin = pl.multiple_of(at // width * width, width)
        place = (layer, jax.lax.rem(newest, J), 0, lane, slice(None), slice(None), pl.ds(begin, width))
        write = pltpu.make_async_copy(changed_ref, k_after_hbm.at[place], written)

        def some_blocks(turn: Any, so_far: Any) -> Any:
            slot, block = slot_ref[0], first + turn * E
            last = turn + 1 == turns

            @pl.when(jnp.logical_not(last) | (number + 1 < live))
            def blocks_after_these() -> None:
                following = jnp.where(last, lane_ref[jnp.minimum(number + 1, live - 1)], lane)
                each_copy(following, jnp.where(last, first_of(following), block + E), 1 - slot, start)

            each_copy(lane, block, slot, lambda copy: copy.wait())
            slot_ref[0] = 1 - slot

            @pl.when(last)
            def new_column() -> None:
                columns = (slot, newest - block, slice(None), slice(None), pl.ds(begin, width))
                here = jax.lax.broadcasted_iota(jnp.int32, changed_ref.shape, 2) == at - begin
                new = jnp.swapaxes(new_ref[0].astype(jnp.float32), 1, 2).astype(changed_ref.dtype)
                changed_ref[...] = jnp.where(here, new, k_buffer[columns])
                k_buffer[columns] = changed_ref[...]
                write.start()

            ago = column - block * S - jax.lax.broadcasted_iota(jnp.int32, (1, E * S), 1)
            seen = (ago >= 0) & (ago <= length_ref[lane])
            return tuple(
                _head(q_ref[0, h], k_buffer[slot, :, h], v_buffer[slot, :, h], seen, *so_far[h]) for h in range(K)
            )

        begun = tuple((highest_ref[0, h], total_ref[0, h], so_far_ref[0, h]) for h in range(K))
        done = jax.lax.fori_loop(0, turns, some_blocks, begun)
        for h, (_, total, out) in enumerate(done):
            out_ref[0, h] = (out / total).astype(out_ref.dtype)
        write.wait()


def _head(q: Any, k: Any, v: Any, seen: Any, highest: Any, total: Any, out: Any) -> tuple[Any, Any, Any]:
    """The softmax of a kv head's queries [G, H], continued over keys [e, H, S] and values [e, s, h]."""
    E, H, _ = k.shape
    exact = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    product = partial(jnp.dot, preferred_element_type=jnp.float32, precision=exact)
    s = jnp.concatenate([product(q, k[e]) for e in range(E)], axis=1) * H**-0.5
    s = jnp.where(seen, s, LOW)
    higher = jnp.maximum(highest, level(jnp.max(s, axis=1, keepdims=True), q.dtype))
    w, less = jnp.exp(s - higher), jnp.exp(highest - higher)
    added = jnp.zeros_like(out)
    for e, of_block in enumerate(jnp.split(w.astype(v.dtype), E, axis=1)):
        for part, of_rows in enumerate(jnp.split(of_block, v.shape[2] // H, axis=1)):
            added += product(of_rows, v[e])[:, part * H : (part + 1) * H]
    return higher, total * less + jnp.sum(w, axis=1, keepdims=True), out * less + added
