# SPDX-License-Identifier: Apache-2.0
"""Has a response being sampled gone into a loop that will be judged repetition anyway?

A text that repeats its last p tokens for n more consists of n / p + 1 periods. If a token is at least a character, a
period has at least p, and some substring of `length` characters occurs `times` times as soon as
n >= (times - 2) p + length: the rule of rewards/penalties.py. So nothing is stopped that would not be flagged, and the
sampler need not know characters. Where a token is less than a character, what is stopped is overlong at least.

Axes: B lanes, p periods looked for, of 1, 2, ..., p tokens.
Deliberately not here: what a stopped response is worth (advantages.py), texts (rewards/penalties.py).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Rule(NamedTuple):
    """What is too much."""

    longest: int  # p, longest period that is looked for, tokens
    length: int  # characters of a substring
    times: int  # occurrences of it


@struct.dataclass
class Repeats:
    """What a lane remembers of its response."""

    last_Bp: jax.Array  # int32 the last p tokens, the newest first; -1: none
    run_Bp: jax.Array  # int32 so many of the last tokens are each the same as that one period before


def none(lanes: int, rule: Rule) -> Repeats:
    """Of responses not begun yet."""
    shape = (lanes, rule.longest)
    return Repeats(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, jnp.int32))


def after(repeats: Repeats, token_B: jax.Array) -> Repeats:
    """With one more token."""
    run_Bp = jnp.where(repeats.last_Bp == token_B[:, None], repeats.run_Bp + 1, 0)
    return Repeats(jnp.concatenate([token_B[:, None], repeats.last_Bp[:, :-1]], axis=1), run_Bp)


def too_many(repeats: Repeats, rule: Rule) -> jax.Array:
    """bool[B]: some substring of `rule.length` characters occurs at least `rule.times` times already."""
    period_p = 1 + jnp.arange(rule.longest)
    return jnp.any(repeats.run_Bp >= ((rule.times - 2) * period_p + rule.length)[None], axis=1)
