# SPDX-License-Identifier: Apache-2.0
"""What lanes draw, a row an iteration, and the responses that are read from it in the end.

Where each response begins in the log, how long it is and which lane it is on are known, so one gather puts the
responses in order. lanes.py has an example.

Axes: P prompts, R responses per prompt, B lanes, or responses, T response positions, V vocabulary, N iterations; X
groups of lanes (prompts, then shards) with M lanes and Q responses.
Deliberately not here: which lane draws what (lanes.py).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from t1jax.model import qwen
from t1jax.types import Rollouts


@struct.dataclass
class Text:
    """A response, as the log has it: of each lane the one it is at, or of each response."""

    begin: jax.Array  # int32 row of the log at which the response's token 0 stands, or would: may be below 0
    first: jax.Array  # int32 its first token in this log
    length: jax.Array  # int32 tokens drawn; of a response that is not in this log: 0
    stopped: jax.Array  # bool drew a stop token


@struct.dataclass
class Log:
    """What was drawn."""

    token_NB: jax.Array
    logprob_NB: jax.Array
    entropy_NB: jax.Array

    def put(self, row: jax.Array, *values_B: jax.Array) -> Log:
        """With this row set."""
        logs = (self.token_NB, self.logprob_NB, self.entropy_NB)
        put = jax.lax.dynamic_update_index_in_dim
        return Log(*(put(log, value, row, 0) for log, value in zip(logs, values_B, strict=True)))


def empty_log(model: qwen.Transformer, N: int, B: int) -> Log:
    """Room for N iterations: R responses of T tokens on G lanes take (R - 1) * T / G + T at most."""
    dtypes = (jnp.int32, jnp.float32, jnp.float32)
    return Log(*(model.layout.constrain(jnp.zeros((N, B), dtype), None, "batch") for dtype in dtypes))


def empty_rollouts(model: qwen.Transformer, B: int, T: int) -> Rollouts:
    def rows(dtype: Any, *axes: int) -> jax.Array:
        return model.layout.constrain(jnp.zeros((B, *axes), dtype), "batch", *(None for _ in axes))

    return Rollouts(rows(jnp.int32, T), rows(bool, T), rows(jnp.float32, T), rows(jnp.float32, T), rows(bool))


def hand_in(
    known: tuple[Text, jax.Array], text: Text, which_B: jax.Array, response_B: jax.Array
) -> tuple[Text, jax.Array]:
    """What is known of each group's responses, [X, Q], with the texts of some lanes; and on which lane they are."""
    X, Q = known[1].shape
    here_XQM = which_B.reshape(X, 1, -1) & (response_B.reshape(X, 1, -1) == jnp.arange(Q)[None, :, None])
    found_XQ = jnp.any(here_XQM, axis=-1)

    def one(old_XQ: jax.Array, new_B: jax.Array) -> jax.Array:
        new_XQ = jnp.sum(jnp.where(here_XQM, new_B.reshape(X, 1, -1).astype(jnp.int32), 0), axis=-1)
        return jnp.where(found_XQ, new_XQ.astype(old_XQ.dtype), old_XQ)

    lane_B = jnp.tile(jnp.arange(here_XQM.shape[-1]), X)
    return jax.tree.map(one, known, (text, lane_B))


def gather(done: Rollouts, log: Log, text: Text, lane_XQ: jax.Array) -> Rollouts:
    """The responses with what the log has of them: their texts, [X, Q], and the lane in its group of each."""
    B, T = done.tokens_BT.shape
    X = len(lane_XQ)
    t_T = jnp.arange(T)[None, None]
    here_BT = ((t_T >= text.first[..., None]) & (t_T < text.length[..., None])).reshape(B, T)
    row_XQT = text.begin[..., None] + t_T

    def put(old_BT: jax.Array, log_NB: jax.Array) -> jax.Array:
        log_XNM = log_NB.reshape(len(log_NB), X, -1).swapaxes(0, 1)
        new_XQT = jax.vmap(lambda log, row, lane: log.at[row, lane[:, None]].get(mode="clip"))(
            log_XNM, row_XQT, lane_XQ
        )
        return jnp.where(here_BT, new_XQT.reshape(B, T), old_BT)

    return Rollouts(
        tokens_BT=put(done.tokens_BT, log.token_NB),
        sampled_BT=done.sampled_BT | here_BT,
        logprob_BT=put(done.logprob_BT, log.logprob_NB),
        entropy_BT=put(done.entropy_BT, log.entropy_NB),
        stopped_B=done.stopped_B | text.stopped.reshape(B),
    )
