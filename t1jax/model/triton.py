# SPDX-License-Identifier: Apache-2.0
"""Attention within the texts of a row on a GPU, by kernels in Pallas that XLA compiles with Triton.

One kernel forward and two backward, whatever the length: no mask of T x T is made, tiles that are masked out completely
are skipped, and texts may share a parent. Rows and heads are read where they lie, [B, T, N, H]; scores are never in
memory.

Axes: B rows, T query positions, S key positions, N query heads, K kv heads, G = N // K, H head dim; n, m blocks of
queries and of keys in a row, of t and s positions.
Source: FlashAttention-2, arXiv 2307.08691: online softmax, and a backward pass that recomputes the weights.
Deliberately not here: which kernel is used when (attention.py), which tiles are needed (blocked.py).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from t1jax.model import blocked
from t1jax.model.blocked import SAVED

QUERIES, KEYS = 128, 64  # positions of a tile in the forward; T is a multiple of both
HEADS = (16, 32, 64, 128)  # H: what tiles can be made of and keep in registers
WARPS = 8  # of a program; so no register is spilled, by ptxas
BACK = 64  # of queries and of keys in the backward, which holds more in registers
LOG2E = math.log2(math.e)
INTERPRET = False  # run without a GPU: for tests


class Tiles(NamedTuple):
    """Which tokens attend which, and which tiles hold such a pair."""

    segment_BT: jax.Array  # int32, 0: padding
    parent_BT: jax.Array  # int32, the segment that a token attends besides its own
    keys_Bnm: jax.Array  # int32, forward: of each block of queries the blocks of keys that it needs, then others
    keys_count_Bn: jax.Array  # int32, how many it needs
    back_keys_Bnm: jax.Array  # the same with the tiles of the backward
    back_keys_count_Bn: jax.Array
    back_queries_Bmn: jax.Array  # int32, of each block of keys the blocks of queries that need it, then others
    back_queries_count_Bm: jax.Array


def tiles(segment_BT: jax.Array, parent_BT: jax.Array) -> Tiles:
    """The tiles of rows of any length. Token i attends j <= i if segment_j > 0 is segment_i or parent_i."""
    pad = -segment_BT.shape[1] % max(QUERIES, KEYS, BACK)
    segment_BT, parent_BT = (jnp.pad(x, ((0, 0), (0, pad))) for x in (segment_BT, parent_BT))
    parent_BT = jnp.where(segment_BT > 0, parent_BT, 0)
    forward_Bnm = blocked.needed(segment_BT, parent_BT, QUERIES, KEYS)
    back_Bnm = blocked.needed(segment_BT, parent_BT, BACK, BACK)
    return Tiles(
        segment_BT,
        parent_BT,
        *blocked.listed(forward_Bnm),
        *blocked.listed(back_Bnm),
        *blocked.listed(back_Bnm.swapaxes(1, 2)),
    )


def attend(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, where: Tiles) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over what a token attends, [B, N, T, H]; 0 for padding, of which nothing is read.

    Scores and softmax are float32; weights are cast to the dtype of v for the product with it. H is one of HEADS.
    """
    T = q_BNTH.shape[2]
    pad = where.segment_BT.shape[1] - T
    q, k, v = (jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q_BNTH, k_BKTH, v_BKTH))
    return _attend(q, k, v, where)[:, :T].swapaxes(1, 2)


@jax.custom_vjp
def _attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, where: Tiles) -> jax.Array:
    return _forward(q_BTNH, k_BTKH, v_BTKH, where)[0]


def _call(kernel: Any, like: Any, grid: tuple[int, ...], ins: Any, outs: Any, warps: int, name: str) -> Any:
    called = pl.pallas_call(
        kernel,
        out_shape=like,
        grid=grid,
        in_specs=ins,
        out_specs=outs,
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=2),
        interpret=INTERPRET,
        name=name,
    )
    return jax.jit(called)  # JAX drops a jitted call whose results nobody reads, as after remat, but no pallas_call


def dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """x @ y, added up in float32; float32 operands are not rounded."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jax.lax.dot(x, y, precision=precision, preferred_element_type=jnp.float32)


def level(highest: jax.Array, dtype: Any) -> jax.Array:
    """What `precision.level` is to exp, to powers of 2: the next whole number, where weights are rounded."""
    return highest if dtype == jnp.float32 else jnp.ceil(highest)


def _rows(ref: Any, at: Any, there_t: jax.Array) -> jax.Array:
    """[t, H]: of [T, H], or of [T, G, H] with the head's number in `at`; 0 where not `there`."""
    return plgpu.load(ref.at[*at, :], mask=there_t[:, None], other=0.0)


def _scores(q_tH: jax.Array, k_sH: jax.Array, seen_ts: jax.Array) -> jax.Array:
    """float32[t, s] in powers of 2; -1e30 where a query does not attend a key."""
    return jnp.where(seen_ts, dot(q_tH, k_sH.T) * (q_tH.shape[-1] ** -0.5 * LOG2E), -1e30)


def _seen(i: jax.Array, segment_t: jax.Array, parent_t: jax.Array, j: jax.Array, key_s: jax.Array) -> jax.Array:
    """bool[t, s]: which keys of block j a query of block i attends."""
    t, s = len(segment_t), len(key_s)
    related_ts = (key_s[None] == segment_t[:, None]) | (key_s[None] == parent_t[:, None])
    at_t, at_s = i * t + jnp.arange(t, dtype=jnp.int32), j * s + jnp.arange(s, dtype=jnp.int32)
    return related_ts & (key_s[None] > 0) & (at_s[None] <= at_t[:, None])


def _forward_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    segment_ref: Any,
    parent_ref: Any,
    keys_ref: Any,
    count_ref: Any,
    out_ref: Any,
    lse_ref: Any,
) -> None:
    i = pl.program_id(0)
    segment_t, parent_t = (x[pl.ds(i * QUERIES, QUERIES)] for x in (segment_ref, parent_ref))
    q_tH = plgpu.load(q_ref, mask=(segment_t > 0)[:, None], other=0.0)

    def one_tile(x: jax.Array, so_far: Any) -> Any:
        highest_t, total_t, out_tH = so_far
        j = keys_ref[x]
        key_s = segment_ref[pl.ds(j * KEYS, KEYS)]
        k_sH, v_sH = (_rows(ref, (pl.ds(j * KEYS, KEYS),), key_s > 0) for ref in (k_ref, v_ref))
        s_ts = _scores(q_tH, k_sH, _seen(i, segment_t, parent_t, j, key_s))
        higher_t = jnp.maximum(highest_t, level(s_ts.max(-1), v_sH.dtype))
        w_ts, less_t = jnp.exp2(s_ts - higher_t[:, None]), jnp.exp2(highest_t - higher_t)
        return higher_t, total_t * less_t + w_ts.sum(-1), out_tH * less_t[:, None] + dot(w_ts.astype(v_sH.dtype), v_sH)

    # -1e29 is above what is masked, so that masked keys weigh nothing even before the first that is seen
    zero_t = jnp.zeros(QUERIES, jnp.float32)
    start = (zero_t - 1e29, zero_t, jnp.zeros(q_tH.shape, jnp.float32))
    highest_t, total_t, out_tH = jax.lax.fori_loop(0, count_ref[()], one_tile, start)
    some_t = total_t > 0
    total_t = jnp.where(some_t, total_t, 1.0)
    out_ref[...] = (out_tH / total_t[:, None]).astype(out_ref.dtype)
    lse_ref[...] = jnp.where(some_t, highest_t + jnp.log2(total_t), 1e30)


def _forward(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, where: Tiles) -> Any:
    """The output, and what the backward needs: also log2 of each softmax's divisor, 1e30 where that is 0."""
    B, T, N, H = q_BTNH.shape
    G, m = N // k_BTKH.shape[2], where.keys_Bnm.shape[2]
    block = pl.BlockSpec((None, QUERIES, None, H), lambda i, h, b: (b, i, h, 0))
    keys = pl.BlockSpec((None, T, None, H), lambda i, h, b: (b, 0, h // G, 0))
    row = pl.BlockSpec((None, T), lambda i, h, b: (b, 0))
    out_BTNH, lse_BNT = _call(
        _forward_kernel,
        (jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype), jax.ShapeDtypeStruct((B, N, T), jnp.float32)),
        (T // QUERIES, N, B),
        [
            *(block, keys, keys, row, row),
            pl.BlockSpec((None, None, m), lambda i, h, b: (b, i, 0)),
            pl.BlockSpec((None, None), lambda i, h, b: (b, i)),
        ],
        [block, pl.BlockSpec((None, None, QUERIES), lambda i, h, b: (b, h, i))],
        warps=WARPS if H > 64 else WARPS // 2,
        name="attention_forward",
    )(q_BTNH, k_BTKH, v_BTKH, where.segment_BT, where.parent_BT, where.keys_Bnm, where.keys_count_Bn)
    out_BTNH, lse_BNT = checkpoint_name(out_BTNH, SAVED), checkpoint_name(lse_BNT, SAVED)
    return out_BTNH, (q_BTNH, k_BTKH, v_BTKH, where, out_BTNH, lse_BNT)


def _dq_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    out_ref: Any,
    dout_ref: Any,
    lse_ref: Any,
    segment_ref: Any,
    parent_ref: Any,
    keys_ref: Any,
    count_ref: Any,
    dq_ref: Any,
    own_ref: Any,
) -> None:
    i = pl.program_id(0)
    segment_t, parent_t = (x[pl.ds(i * BACK, BACK)] for x in (segment_ref, parent_ref))
    there_t1 = (segment_t > 0)[:, None]
    q_tH, out_tH, dout_tH = (plgpu.load(x, mask=there_t1, other=0.0) for x in (q_ref, out_ref, dout_ref))
    own_t = (out_tH.astype(jnp.float32) * dout_tH.astype(jnp.float32)).sum(-1)
    lse_t = lse_ref[...]

    def one_tile(x: jax.Array, dq_tH: jax.Array) -> jax.Array:
        j = keys_ref[x]
        key_s = segment_ref[pl.ds(j * BACK, BACK)]
        k_sH, v_sH = (_rows(ref, (pl.ds(j * BACK, BACK),), key_s > 0) for ref in (k_ref, v_ref))
        w_ts = jnp.exp2(_scores(q_tH, k_sH, _seen(i, segment_t, parent_t, j, key_s)) - lse_t[:, None])
        ds_ts = w_ts * (dot(dout_tH, v_sH.T) - own_t[:, None]) * q_tH.shape[-1] ** -0.5
        return dq_tH + dot(ds_ts.astype(q_tH.dtype), k_sH)

    dq_tH = jax.lax.fori_loop(0, count_ref[()], one_tile, jnp.zeros(q_tH.shape, jnp.float32))
    dq_ref[...] = dq_tH.astype(dq_ref.dtype)
    own_ref[...] = own_t


def _dkv_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    dout_ref: Any,
    lse_ref: Any,
    own_ref: Any,
    segment_ref: Any,
    parent_ref: Any,
    queries_ref: Any,
    count_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
) -> None:
    """For a block of keys, all query heads that share it."""
    j = pl.program_id(0)
    key_s = segment_ref[pl.ds(j * BACK, BACK)]
    k_sH, v_sH = (plgpu.load(x, mask=(key_s > 0)[:, None], other=0.0) for x in (k_ref, v_ref))

    def one_head(g: jax.Array, so_far: Any) -> Any:
        def one_tile(x: jax.Array, so_far: Any) -> Any:
            dk_sH, dv_sH = so_far
            i = queries_ref[x]
            at = pl.ds(i * BACK, BACK)
            segment_t, parent_t = segment_ref[at], parent_ref[at]
            q_tH, dout_tH = (_rows(ref, (at, g), segment_t > 0) for ref in (q_ref, dout_ref))
            w_ts = jnp.exp2(_scores(q_tH, k_sH, _seen(i, segment_t, parent_t, j, key_s)) - lse_ref[g, at][:, None])
            ds_ts = w_ts * (dot(dout_tH, v_sH.T) - own_ref[g, at][:, None]) * q_tH.shape[-1] ** -0.5
            dv_sH += dot(w_ts.astype(dout_tH.dtype).T, dout_tH)
            return dk_sH + dot(ds_ts.astype(q_tH.dtype).T, q_tH), dv_sH

        return jax.lax.fori_loop(0, count_ref[()], one_tile, so_far)

    zero_sH = jnp.zeros(k_sH.shape, jnp.float32)
    dk_sH, dv_sH = jax.lax.fori_loop(0, q_ref.shape[1], one_head, (zero_sH, zero_sH))
    dk_ref[...] = dk_sH.astype(dk_ref.dtype)
    dv_ref[...] = dv_sH.astype(dv_ref.dtype)


def _backward(saved: Any, dout_BTNH: jax.Array) -> Any:
    q_BTNH, k_BTKH, v_BTKH, where, out_BTNH, lse_BNT = saved
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    G, n = N // K, T // BACK
    texts = (where.segment_BT, where.parent_BT)
    of_block, of_blocks = (
        pl.BlockSpec((None, None), lambda i, h, b: (b, i)),
        pl.BlockSpec((None, None, n), lambda i, h, b: (b, i, 0)),
    )
    row = pl.BlockSpec((None, T), lambda i, h, b: (b, 0))
    block = pl.BlockSpec((None, BACK, None, H), lambda i, h, b: (b, i, h, 0))
    keys = pl.BlockSpec((None, T, None, H), lambda i, h, b: (b, 0, h // G, 0))
    number = pl.BlockSpec((None, None, BACK), lambda i, h, b: (b, h, i))
    dq_BTNH, own_BNT = _call(
        _dq_kernel,
        (jax.ShapeDtypeStruct(q_BTNH.shape, q_BTNH.dtype), jax.ShapeDtypeStruct(lse_BNT.shape, jnp.float32)),
        (n, N, B),
        [block, keys, keys, block, block, number, row, row, of_blocks, of_block],
        [block, number],
        WARPS,
        "attention_dq",
    )(q_BTNH, k_BTKH, v_BTKH, out_BTNH, dout_BTNH, lse_BNT, *texts, where.back_keys_Bnm, where.back_keys_count_Bn)
    queries = pl.BlockSpec((None, T, G, H), lambda j, h, b: (b, 0, h, 0))
    numbers = pl.BlockSpec((None, G, T), lambda j, h, b: (b, h, 0))
    dk_BTKH, dv_BTKH = _call(
        _dkv_kernel,
        tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_BTKH, v_BTKH)),
        (n, K, B),
        [queries, block, block, queries, numbers, numbers, row, row, of_blocks, of_block],
        [block, block],
        WARPS,
        "attention_dkv",
    )(q_BTNH, k_BTKH, v_BTKH, dout_BTNH, lse_BNT, own_BNT, *texts, where.back_queries_Bmn, where.back_queries_count_Bm)
    return dq_BTNH, dk_BTKH, dv_BTKH, None


_attend.defvjp(_forward, _backward)
