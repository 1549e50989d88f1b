# SPDX-License-Identifier: Apache-2.0
"""Logits -> a token, its log-probability and the entropy, from one uniform number per row.

Inverse-CDF sampling on two levels: first the block of the vocabulary, then the token in it. This needs one pass over
the vocabulary and no sort, and its sums are short enough to be accurate in float32 at 152k tokens. Log-probability and
entropy are those of softmax(logits / temperature), before truncation and bans, so that the ratio of learner to sampler
is 1 up to rounding.

Axes: B rows, V vocabulary; n blocks of the vocabulary, w tokens of a block; e entries, which are blocks or tokens.
Source: temperature 1.2 and min-p, T1 (arXiv 2501.11651) section 2; nucleus, arXiv 1904.09751; min-p, arXiv 2407.01082.
Deliberately not here: where the uniform numbers come from (rng.py), the loop over tokens (decode.py).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

BLOCK = 512  # largest number of tokens in one cumulative sum


@struct.dataclass
class SamplingSettings:
    """How to draw. Truncations apply in the order of the fields, each to what the previous one left."""

    temperature: jax.Array  # float32[] divides the logits; 0: greedy
    top_k: int = struct.field(pytree_node=False, default=0)  # keep the k most likely tokens, including ties; 0: off
    top_p: float = struct.field(pytree_node=False, default=1.0)  # keep the most likely tokens up to this mass; 1: off
    min_p: float = struct.field(pytree_node=False, default=0.0)  # drop tokens below this share of the highest p; 0: off


def sample(
    logits_BV: jax.Array, uniform_B: jax.Array, settings: SamplingSettings, banned_BV: jax.Array | None = None
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
    token_B = jnp.where(greedy, greedy_B, _draw(kept_BV, uniform_B))
    logprob_B = jnp.take_along_axis(z_BV, token_B[:, None], axis=-1)[:, 0] - jnp.log(total_B)
    return token_B, logprob_B, entropy_B


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
