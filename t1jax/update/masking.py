# SPDX-License-Identifier: Apache-2.0
"""The only masked reductions in the house: sums and means over the places that count, whatever stands elsewhere.

Used by every stage from rewards to the report. Values where the mask is False are replaced BEFORE any arithmetic, so a
NaN there reaches neither a value nor a gradient. A mean is carried as (total, count): parts of a batch are added, and
the division happens once, globally.

Axes: any; `axis` says which are summed (None: all).
Deliberately not here: where masks come from (prompts/streams.py, rollouts/log.py), and what is averaged (advantages.py,
losses.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

Axis = int | tuple[int, ...] | None


def masked(x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` where `mask` is True, else exact zero; float32 or wider.

    Args:
      x: any shape and dtype; NaN and infinities are allowed where `mask` is False.
      mask: bool, the shape of `x`.

    Raises:
      ValueError: the shapes differ, or the mask is not bool.
    """
    if x.shape != mask.shape or mask.dtype != jnp.bool_:
        raise ValueError(
            f"got a mask {mask.dtype}{list(mask.shape)} for {list(x.shape)}: expected bool, the same shape"
        )
    x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    return jnp.where(mask, x, jnp.zeros_like(x))


def masked_sum(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
    """sum of `x` over the places where `mask` is True; 0 where there are none. Accumulated in float32 or wider."""
    return masked(x, mask).sum(axis)


@struct.dataclass
class Mean:
    """A mean that is not divided yet: parts add up to the mean of the whole, in any split."""

    total: jax.Array  # float32[...] sum over the places that count
    count: jax.Array  # float32[...] how many they are

    @classmethod
    def of(cls, x: jax.Array, mask: jax.Array, axis: Axis = None) -> Mean:
        """The mean of `x` over the True places of `mask`, along `axis`: axis=-1 of [P, R] gives one for each group."""
        return cls(masked_sum(x, mask, axis), mask.sum(axis, dtype=jnp.int32).astype(jnp.float32))

    def __add__(self, other: Mean) -> Mean:
        """The mean over the places of both."""
        return Mean(self.total + other.total, self.count + other.count)

    def value(self, empty: float = float("nan")) -> jax.Array:
        """total / count; `empty` where nothing counts (NaN: not meaningful). Its gradient is finite either way."""
        some = self.count > 0
        return jnp.where(some, self.total / jnp.where(some, self.count, 1.0), empty)
