# SPDX-License-Identifier: Apache-2.0
"""Attention within the texts of a row, tile by tile; tiles that are masked out completely are skipped.

A row is split into blocks of positions. The blocks of keys that a block of queries needs follow from the ranges of
segments and their parents; the list is computed once for all layers. Scores exist for one tile at a time, forward and
backward, so memory and time grow with the texts, not with the square of the row length.

Axes: B rows, T positions, N query heads, K kv heads, G = N // K, H head dim, n blocks of S positions in a row,
A = B * n, c blocks of queries at a time, Q = G * S.
Source: FlashAttention-2, arXiv 2307.08691: online softmax, and a backward pass that recomputes the weights.
Deliberately not here: which kernel is used when (attention.py), the sampler's cache (ring.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from t1jax.devices import scopes
from t1jax.model.precision import einsum, level, rounded

BLOCK = 64  # S; half of 128: fewer pairs of tokens in a tile that need not meet
GROUP = 8  # c; CPUs split the work on scores over their cores only where there are several tiles of them
SAVED = "saved"  # name of what a kernel's backward needs besides its inputs, for remat policies


class Tiles(NamedTuple):
    """Which tokens attend which, and which tiles hold such a pair."""

    segment_BT: jax.Array  # int32, 0: padding
    parent_BT: jax.Array  # int32, the segment that a token attends besides its own
    keys_Bnn: jax.Array  # int32, of each block of queries the blocks of keys of its row that it needs, then others
    count_Bn: jax.Array  # int32, how many it needs


def tiles(segment_BT: jax.Array, parent_BT: jax.Array) -> Tiles:
    """The tiles of rows of any length. Token i attends j <= i if segment_j > 0 is segment_i or parent_i."""
    pad = -segment_BT.shape[1] % BLOCK
    segment_BT, parent_BT = (jnp.pad(x, ((0, 0), (0, pad))) for x in (segment_BT, parent_BT))
    parent_BT = jnp.where(segment_BT > 0, parent_BT, 0)
    return Tiles(segment_BT, parent_BT, *listed(needed(segment_BT, parent_BT, BLOCK, BLOCK)))


def needed(segment_BT: jax.Array, parent_BT: jax.Array, queries: int, keys: int) -> jax.Array:
    """bool[B, T / queries, T / keys]: whether a block of so many queries needs a block of so many keys.

    A block may be needed that turns out to hold no token to attend: ranges of segments are compared, which is exact
    where their numbers rise along the row. Padding is segment 0 and has parent 0. T is a multiple of both sizes.
    """

    def ranges(x_BT: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        x_BnS = x_BT.reshape(len(x_BT), -1, size)
        return jnp.where(x_BnS > 0, x_BnS, 2**31 - 1).min(-1), x_BnS.max(-1)

    low_Bn, high_Bn = ranges(segment_BT, keys)

    def meets(query: tuple[jax.Array, jax.Array]) -> jax.Array:
        return (query[0][:, :, None] <= high_Bn[:, None]) & (low_Bn[:, None] <= query[1][:, :, None])

    last, first = (jnp.arange(segment_BT.shape[1] // size) * size for size in (queries, keys))
    ahead = last[:, None] + queries - 1 >= first[None]
    return (meets(ranges(segment_BT, queries)) | meets(ranges(parent_BT, queries))) & ahead[None]


def listed(needed_Bnn: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The numbers of those needed in each last axis, then others, int32[B, n, n]; how many are needed, int32[B, n]."""
    order_Bnn = jnp.argsort(~needed_Bnn, axis=-1, stable=True).astype(jnp.int32)
    return order_Bnn, needed_Bnn.sum(-1, dtype=jnp.int32)


def attend(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, where: Tiles) -> jax.Array:
    """softmax(q k^T / sqrt(H)) v over what a token attends, [B, N, T, H]; 0 for padding, of which nothing is read.

    Scores and softmax are float32; weights are cast to the dtype of v for the product with it.
    """
    arrays = (cleared(x, where.segment_BT) for x in (q_BNTH, k_BKTH, v_BKTH))
    return _attend(*arrays, where)[:, :, : q_BNTH.shape[2]]


def cleared(x: jax.Array, segment: jax.Array) -> jax.Array:
    """`x` [B, N, T, H] with 0 for padding, as long as `segment` [B, T or more], where that is 0: it is never read."""
    x = jnp.pad(x, ((0, 0), (0, 0), (0, segment.shape[1] - x.shape[2]), (0, 0)))
    return jnp.where(segment[:, None, :, None] > 0, x, jnp.zeros((), x.dtype))


@jax.custom_vjp
def _attend(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, where: Tiles) -> jax.Array:
    return _forward(q_BNTH, k_BKTH, v_BKTH, where)[0]


def _blocks(x_BNTH: jax.Array, K: int) -> jax.Array:
    """[A, K, G * S, H]: the heads that share keys stand in one matrix."""
    B, N, T, H = x_BNTH.shape
    x_BKGnSH = x_BNTH.reshape(B, K, N // K, T // BLOCK, BLOCK, H)
    return x_BKGnSH.transpose(0, 3, 1, 2, 4, 5).reshape(-1, K, N // K * BLOCK, H)


def _unblocks(x_AKQH: jax.Array, B: int) -> jax.Array:
    """[B, N, T, H], what `_blocks` was given."""
    A, K, Q, H = x_AKQH.shape
    x_BKGnSH = x_AKQH.reshape(B, A // B, K, Q // BLOCK, BLOCK, H).transpose(0, 2, 3, 1, 4, 5)
    return x_BKGnSH.reshape(B, K * (Q // BLOCK), A // B * BLOCK, H)


def _groups(where: Tiles, blocks: Any) -> tuple[jax.Array, ...]:
    """[A / c, c, ...]: the blocks' numbers, and `blocks` [A, ...]; those added to fill a group repeat block 0."""
    A = where.count_Bn.size
    number_A = jnp.where(jnp.arange(A + -A % GROUP) < A, jnp.arange(A + -A % GROUP), 0).reshape(-1, GROUP)
    return number_A, *(x[number_A] for x in blocks)


class _Tile(NamedTuple):
    """The t-th tile of each block of queries of a group."""

    keys_c: jax.Array  # int32, which block of all A
    seen_cSS: jax.Array  # bool, which keys a query attends; queries first


def _tile(where: Tiles, i_c: jax.Array, t: jax.Array) -> _Tile:
    B, n = where.count_Bn.shape
    segment_AS, parent_AS = (x.reshape(-1, BLOCK) for x in (where.segment_BT, where.parent_BT))
    j_c = where.keys_Bnn.reshape(B * n, n)[i_c, t]
    keys_c = i_c // n * n + j_c
    key_cS = segment_AS[keys_c][:, None]
    seen_cSS = (key_cS > 0) & ((key_cS == segment_AS[i_c][..., None]) | (key_cS == parent_AS[i_c][..., None]))
    ahead_c = (i_c % n - j_c) * BLOCK  # how far the queries stand after the keys
    key_S = jnp.arange(BLOCK)
    seen_cSS &= (key_S[None] - key_S[:, None])[None] <= ahead_c[:, None, None]
    return _Tile(keys_c, seen_cSS & (t < where.count_Bn.reshape(-1)[i_c])[:, None, None])


def _scores(q_cKQH: jax.Array, k_cKSH: jax.Array, tile: _Tile) -> jax.Array:
    """float32[c, K, Q, S]; -1e30 where a query does not attend a key."""
    s_cKQS = einsum("cKQH,cKSH->cKQS", q_cKQH, k_cKSH) * k_cKSH.shape[-1] ** -0.5
    c, K, Q, S = s_cKQS.shape
    seen_cKGSS = tile.seen_cSS[:, None, None]
    return jnp.where(seen_cKGSS, s_cKQS.reshape(c, K, Q // S, S, S), -1e30).reshape(c, K, Q, S)


def _forward(q_BNTH: jax.Array, k_BKTH: jax.Array, v_BKTH: jax.Array, where: Tiles) -> Any:
    """The output, and what the backward needs: also the logarithm of each softmax's divisor, 1e30 where that is 0."""
    B, K = k_BKTH.shape[:2]
    q_AKQH, k_AKSH, v_AKSH = (_blocks(x, K) for x in (q_BNTH, k_BKTH, v_BKTH))

    def one_group(group: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        i_c, q_cKQH = group

        def one_tile(t: jax.Array, so_far: Any) -> Any:
            highest_cKQ, total_cKQ, out_cKQH = so_far
            tile = _tile(where, i_c, t)
            s_cKQS = _scores(q_cKQH, k_AKSH[tile.keys_c], tile)
            higher_cKQ = jnp.maximum(highest_cKQ, level(s_cKQS.max(-1), v_AKSH.dtype))
            w_cKQS, less_cKQ = jnp.exp(s_cKQS - higher_cKQ[..., None]), jnp.exp(highest_cKQ - higher_cKQ)
            o_cKQH = einsum("cKQS,cKSH->cKQH", rounded(w_cKQS, v_AKSH.dtype), v_AKSH[tile.keys_c])
            return higher_cKQ, total_cKQ * less_cKQ + w_cKQS.sum(-1), out_cKQH * less_cKQ[..., None] + o_cKQH

        # -1e29 is above what is masked, so that masked keys weigh nothing even before the first that is seen
        zero_cKQ = jnp.zeros(q_cKQH.shape[:3], jnp.float32)
        start = (zero_cKQ - 1e29, zero_cKQ, jnp.zeros(q_cKQH.shape, jnp.float32))
        count = where.count_Bn.reshape(-1)[i_c].max()
        with jax.named_scope(scopes.TILES):
            highest_cKQ, total_cKQ, out_cKQH = jax.lax.fori_loop(0, count, one_tile, start)
        total_cKQ, lse_cKQ = (
            jnp.where(total_cKQ > 0, total_cKQ, 1.0),
            jnp.where(total_cKQ > 0, highest_cKQ + jnp.log(total_cKQ), 1e30),
        )
        return rounded(out_cKQH / total_cKQ[..., None], q_cKQH.dtype), lse_cKQ

    A = len(q_AKQH)
    out, lse = jax.lax.map(one_group, _groups(where, (q_AKQH,)))
    out_AKQH, lse_AKQ = (x.reshape(-1, *x.shape[2:])[:A] for x in (out, lse))
    out_BNTH, lse_AKQ = checkpoint_name(_unblocks(out_AKQH, B), SAVED), checkpoint_name(lse_AKQ, SAVED)
    return out_BNTH, (q_BNTH, k_BKTH, v_BKTH, where, out_BNTH, lse_AKQ)


def _backward(saved: Any, dout_BNTH: jax.Array) -> Any:
    q_BNTH, k_BKTH, v_BKTH, where, out_BNTH, lse_AKQ = saved
    B, K, _, H = k_BKTH.shape
    q_AKQH, k_AKSH, v_AKSH, dout_AKQH = (_blocks(x, K) for x in (q_BNTH, k_BKTH, v_BKTH, dout_BNTH))
    own_BNT = jnp.sum(dout_BNTH.astype(jnp.float32) * out_BNTH.astype(jnp.float32), axis=-1)
    own_AKQ = _blocks(own_BNT[..., None], K)[..., 0]
    A = len(q_AKQH)

    def one_group(dkv: Any, group: Any) -> Any:
        i_c, q_cKQH, dout_cKQH, lse_cKQ, own_cKQ, real_c = group

        def one_tile(t: jax.Array, so_far: Any) -> Any:
            dq_cKQH, dk_AKSH, dv_AKSH = so_far
            tile = _tile(where, i_c, t)
            k_cKSH, v_cKSH = k_AKSH[tile.keys_c], v_AKSH[tile.keys_c]
            w_cKQS = jnp.exp(_scores(q_cKQH, k_cKSH, tile) - lse_cKQ[..., None]) * real_c[:, None, None, None]
            dw_cKQS = einsum("cKQH,cKSH->cKQS", dout_cKQH, v_cKSH)
            ds_cKQS = rounded(w_cKQS * (dw_cKQS - own_cKQ[..., None]) * H**-0.5, q_cKQH.dtype)
            dq_cKQH = dq_cKQH + einsum("cKQS,cKSH->cKQH", ds_cKQS, k_cKSH)
            dk_cKSH = einsum("cKQS,cKQH->cKSH", ds_cKQS, q_cKQH)
            dv_cKSH = einsum("cKQS,cKQH->cKSH", rounded(w_cKQS, dout_cKQH.dtype), dout_cKQH)
            for x in range(GROUP):  # two of the group may need the same keys
                dk_AKSH = dk_AKSH.at[tile.keys_c[x]].add(dk_cKSH[x])
                dv_AKSH = dv_AKSH.at[tile.keys_c[x]].add(dv_cKSH[x])
            return dq_cKQH, dk_AKSH, dv_AKSH

        start = (jnp.zeros(q_cKQH.shape, jnp.float32), *dkv)
        with jax.named_scope(scopes.TILES):
            dq_cKQH, *dkv = jax.lax.fori_loop(0, where.count_Bn.reshape(-1)[i_c].max(), one_tile, start)
        return tuple(dkv), dq_cKQH

    zero_AKSH = jnp.zeros(k_AKSH.shape, jnp.float32)
    groups = _groups(where, (q_AKQH, dout_AKQH, lse_AKQ, own_AKQ))
    real_c = (jnp.arange(groups[0].size) < A).astype(jnp.float32).reshape(-1, GROUP)
    (dk_AKSH, dv_AKSH), dq = jax.lax.scan(one_group, (zero_AKSH, zero_AKSH), (*groups, real_c))
    grads = zip((dq.reshape(-1, *dq.shape[2:])[:A], dk_AKSH, dv_AKSH), (q_BNTH, k_BKTH, v_BKTH), strict=True)
    return *(_unblocks(d, B).astype(x.dtype) for d, x in grads), None


_attend.defvjp(_forward, _backward)
