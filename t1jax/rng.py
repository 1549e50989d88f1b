# SPDX-License-Identifier: Apache-2.0
"""Random numbers by name: every stream is derived from one root key, and none depends on how rows are batched.

The sampler's number for a token is a function of (root, stream name, step, problem, response, position) alone, so a
response is the same alone or in a batch, with more or fewer siblings, on one device or on many.

Axes: P prompts, R responses per prompt, B = P * R rows, row b = p * R + r.
Deliberately not here: what the numbers are used for (sampling.py).
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp


def key_for(root: jax.Array, name: str, step: int | jax.Array) -> jax.Array:
    """The key of stream `name` at `step`; other names and other steps give independent keys."""
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def row_keys(key: jax.Array, problem_P: jax.Array, num_responses: int) -> jax.Array:
    """key[B], one for each (problem, response).

    A problem that stands twice in a batch is told apart by how often it stood there before.
    """
    same_PP = problem_P[:, None] == problem_P[None, :]
    repeat_P = jnp.sum(jnp.tril(same_PP, -1), axis=1)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, 0))
    problem_key_P = fold_in(jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, problem_P), repeat_P)
    response_R = jnp.arange(num_responses)
    return jax.vmap(lambda k: jax.vmap(lambda r: jax.random.fold_in(k, r))(response_R))(problem_key_P).reshape(-1)


def row_uniforms(row_key_B: jax.Array, position: int | jax.Array) -> jax.Array:
    """float32[B] in [0, 1): each row's number for the token at `position` of its response."""
    return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, position)))(row_key_B)
