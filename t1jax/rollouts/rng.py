# SPDX-License-Identifier: Apache-2.0
"""Random numbers by name: every stream is derived from one root key, independently of how rows are batched.

The sampler's number for a token is a function of (root, stream name, step, problem, response, position) alone. So a
response is the same alone or in a batch, with more or fewer siblings, on one device or many.

Axes: P prompts, R responses per prompt, B = P * R rows, row b = p * R + r.
Deliberately not here: what the numbers are used for (sampling.py).
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp


def key_for(root: jax.Array, name: str, step: int | jax.Array) -> jax.Array:
    """The key of stream `name` at `step`, independent of those of other names and steps."""
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def problem_keys(key: jax.Array, problem_P: jax.Array) -> jax.Array:
    """key[P], one for each problem.

    If a problem occurs several times in a batch, each occurrence gets a different key.
    """
    same_PP = problem_P[:, None] == problem_P[None, :]
    repeat_P = jnp.sum(jnp.tril(same_PP, -1), axis=1)
    named_P = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, problem_P)
    return response_keys(named_P, repeat_P)


def response_keys(problem_key_B: jax.Array, response_B: jax.Array) -> jax.Array:
    """key[B]: for each row, from its problem's key and the index of its response."""
    return jax.vmap(jax.random.fold_in)(problem_key_B, response_B)


def row_keys(key: jax.Array, problem_P: jax.Array, num_responses: int) -> jax.Array:
    """key[B], one for each (problem, response), in row order."""
    response_B = jnp.tile(jnp.arange(num_responses), len(problem_P))
    return response_keys(jnp.repeat(problem_keys(key, problem_P), num_responses), response_B)


def row_uniforms(row_key_B: jax.Array, position: int | jax.Array) -> jax.Array:
    """float32[B] in [0, 1): each row's number for the token at `position`, an int or int32[B]."""
    position_B = jnp.broadcast_to(position, row_key_B.shape)
    return jax.vmap(lambda k, t: jax.random.uniform(jax.random.fold_in(k, t)))(row_key_B, position_B)
