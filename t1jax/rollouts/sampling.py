# SPDX-License-Identifier: Apache-2.0
"""Logits -> a token, its log-probability and the entropy, from one uniform number per row.

Inverse-CDF sampling on two levels: first the block of the vocabulary, then the token in it. This needs one pass over
the vocabulary and no sort, and its sums are short enough to be accurate in float32 at 152k tokens. Devices that hold
parts of the vocabulary exchange the sums of blocks, and the one block that was drawn from. Log-probability and entropy
are those of softmax(logits / temperature), before truncation and bans, so that the ratio of learner to sampler is 1 up
to rounding.

Axes: B rows, V vocabulary; n blocks of the vocabulary, w tokens of a block; e entries, which are blocks or tokens.
Source: temperature 1.2 and min-p, T1 (arXiv 2501.11651) section 2; nucleus, arXiv 1904.09751; min-p, arXiv 2407.01082.
Deliberately not here: where the uniform numbers come from (rng.py), the loop over tokens (decode.py).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from t1jax.devices.sharding import Layout

BLOCK = 512  # largest number of tokens in one cumulative sum


@struct.dataclass
class SamplingSettings:
    """How to draw. Truncations apply in the order of the fields, each to what the previous one left."""

    temperature: jax.Array  # float32[] divides the logits; 0: greedy
    top_k: int = struct.field(pytree_node=False, default=0)  # keep the k most likely tokens, including ties; 0: off
    top_p: float = struct.field(pytree_node=False, default=1.0)  # keep the most likely tokens up to this mass; 1: off
    min_p: float = struct.field(pytree_node=False, default=0.0)  # drop tokens below this share of the highest p; 0: off


def sample(
    logits_BV: jax.Array,
    uniform_B: jax.Array,
    settings: SamplingSettings,
    banned_BV: jax.Array | None = None,
    layout: Layout | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(token int32[B], its log-probability float32[B], entropy float32[B] in nats).

    token = the first v for which the sum of p up to v exceeds uniform; p = softmax(logits / temperature), truncated and
    renormalised. Log-probability and entropy are those of p before truncation and bans. With temperature 0, the most
    likely token, and p at temperature 1.

    Args:
      logits_BV: float32, may contain -inf.
      uniform_B: float32 in [0, 1).
      settings: temperature and truncation.
      banned_BV: bool, True: must not be drawn; at least one token per row must be allowed.
      layout: by which rows and vocabulary are split; it changes no token. None: they are on one device.

    Raises:
      ValueError: top_k, top_p or min_p is out of range.
    """
    _check(settings)
    greedy = settings.temperature == 0
    z_BV = logits_BV.astype(jnp.float32) / jnp.where(greedy, 1.0, settings.temperature)
    z_BV = z_BV - jnp.max(z_BV, axis=-1, keepdims=True)
    mass_BV = jnp.exp(z_BV)
    total_B = jnp.sum(mass_BV, axis=-1)
    entropy_B = jnp.log(total_B) - jnp.sum(jnp.where(mass_BV > 0, mass_BV * z_BV, 0), axis=-1) / total_B

    if banned_BV is not None:
        mass_BV = jnp.where(banned_BV, 0, mass_BV)
    kept_BV = _cut(mass_BV, settings)
    greedy_B = _first(mass_BV == jnp.max(mass_BV, axis=-1, keepdims=True))
    V = logits_BV.shape[1]
    if layout is None or layout.parts("vocab") == 1 or V // layout.parts("vocab") < BLOCK:
        token_B = jnp.where(greedy, greedy_B, _draw(kept_BV, uniform_B))
        own_B = jnp.take_along_axis(z_BV, token_B[:, None], axis=-1)[:, 0]
    else:
        token_B = jnp.where(greedy, greedy_B, _draw_split(layout, kept_BV, uniform_B))
        own_B = jnp.sum(jnp.where(jnp.arange(V)[None] == token_B[:, None], z_BV, 0), axis=-1)  # on its device
    return token_B, own_B - jnp.log(total_B), entropy_B


def _check(settings: SamplingSettings) -> None:
    """ValueError for a setting that could drop every token."""
    if settings.top_k < 0:
        raise ValueError(f"top_k = {settings.top_k}: expected 0 (off) or the number of tokens to keep")
    if not 0 < settings.top_p <= 1:
        raise ValueError(f"top_p = {settings.top_p}: expected a mass in (0, 1], 1 for off")
    if not 0 <= settings.min_p <= 1:
        raise ValueError(f"min_p = {settings.min_p}: expected a share in [0, 1], 0 for off")


def _cut(mass_BV: jax.Array, settings: SamplingSettings) -> jax.Array:
    """`mass_BV` with 0 for every token that top-k, top-p or min-p drops."""
    if 0 < settings.top_k < mass_BV.shape[-1]:
        keep_BV = _most_likely(mass_BV, lambda keep_BV: jnp.sum(keep_BV, axis=-1) >= settings.top_k)
        mass_BV = jnp.where(keep_BV, mass_BV, 0)
    if settings.top_p < 1:
        goal_B = settings.top_p * jnp.sum(mass_BV, axis=-1)
        keep_BV = _most_likely(mass_BV, lambda keep_BV: jnp.sum(jnp.where(keep_BV, mass_BV, 0), axis=-1) >= goal_B)
        mass_BV = jnp.where(keep_BV, mass_BV, 0)
    if settings.min_p > 0:
        floor_B = settings.min_p * jnp.max(mass_BV, axis=-1)
        mass_BV = jnp.where(mass_BV >= floor_B[:, None], mass_BV, 0)
    return mass_BV


def _most_likely(mass_BV: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """bool[B, V]: the smallest set of most likely tokens that is `enough`, including ties; without sorting.

    Non-negative floats have the same order as their bits read as integers. So this is a binary search for the highest
    threshold that keeps enough tokens, one bit at a time, from the highest.
    """
    bits_BV = jax.lax.bitcast_convert_type(mass_BV, jnp.int32)

    def set_bit(i: jax.Array, threshold_B: jax.Array) -> jax.Array:
        higher_B = threshold_B | jnp.left_shift(1, 30 - i)
        return jnp.where(enough(bits_BV >= higher_B[:, None]), higher_B, threshold_B)

    threshold_B = jax.lax.fori_loop(0, 31, set_bit, jnp.zeros(mass_BV.shape[0], jnp.int32))
    return bits_BV >= threshold_B[:, None]


def _draw(mass_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """int32[B]: draws token v with probability mass[v] / sum(mass), by inverse CDF."""
    B, V = mass_BV.shape
    width = min(V, BLOCK)
    mass_Bnw = jnp.pad(mass_BV, ((0, 0), (0, -V % width))).reshape(B, -1, width)
    sum_Bn = jnp.sum(mass_Bnw, axis=-1)
    block_B, rest_B = _pick(sum_Bn, uniform_B * jnp.sum(sum_Bn, axis=-1))
    block_Bw = jnp.take_along_axis(mass_Bnw, block_B[:, None, None], axis=1)[:, 0]
    token_B, _ = _pick(block_Bw, rest_B)
    return block_B * width + token_B


def _draw_split(layout: Layout, mass_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """`_draw`, bit for bit, of a vocabulary that is split: a device adds up the blocks that begin in its part.

    A block that goes on in the next part, which is no shorter than a block, is completed from there. Each device then
    has the sums of all blocks, and the tokens of the one that is drawn from.
    """
    (axis,) = layout.spec("vocab")
    parts, V = layout.parts("vocab"), mass_BV.shape[1]
    width, local = min(V, BLOCK), V // layout.parts("vocab")
    blocks, most = -(-V // width), -(-local // width)  # of all, and the most that begin in a part

    def draw(mass_Bv: jax.Array, uniform_B: jax.Array) -> jax.Array:
        B, index = mass_Bv.shape[0], jax.lax.axis_index(axis)
        begin = -(-index * local // width)  # the first block that begins here
        next_Bw = jax.lax.ppermute(mass_Bv[:, :width], axis, [(i, (i - 1) % parts) for i in range(parts)])
        x_Bv = jnp.concatenate([mass_Bv, next_Bw], axis=1)
        x_Bv = jnp.pad(x_Bv, ((0, 0), (0, (most + 1) * width)))
        x_Bv = jax.lax.dynamic_slice(x_Bv, (0, begin * width - index * local), (B, most * width))
        token_v = begin * width + jnp.arange(most * width)
        ends = jnp.minimum(-(-(index + 1) * local // width) * width, V)  # where the next part's first block begins
        mass_Bnw = jnp.where((token_v < ends)[None], x_Bv, 0).reshape(B, most, width)

        def everywhere(here_Bn: jax.Array) -> jax.Array:  # each block is of one device; elsewhere it is 0
            all_Bn = jnp.zeros((B, blocks + most), here_Bn.dtype)
            return jax.lax.psum(jax.lax.dynamic_update_slice(all_Bn, here_Bn, (0, begin)), axis)[:, :blocks]

        sum_Bn = everywhere(jnp.sum(mass_Bnw, axis=-1))
        block_B, rest_B = _pick(sum_Bn, uniform_B * jnp.sum(sum_Bn, axis=-1))
        here_B = block_B - begin
        block_Bw = jnp.take_along_axis(mass_Bnw, jnp.clip(here_B, 0, most - 1)[:, None, None], axis=1)[:, 0]
        block_Bw = jax.lax.psum(jnp.where(((here_B >= 0) & (here_B < most))[:, None], block_Bw, 0), axis)
        token_B, _ = _pick(block_Bw, rest_B)
        return block_B * width + token_B

    specs = (layout.spec("batch", "vocab"), layout.spec("batch"))
    split = jax.shard_map(draw, mesh=layout.mesh, in_specs=specs, out_specs=layout.spec("batch"), check_vma=False)
    return split(mass_BV, uniform_B)


def _pick(mass_Be: jax.Array, point_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first entry whose cumulative sum exceeds `point_B`, and how far into that entry the point is.

    Never an entry without mass. If rounding put the point beyond the total, the last entry with mass.
    """
    entry_e = jnp.arange(mass_Be.shape[-1])[None, :]
    running_Be = jnp.cumsum(mass_Be, axis=-1)
    first_B = _first((running_Be > point_B[:, None]) & (mass_Be > 0))
    last_B = jnp.max(jnp.where(mass_Be > 0, entry_e, 0), axis=-1)
    entry_B = jnp.minimum(first_B, last_B)
    before_B = jnp.take_along_axis(running_Be - mass_Be, entry_B[:, None], axis=-1)[:, 0]
    return entry_B, jnp.maximum(point_B - before_B, 0)


def _first(true_Be: jax.Array) -> jax.Array:
    """int32[B]: index of the first True of each row, e if there is none. On CPUs 3 times as fast as argmax."""
    e = true_Be.shape[-1]
    return jnp.min(jnp.where(true_Be, jnp.arange(e, dtype=jnp.int32)[None, :], e), axis=-1)
