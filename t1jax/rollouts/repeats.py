# SPDX-License-Identifier: Apache-2.0
"""Detects a response that is stuck in a loop and would be penalised as repetitive in any case.

A text that repeats its last p tokens for n more tokens has n / p + 1 periods. If every token has at least one
character, a period has at least p characters, and some substring of `length` characters occurs `times` times as soon as
n >= (times - 2) p + length, which is the rule of rewards/penalties.py. So only responses that the penalty flags are
stopped, without decoding them. If tokens can be less than a character, a stopped response counts as overlong instead.

Axes: B lanes, p periods looked for, of 1, 2, ..., p tokens.
Deliberately not here: what a stopped response is worth (advantages.py), texts (rewards/penalties.py).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Rule(NamedTuple):
    """When a response counts as repetitive."""

    longest: int  # p, longest period that is detected, tokens
    length: int  # characters of a substring
    times: int  # occurrences of it


@struct.dataclass
class Repeats:
    """The state of the detector, per lane."""

    last_Bp: jax.Array  # int32 the last p tokens, newest first; -1: none yet
    run_Bp: jax.Array  # int32 how many of the last tokens equal the token one period before


def start(lanes: int, rule: Rule) -> Repeats:
    """The state before the first token."""
    shape = (lanes, rule.longest)
    return Repeats(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, jnp.int32))


def update(repeats: Repeats, token_B: jax.Array) -> Repeats:
    """The state after one more token, int32[B]."""
    run_Bp = jnp.where(repeats.last_Bp == token_B[:, None], repeats.run_Bp + 1, 0)
    return Repeats(jnp.concatenate([token_B[:, None], repeats.last_Bp[:, :-1]], axis=1), run_Bp)


def too_many(repeats: Repeats, rule: Rule) -> jax.Array:
    """bool[B]: whether some substring of `rule.length` characters occurs at least `rule.times` times."""
    period_p = 1 + jnp.arange(rule.longest)
    return jnp.any(repeats.run_Bp >= ((rule.times - 2) * period_p + rule.length)[None], axis=1)
