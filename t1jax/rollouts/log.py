# SPDX-License-Identifier: Apache-2.0
"""The log of drawn tokens, one row per iteration, and the responses that are gathered from it at the end.

For each response its lane, first row and length are known, so one gather puts the responses in order. lanes.py has an
example.

Axes: B lanes or responses, T response positions, I iterations; g groups of lanes (the prompts; after
compacting, the shards), each with m lanes and r responses.
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
    """Where a response is in the log: for each lane its current response, or for each response."""

    begin: jax.Array  # int32 row of the log for the response's token 0; below 0 if that is in an earlier log
    first: jax.Array  # int32 index of its first token in this log
    length: jax.Array  # int32 tokens drawn so far; 0 if the response is not in this log
    stopped: jax.Array  # bool whether it drew a stop token


@struct.dataclass
class Log:
    """What the lanes drew."""

    token_IB: jax.Array  # int32
    logprob_IB: jax.Array  # float32, nats
    entropy_IB: jax.Array  # float32, nats
    route_IB: jax.Array | None  # uint32, as Rollouts have it

    def put(self, row: jax.Array, *values_B: Any) -> Log:
        """A log with this row set to (token, log-probability, entropy, route or None), [B] each."""
        put = jax.lax.dynamic_update_index_in_dim
        found: Log = jax.tree.map(lambda log, value: put(log, value, row, 0), self, Log(*values_B))
        return found


def empty_log(model: qwen.Transformer, iterations: int, B: int) -> Log:
    """An empty log. R responses of T tokens on m lanes take at most (R - 1) * T / m + T iterations."""

    def column(dtype: Any) -> jax.Array:
        return model.layout.constrain(jnp.zeros((iterations, B), dtype), None, "batch")

    route = column(jnp.uint32) if model.cfg.num_experts else None
    return Log(column(jnp.int32), column(jnp.float32), column(jnp.float32), route)


def empty_rollouts(model: qwen.Transformer, B: int, T: int) -> Rollouts:
    def rows(dtype: Any, *axes: int) -> jax.Array:
        return model.layout.constrain(jnp.zeros((B, *axes), dtype), "batch", *(None for _ in axes))

    route = rows(jnp.uint32, T) if model.cfg.num_experts else None
    return Rollouts(rows(jnp.int32, T), rows(bool, T), rows(jnp.float32, T), rows(jnp.float32, T), rows(bool), route)


def hand_in(
    known: tuple[Text, jax.Array], text: Text, which_B: jax.Array, response_B: jax.Array
) -> tuple[Text, jax.Array]:
    """Adds what the lanes in `which_B` hold to what is known of each group's responses.

    Args:
      known: the texts [g, r], and int32[g, r] the lane of the group that each response is on.
      text: of each lane's response, [B].
      which_B: bool, the lanes that hand in.
      response_B: int32, which of the group's responses a lane is at.
    """
    groups, responses = known[1].shape
    this_r = jnp.arange(responses)[None, :, None]
    here_grm = which_B.reshape(groups, 1, -1) & (response_B.reshape(groups, 1, -1) == this_r)
    found_gr = jnp.any(here_grm, axis=-1)

    def one(old_gr: jax.Array, new_B: jax.Array) -> jax.Array:
        new_gr = jnp.sum(jnp.where(here_grm, new_B.reshape(groups, 1, -1).astype(jnp.int32), 0), axis=-1)
        return jnp.where(found_gr, new_gr.astype(old_gr.dtype), old_gr)

    lane_B = jnp.tile(jnp.arange(here_grm.shape[-1]), groups)
    return jax.tree.map(one, known, (text, lane_B))


def gather(done: Rollouts, log: Log, text: Text, lane_gr: jax.Array) -> Rollouts:
    """`done` with the tokens that the log has: `text` [g, r] and `lane_gr` say where in it each response is."""
    B, T = done.tokens_BT.shape
    t_T = jnp.arange(T)[None, None]
    here_BT = ((t_T >= text.first[..., None]) & (t_T < text.length[..., None])).reshape(B, T)
    row_grT = text.begin[..., None] + t_T

    def put(old_BT: jax.Array, log_IB: jax.Array) -> jax.Array:
        log_gIm = log_IB.reshape(len(log_IB), len(lane_gr), -1).swapaxes(0, 1)
        new_grT = jax.vmap(lambda log, row, lane: log.at[row, lane[:, None]].get(mode="clip"))(
            log_gIm, row_grT, lane_gr
        )
        return jnp.where(here_BT, new_grT.reshape(B, T), old_BT)

    return Rollouts(
        tokens_BT=put(done.tokens_BT, log.token_IB),
        sampled_BT=done.sampled_BT | here_BT,
        logprob_BT=put(done.logprob_BT, log.logprob_IB),
        entropy_BT=put(done.entropy_BT, log.entropy_IB),
        stopped_B=done.stopped_B | text.stopped.reshape(B),
        route_BT=jax.tree.map(put, done.route_BT, log.route_IB),
    )
