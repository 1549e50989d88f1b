# SPDX-License-Identifier: Apache-2.0
"""What the kernels of splash.py do in a visit of a block of queries to a block of keys, or the other way round.

The visits to a block follow each other: the first one begins its sums, which stay in VMEM, and the last one writes them
out. A tile in which each query attends each key is not masked.

Axes: t queries and s keys of a tile, as many as queries; H head dim, l lanes that hold the same number, n blocks of a
row, x visits.
Source: FlashAttention-2, arXiv 2307.08691: online softmax, and a backward pass that recomputes the weights.
Deliberately not here: which visits there are, and what a visit reads and writes (splash.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from t1jax.model.precision import einsum
from t1jax.model.triton import LOG2E, level


def _ends(block_ref: Any, count_ref: Any) -> tuple[Any, Any]:
    """Whether this visit is the first to its block, and whether it is the last."""
    x, last = pl.program_id(1), count_ref[0] - 1
    block = block_ref[x]
    first = (x == 0) | (block_ref[jnp.maximum(x - 1, 0)] != block)
    return first, (x == last) | (block_ref[jnp.minimum(x + 1, last)] != block)


def _either(whole_ref: Any, visit: Callable[[bool], None]) -> None:
    """`visit(masked)`, as the tile needs it."""
    whole = whole_ref[pl.program_id(1)] > 0
    pl.when(whole)(partial(visit, False))
    pl.when(jnp.logical_not(whole))(partial(visit, True))


def _masked(scores: Any, query_ref: Any, key_ref: Any, ahead: Any, queries: int) -> Any:
    """-1e30 where a query does not attend a key.

    Args:
      scores: square, with queries along axis `queries`.
      query_ref: texts of the queries.
      key_ref: texts of the keys.
      ahead: how many blocks the queries stand after the keys.
      queries: 0 or 1.
    """
    segment, parent = (jnp.expand_dims(query_ref[row], 1 - queries) for row in (0, 1))
    key = jnp.expand_dims(key_ref[2], queries)
    query_at = jax.lax.broadcasted_iota(jnp.int32, segment.shape, queries) + ahead * len(scores)
    key_at = jax.lax.broadcasted_iota(jnp.int32, key.shape, 1 - queries)
    return jnp.where(((key == segment) | (key == parent)) & (key_at <= query_at), scores, -1e30)


def _across(x_tl: Any, width: int) -> Any:
    """[t, width] of [t, l], whose columns are the same."""
    return jnp.tile(x_tl, (1, -(-width // x_tl.shape[1])))[:, :width]


def forward(
    block_ref: Any,
    key_ref: Any,
    whole_ref: Any,
    count_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    query_text_ref: Any,
    key_text_ref: Any,
    out_ref: Any,
    lse_ref: Any,
    highest_ref: Any,
    total_ref: Any,
    sum_ref: Any,
    *,
    n: int,
) -> None:
    x = pl.program_id(1)
    first, last = _ends(block_ref, count_ref)
    size, H = q_ref.shape

    @pl.when(first)
    def start() -> None:
        # above what is masked, so that masked keys weigh nothing even before the first that is seen
        highest_ref[...] = jnp.full_like(highest_ref, -1e29)
        total_ref[...] = jnp.zeros_like(total_ref)
        sum_ref[...] = jnp.zeros_like(sum_ref)

    def visit(masked: bool) -> None:
        s_ts = einsum("tH,sH->ts", q_ref[...], k_ref[...]) * (H**-0.5 * LOG2E)
        if masked:
            ahead = jax.lax.rem(block_ref[x], n) - key_ref[x]
            s_ts = _masked(s_ts, query_text_ref, key_text_ref, ahead, queries=0)
        highest_tl = highest_ref[...]
        higher_tl = jnp.maximum(highest_tl, level(s_ts.max(1, keepdims=True), v_ref.dtype))
        w_ts, less_tl = jnp.exp2(s_ts - _across(higher_tl, size)), jnp.exp2(highest_tl - higher_tl)
        highest_ref[...] = higher_tl
        total_ref[...] = total_ref[...] * less_tl + w_ts.sum(1, keepdims=True)
        added_tH = einsum("ts,sH->tH", w_ts.astype(v_ref.dtype), v_ref[...])
        sum_ref[...] = sum_ref[...] * _across(less_tl, H) + added_tH

    _either(whole_ref, visit)

    @pl.when(last)
    def end() -> None:
        some_tl = total_ref[...] > 0
        total_tl = jnp.where(some_tl, total_ref[...], 1.0)
        out_ref[...] = (sum_ref[...] / _across(total_tl, H)).astype(out_ref.dtype)
        lse_ref[...] = jnp.where(some_tl, highest_ref[...] + jnp.log2(total_tl), 1e30).T[:1]


def dq(
    block_ref: Any,
    key_ref: Any,
    whole_ref: Any,
    count_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    dout_ref: Any,
    lse_ref: Any,
    own_ref: Any,
    query_text_ref: Any,
    key_text_ref: Any,
    dq_ref: Any,
    sum_ref: Any,
    *,
    n: int,
) -> None:
    x = pl.program_id(1)
    first, last = _ends(block_ref, count_ref)
    scale = q_ref.shape[1] ** -0.5

    @pl.when(first)
    def start() -> None:
        sum_ref[...] = jnp.zeros_like(sum_ref)

    def visit(masked: bool) -> None:
        s_ts = einsum("tH,sH->ts", q_ref[...], k_ref[...]) * (scale * LOG2E)
        if masked:
            ahead = jax.lax.rem(block_ref[x], n) - key_ref[x]
            s_ts = _masked(s_ts, query_text_ref, key_text_ref, ahead, queries=0)
        w_ts = jnp.exp2(s_ts - lse_ref[0][:, None])
        ds_ts = w_ts * (einsum("tH,sH->ts", dout_ref[...], v_ref[...]) - own_ref[0][:, None])
        sum_ref[...] += einsum("ts,sH->tH", ds_ts.astype(k_ref.dtype), k_ref[...])

    _either(whole_ref, visit)

    @pl.when(last)
    def end() -> None:
        dq_ref[...] = (sum_ref[...] * scale).astype(dq_ref.dtype)


def dkv(
    block_ref: Any,
    query_ref: Any,
    whole_ref: Any,
    count_ref: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    dout_ref: Any,
    lse_ref: Any,
    own_ref: Any,
    query_text_ref: Any,
    key_text_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    dk_sum_ref: Any,
    dv_sum_ref: Any,
    *,
    n: int,
) -> None:
    """A visit of keys to queries of one of the heads that share them."""
    x, g = pl.program_id(1), pl.program_id(2)
    first, last = _ends(block_ref, count_ref)
    scale = q_ref.shape[1] ** -0.5

    @pl.when(first & (g == 0))
    def start() -> None:
        dk_sum_ref[...] = jnp.zeros_like(dk_sum_ref)
        dv_sum_ref[...] = jnp.zeros_like(dv_sum_ref)

    def visit(masked: bool) -> None:
        s_st = einsum("sH,tH->st", k_ref[...], q_ref[...]) * (scale * LOG2E)
        if masked:
            ahead = query_ref[x] - jax.lax.rem(block_ref[x], n)
            s_st = _masked(s_st, query_text_ref, key_text_ref, ahead, queries=1)
        w_st = jnp.exp2(s_st - lse_ref[...])
        ds_st = w_st * (einsum("sH,tH->st", v_ref[...], dout_ref[...]) - own_ref[...])
        dk_sum_ref[...] += einsum("st,tH->sH", ds_st.astype(q_ref.dtype), q_ref[...])
        dv_sum_ref[...] += einsum("st,tH->sH", w_st.astype(dout_ref.dtype), dout_ref[...])

    _either(whole_ref, visit)

    @pl.when(last & (g == pl.num_programs(2) - 1))
    def end() -> None:
        dk_ref[...] = (dk_sum_ref[...] * scale).astype(dk_ref.dtype)
        dv_ref[...] = dv_sum_ref[...].astype(dv_ref.dtype)
