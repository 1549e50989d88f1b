# SPDX-License-Identifier: Apache-2.0
"""Attention within the texts of a row on a TPU, by Pallas kernels that visit the tiles that are needed and no other.

One kernel forward and two backward. Their grid is as long as the list of visits, which is made of the texts when the
program runs: tiles between different texts cost nothing, and texts may share a parent. (The splash attention that ships
with JAX asks whether one number of a query is one of a key, so it knows no parents, and its grid has a step for each
tile.)

Axes: B rows, T positions, N query heads, K kv heads, H head dim, n blocks of a row, of t queries or s keys; x visits.
Source: FlashAttention-2, arXiv 2307.08691; a grid as long as the work, as in the grouped matrix products that ship with
JAX (megablox).
Deliberately not here: which kernel is used when (attention.py), which tiles are needed (blocked.py), what is done in a
visit (splash_visit.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from t1jax.config import ConfigError
from t1jax.model import blocked, splash_visit
from t1jax.model.blocked import SAVED

BLOCK, ALIGNED = 512, 128  # queries and keys of a tile, at most; of a shorter row all, as a multiple of ALIGNED
LONG = 2**16  # positions of a row; a longer one works, but its list of visits grows with the square of its length
MOST = 80_000  # visits that are listed: three numbers each, in a TPU's SMEM of 1 MiB
ORDER: tuple[Literal["parallel", "arbitrary"], ...] = ("parallel", "arbitrary", "arbitrary")  # of the grid's steps
INTERPRET = False  # run without a TPU: for tests


class Visits(NamedTuple):
    """Tiles, those of one block after another; each block has at least its tile on the diagonal."""

    block_x: jax.Array  # int32, b * n + the block in its row, of queries or of keys
    other_x: jax.Array  # int32, the block in the row of the keys, or queries, that it meets
    whole_x: jax.Array  # int32, 1 if each of the queries attends each of the keys, so that nothing is masked
    count_1: jax.Array  # int32, how many visits there are; what is listed after them is none


class Tiles(NamedTuple):
    """Which tokens attend which, and which tiles hold such a pair."""

    text_B3T: jax.Array  # int32 segment, parent, and the segment as keys have it: -1 for padding, which has 0, 0
    by_query: Visits
    by_key: Visits


def block_of(length: int) -> int:
    """Positions of a block in rows of so many."""
    return min(BLOCK, length + -length % ALIGNED)


def tiles(segment_BT: jax.Array, parent_BT: jax.Array) -> Tiles:
    """The tiles of rows of any length. Token i attends j <= i if segment_j > 0 is segment_i or parent_i.

    Raises:
      ConfigError: there can be more than MOST.
    """
    block = block_of(segment_BT.shape[1])
    pad = -segment_BT.shape[1] % block
    segment_BT, parent_BT = (jnp.pad(x, ((0, 0), (0, pad))) for x in (segment_BT, parent_BT))
    there_BT = segment_BT > 0
    parent_BT = jnp.where(there_BT, parent_BT, 0)
    text_B3T = jnp.stack([segment_BT, parent_BT, jnp.where(there_BT, segment_BT, -1)], axis=1)
    needed_Bnn = blocked.needed(segment_BT, parent_BT, block, block)
    needed_Bnn |= jnp.eye(needed_Bnn.shape[1], dtype=bool)[None]
    whole_Bnn = _whole(segment_BT, parent_BT, block)
    return Tiles(text_B3T, _visits(needed_Bnn, whole_Bnn), _visits(needed_Bnn.swapaxes(1, 2), whole_Bnn.swapaxes(1, 2)))


def _whole(segment_BT: jax.Array, parent_BT: jax.Array, block: int) -> jax.Array:
    """bool[B, n, n]: whether a block of keys is of one text, and a later one of queries of it or with it as parent."""

    def only(x_BT: jax.Array) -> jax.Array:  # the number that all have, or -1
        x_Bns = x_BT.reshape(len(x_BT), -1, block)
        return jnp.where((x_Bns == x_Bns[..., :1]).all(-1), x_Bns[..., 0], -1)

    segment_Bn, parent_Bn = only(segment_BT), only(parent_BT)
    keys_B1n = segment_Bn[:, None]
    same_Bnn = (segment_Bn[..., None] == keys_B1n) | (parent_Bn[..., None] == keys_B1n)
    n = segment_Bn.shape[1]
    return same_Bnn & (keys_B1n > 0) & jnp.tril(jnp.ones((n, n), bool), -1)[None]


def _visits(needed_Bnn: jax.Array, whole_Bnn: jax.Array) -> Visits:
    B, n, _ = needed_Bnn.shape
    most = B * n * (n + 1) // 2
    if most > MOST:
        raise ConfigError(
            f"model.attention: a device's {B} rows of {n} blocks each can have {most} tiles, expected at most {MOST}: "
            "splash lists them in a TPU's SMEM; raise rl.micro_batches or sft.micro_batches, or set it to xla"
        )
    at_x = jnp.flatnonzero(needed_Bnn, size=most, fill_value=0).astype(jnp.int32)
    whole_x = whole_Bnn.reshape(-1)[at_x].astype(jnp.int32)
    return Visits(at_x // n, at_x % n, whole_x, needed_Bnn.sum(dtype=jnp.int32)[None])


def attend(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, where: Tiles) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over what a token attends, [B, N, T, H]; 0 for padding, of which nothing is read.

    Scores and softmax are float32; weights are cast to the dtype of v for the product with it.
    """
    arrays = (blocked.cleared(x, where.text_B3T[:, 0]) for x in (q_BNTH, k_BKTH, v_BKTH))
    return _attend(*arrays, where)[:, :, : q_BNTH.shape[2]]


@jax.custom_vjp
def _attend(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, where: Tiles) -> jax.Array:
    return _forward(q_BNTH, k_BKTH, v_BKTH, where)[0]


def _call(name: str, kernel: Any, visits: Visits, grid: Any, ins: Any, like: Any, outs: Any, scratch: Any) -> Any:
    """A function of the arrays that runs `kernel`; `grid` is a function of how many visits there are."""

    @jax.jit  # JAX drops a jitted call whose results nobody reads, as after remat, but no pallas_call
    def call(visits: Visits, *arrays: jax.Array) -> Any:
        count = visits.count_1[0]
        return pl.pallas_call(
            kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=4, grid=grid(count), in_specs=ins, out_specs=outs, scratch_shapes=scratch
            ),
            out_shape=like,
            compiler_params=pltpu.CompilerParams(dimension_semantics=ORDER[: len(grid(count))]),
            interpret=INTERPRET,
            name=name,
        )(*visits, *arrays)

    return lambda *arrays: call(visits, *arrays)


class _Blocks(NamedTuple):
    """What a visit reads and writes."""

    queries: pl.BlockSpec  # [t, H]
    keys: pl.BlockSpec  # [s, H]
    number: pl.BlockSpec  # [1, t] of each query
    query_text: pl.BlockSpec  # [3, t]
    key_text: pl.BlockSpec  # [3, s]


def _blocks(size: int, H: int, place: Any) -> _Blocks:
    """`place` says where a step of the grid is: row, query head, kv head, block of queries, block of keys."""

    def spec(shape: tuple[int | None, ...], pick: Any) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda *step: pick(*place(*step)))

    return _Blocks(
        spec((None, None, size, H), lambda b, head, kv_head, i, j: (b, head, i, 0)),
        spec((None, None, size, H), lambda b, head, kv_head, i, j: (b, kv_head, j, 0)),
        spec((None, None, 1, size), lambda b, head, kv_head, i, j: (b, head, 0, i)),
        spec((None, 3, size), lambda b, head, kv_head, i, j: (b, 0, i)),
        spec((None, 3, size), lambda b, head, kv_head, i, j: (b, 0, j)),
    )


def _by_query(q_BNTH: jax.Array, k_BKTH: jax.Array) -> tuple[int, int, _Blocks]:
    """(n, positions of a block, what a visit of queries reads and writes); a step of the grid is a head, a visit."""
    _, N, T, H = q_BNTH.shape
    size, G = block_of(T), N // k_BKTH.shape[1]
    n = T // size

    def place(head: Any, x: Any, block_ref: Any, key_ref: Any, *_: Any) -> tuple[Any, ...]:
        block = block_ref[x]
        return jax.lax.div(block, n), head, jax.lax.div(head, G), jax.lax.rem(block, n), key_ref[x]

    return n, size, _blocks(size, H, place)


def _forward(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, where: Tiles) -> Any:
    """The output, and what the backward needs: also log2 of each softmax's divisor, 1e30 where that is 0."""
    B, N, T, H = q_BNTH.shape
    n, size, block = _by_query(q_BNTH, k_BKTH)
    number = pltpu.VMEM((size, ALIGNED), jnp.float32)  # of each query, in all lanes
    out_BNTH, lse_BN1T = _call(
        "attention_forward",
        partial(splash_visit.forward, n=n),
        where.by_query,
        lambda count: (N, count),
        [block.queries, block.keys, block.keys, block.query_text, block.key_text],
        [jax.ShapeDtypeStruct(q_BNTH.shape, q_BNTH.dtype), jax.ShapeDtypeStruct((B, N, 1, T), jnp.float32)],
        [block.queries, block.number],
        [number, number, pltpu.VMEM((size, H), jnp.float32)],
    )(q_BNTH, k_BKTH, v_BKTH, where.text_B3T, where.text_B3T)
    out_BNTH, lse_BN1T = checkpoint_name(out_BNTH, SAVED), checkpoint_name(lse_BN1T, SAVED)
    return out_BNTH, (q_BNTH, k_BKTH, v_BKTH, where, out_BNTH, lse_BN1T)


def _backward(saved: Any, dout_BNTH: jax.Array) -> Any:
    q_BNTH, k_BKTH, v_BKTH, where, out_BNTH, lse_BN1T = saved
    _, N, _, H = q_BNTH.shape
    K = k_BKTH.shape[1]
    own_BN1T = jnp.sum(dout_BNTH.astype(jnp.float32) * out_BNTH.astype(jnp.float32), axis=-1)[:, :, None]
    arrays = (q_BNTH, k_BKTH, v_BKTH, dout_BNTH, lse_BN1T, own_BN1T, where.text_B3T, where.text_B3T)
    n, size, block = _by_query(q_BNTH, k_BKTH)
    (dq_BNTH,) = _call(
        "attention_dq",
        partial(splash_visit.dq, n=n),
        where.by_query,
        lambda count: (N, count),
        _read(block),
        [jax.ShapeDtypeStruct(q_BNTH.shape, q_BNTH.dtype)],
        [block.queries],
        [pltpu.VMEM((size, H), jnp.float32)],
    )(*arrays)

    def place(kv_head: Any, x: Any, g: Any, block_ref: Any, query_ref: Any, *_: Any) -> tuple[Any, ...]:
        block = block_ref[x]
        return jax.lax.div(block, n), kv_head * (N // K) + g, kv_head, query_ref[x], jax.lax.rem(block, n)

    block = _blocks(size, H, place)
    dk_BKTH, dv_BKTH = _call(
        "attention_dkv",
        partial(splash_visit.dkv, n=n),
        where.by_key,
        lambda count: (K, count, N // K),
        _read(block),
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_BKTH, v_BKTH)],
        [block.keys, block.keys],
        [pltpu.VMEM((size, H), jnp.float32)] * 2,
    )(*arrays)
    return dq_BNTH, dk_BKTH, dv_BKTH, None


def _read(block: _Blocks) -> list[pl.BlockSpec]:
    """What the kernels of the backward read."""
    queries, keys, number = block.queries, block.keys, block.number
    return [queries, keys, keys, queries, number, number, block.query_text, block.key_text]


_attend.defvjp(_forward, _backward)
