# SPDX-License-Identifier: Apache-2.0
"""The state of the token loop: how a lane starts its prompt's next response, and how the last lanes are compacted.

An example: one prompt, R = 3 responses of at most T = 4 tokens ("ab.", "wxyz", "k."), on m = 2 lanes.

    iteration = column of the ring = row of the log     0    1    2    3    4
    lane 0 draws                                        a    b    .    k    .
    lane 1 draws                                        w    x    y    z
    length of lane 0's own text after the iteration     1    2    3>0  1    2

At iteration 2 lane 0 draws the stop token: it hands in response 0 and starts response 2 in the same iteration, by
setting its length to 0 and its hidden state to the prompt's. No key moves: at iteration 4 lane 0 attends to the prompt
and to its last two columns, 3 and 4; earlier columns belong to response 0. Lane 1 ends at T; no response is left to
start, so it becomes idle. What is handed in is the place of a response in the log: response 0 starts at row 0 of lane 0
and has 3 tokens, response 1 at row 0 of lane 1 with 4, response 2 at row 3 of lane 0 with 2.

Axes: P prompts, R responses per prompt, m lanes per prompt, B lanes (lane i of prompt p is b = p * m + i), C prompt
positions, T response positions, D width; X shards of the batch with M lanes each; g groups of lanes (the
prompts; after compacting, the shards) with r responses each.
Deliberately not here: the loop and what it draws (decode.py), the log (log.py), keys and values (model/ring.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from t1jax.model import qwen, ring
from t1jax.rollouts import repeats, rng
from t1jax.rollouts.log import Log, Text, empty_log, gather, hand_in
from t1jax.types import KVCache, Params, Prompts, Rollouts

FEW = 8  # lanes per shard below which lanes are not compacted: each number of lanes is one more loop to compile


class Sizes(NamedTuple):
    """The sizes of a rollout."""

    responses: int  # R
    lanes: int  # m
    length: int  # T
    block: int  # columns of a block of the ring, at most


@struct.dataclass
class Starts:
    """What a lane needs to start a response, for each prompt."""

    problem_key_P: jax.Array  # key[P]
    hidden_PD: jax.Array  # hidden state after the prompt
    route_P: jax.Array | None  # uint32 its route
    token_P: jax.Array  # int32 the prompt's last token


@struct.dataclass
class Lanes:
    """The carry of the token loop."""

    cache: KVCache
    key_B: jax.Array  # random key of the response
    start_B: jax.Array  # int32 tokens of the prompt
    hidden_BD: jax.Array  # hidden state that predicts the next token
    route_B: jax.Array | None  # uint32 its route through the experts, if there are any
    token_B: jax.Array  # int32 the last token: of the prompt, then of the response
    live_B: jax.Array  # bool
    response_B: jax.Array  # int32 which of the group's r responses
    text: Text  # [B]
    repeats: repeats.Repeats | None  # None: repetitive responses are not stopped
    log: Log
    row: jax.Array  # int32[] the log's next row
    next_P: jax.Array | None  # int32[P] the response to start next; None: all have started
    handed_in: tuple[Text, jax.Array] | None  # [P, R], and lane int32[P, R]: responses handed in
    groups: int = struct.field(pytree_node=False)  # g, of lanes and of responses


def begin(
    model: qwen.Transformer, params: Params, prompts: Prompts, key: jax.Array, sizes: Sizes, rule: repeats.Rule | None
) -> tuple[Starts, Lanes]:
    """Runs the prompts through the model, and makes lanes that start their first responses."""
    R, m, T, block = sizes
    problem_key_P = rng.problem_keys(key, prompts.problem_P)
    P, B = len(problem_key_P), len(problem_key_P) * m
    tokens_PC = jnp.where(prompts.valid_PC, prompts.tokens_PC, 0)
    hidden_PCD, prompt_kv, route_PC = qwen.prefill(model, params, tokens_PC, prompts.valid_PC)
    start_P = jnp.sum(prompts.valid_PC, axis=-1, dtype=jnp.int32)
    route_P = jax.tree.map(lambda x_PC: jnp.take_along_axis(x_PC, start_P[:, None] - 1, axis=1)[:, 0], route_PC)
    hidden_PD = jnp.take_along_axis(hidden_PCD, start_P[:, None, None] - 1, axis=1)[:, 0]
    token_P = jnp.take_along_axis(tokens_PC, start_P[:, None] - 1, axis=1)[:, 0]

    def per_lane(dtype: Any = jnp.int32) -> jax.Array:
        return model.layout.constrain(jnp.zeros(B, dtype), "batch")

    def per_response(dtype: Any = jnp.int32) -> jax.Array:
        return model.layout.constrain(jnp.zeros((P, R), dtype), "batch", None)

    def text(zeros: Callable[..., jax.Array]) -> Text:
        return Text(zeros(), zeros(), zeros(), zeros(bool))

    response_B = per_lane() + jnp.tile(jnp.arange(m), P)
    more = m < R
    lanes = Lanes(
        cache=ring.start(model.cfg, model.layout, prompt_kv, prompts.valid_PC, lanes=B, length=T, block=block),
        key_B=rng.response_keys(jnp.repeat(problem_key_P, m), response_B),
        start_B=jnp.repeat(start_P, m),
        hidden_BD=jnp.repeat(hidden_PD, m, axis=0),
        route_B=jax.tree.map(lambda x_P: jnp.repeat(x_P, m), route_P),
        token_B=jnp.repeat(token_P, m),
        live_B=~per_lane(bool),
        response_B=response_B,
        text=text(per_lane),
        repeats=None if rule is None else repeats.start(B, rule),
        log=empty_log(model, (R - 1) * T // m + T if more else T, B),
        row=jnp.int32(0),
        next_P=jnp.full(P, m, jnp.int32) if more else None,
        handed_in=(text(per_response), per_response()) if more else None,
        groups=P,
    )
    return Starts(problem_key_P, hidden_PD, route_P, token_P), lanes


def take_next(lanes: Lanes, starts: Starts, ends_B: jax.Array, responses: int, rule: repeats.Rule | None) -> Lanes:
    """Lanes in `ends_B` (bool) hand in their response and start their prompt's next, while fewer than R have started.

    `responses` is R.
    """
    assert lanes.next_P is not None and lanes.handed_in is not None
    P, B = len(starts.token_P), len(ends_B)
    m = B // P
    ends_Pm = ends_B.reshape(P, m)
    response_Pm = lanes.next_P[:, None] + jnp.cumsum(ends_Pm, axis=1) - 1
    begins_B = (ends_Pm & (response_Pm < responses)).reshape(-1)
    response_B = response_Pm.reshape(-1)

    def begun(new_B: Any, old_B: jax.Array) -> jax.Array:
        return jnp.where(begins_B.reshape(-1, *(1,) * (old_B.ndim - 1)), new_B, old_B)

    text, fresh = lanes.text, None if rule is None else repeats.start(B, rule)
    return replace(
        lanes,
        handed_in=hand_in(lanes.handed_in, text, begins_B, lanes.response_B),
        next_P=jnp.minimum(lanes.next_P + jnp.sum(ends_Pm, axis=1), responses),
        key_B=begun(rng.response_keys(jnp.repeat(starts.problem_key_P, m), response_B), lanes.key_B),
        hidden_BD=begun(jnp.repeat(starts.hidden_PD, m, axis=0), lanes.hidden_BD),
        route_B=jax.tree.map(lambda x_P, old_B: begun(jnp.repeat(x_P, m), old_B), starts.route_P, lanes.route_B),
        token_B=begun(jnp.repeat(starts.token_P, m), lanes.token_B),
        live_B=lanes.live_B | begins_B,
        response_B=begun(response_B, lanes.response_B),
        repeats=jax.tree.map(begun, fresh, lanes.repeats),
        text=Text(begun(lanes.row, text.begin), text.first, begun(0, text.length), text.stopped & ~begins_B),
    )


def collect(done: Rollouts, lanes: Lanes) -> Rollouts:
    """Adds the tokens in the lanes' log to `done`."""
    known = lanes.handed_in
    if known is None:
        zero_gr = jnp.zeros((lanes.groups, len(done.stopped_B) // lanes.groups), jnp.int32)
        known = (Text(zero_gr, zero_gr, zero_gr, zero_gr.astype(bool)), zero_gr)
    text, lane_gr = hand_in(known, lanes.text, jnp.ones(lanes.live_B.shape, bool), lanes.response_B)
    return gather(done, lanes.log, text, lane_gr)


def tiers(lanes: int, ragged: bool) -> list[int]:
    """The numbers of lanes per shard after each compaction, down to FEW.

    Where idle lanes are not read (`ragged`), they cost little, and there are fewer loops to compile.
    """
    found, less = [], 16 if ragged else 4
    while lanes > FEW:
        lanes = -(-lanes // less)
        found.append(lanes)
    return found


def compact(model: qwen.Transformer, lanes: Lanes, M: int, rows: tuple[int, int]) -> Lanes:
    """Keeps only the live lanes of each shard, at most M, with a new log. `rows`: (number of responses, T)."""
    B, X = len(lanes.live_B), model.layout.batch_shards
    lane_XM = jnp.argsort(~lanes.live_B.reshape(X, -1), axis=1, stable=True)[:, :M]

    def pick(x_B: jax.Array) -> jax.Array:
        picked = ring.pick(x_B, lane_XM)
        return model.layout.constrain(picked, "batch", *(None for _ in picked.shape[1:]))

    group_B = jnp.arange(B) // (B // lanes.groups) % (lanes.groups // X)
    length_B, live_B = pick(lanes.text.length), pick(lanes.live_B)
    return Lanes(
        cache=ring.compact(model.layout, lanes.cache, lane_XM, jnp.any(live_B)),
        key_B=pick(lanes.key_B),
        start_B=pick(lanes.start_B),
        hidden_BD=pick(lanes.hidden_BD),
        route_B=jax.tree.map(pick, lanes.route_B),
        token_B=pick(lanes.token_B),
        live_B=live_B,
        response_B=pick(group_B * (rows[0] // lanes.groups) + lanes.response_B),
        text=Text(begin=-length_B, first=length_B, length=length_B, stopped=jnp.zeros_like(live_B)),
        repeats=jax.tree.map(pick, lanes.repeats),
        log=empty_log(model, rows[1], X * M),
        row=jnp.int32(0),
        next_P=None,
        handed_in=None,
        groups=X,
    )
