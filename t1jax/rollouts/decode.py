# SPDX-License-Identifier: Apache-2.0
"""Prompts -> sampled responses, inside one compiled program.

Each prompt goes through the model once, and its keys and values are kept once for all its responses. Then one loop
iteration a token: every lane draws from its last hidden state, writes, and runs the model on the drawn token. A
prompt has G lanes for its R responses: where one ends, its lane begins the prompt's next in the same iteration, from
the prompt's hidden state, with nothing of its own in the cache.

When no response is left to begin, lanes fall idle. Each time three quarters of them are, the others move together and
the loop goes on with a quarter as many, until few are left. So a step costs what is drawn: attention reads back to the
beginning of the longest live response (model/ring.py), and the loop ends with the last response.

What lanes draw is logged, a row an iteration; where each response begins in the log is known, so that one gather at
the end puts the responses in order.

Axes: P prompts, R responses per prompt, G lanes per prompt, B lanes (b = p * G + g), C prompt positions, T response
positions, D width, V vocabulary, N iterations; X groups of lanes (prompts, then shards) with M lanes and Q responses.
Deliberately not here: how a token is drawn (sampling.py), its random number (rng.py), attention (model/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from t1jax.devices import scopes
from t1jax.model import qwen, ring
from t1jax.rollouts import repeats, rng
from t1jax.rollouts.sampling import SamplingSettings, sample
from t1jax.types import KVCache, Params, Prompts, Rollouts

# (tokens done a row; or with fewer lanes than responses, responses done; rows still live) -> ignored; on the host
Progress = Callable[[int, int], Any]
OnTokens = Callable[[np.ndarray, int], Any]  # (tokens int32[B, T], how many of T are drawn) -> ignored; on the host
STREAMED = 4  # tokens between two calls of an OnTokens
FEW = 8  # lanes a shard that are not made fewer: each number of lanes is a loop to compile


@struct.dataclass
class Forbid:
    """A ban: `token` may be drawn only directly after a token that `after_V` allows."""

    token: jax.Array  # int32[]; -1 bans nothing
    after_V: jax.Array  # bool[V]


class Rollout(Protocol):
    """What `make_rollout` returns."""

    def __call__(
        self, params: Params, prompts: Prompts, key: jax.Array, settings: SamplingSettings, forbid: Forbid | None = None
    ) -> Rollouts: ...


@struct.dataclass
class _Text:
    """A response, as the log has it: of each lane the one it is at, or of each response."""

    begin: jax.Array  # int32 row of the log at which the response's token 0 stands, or would: may be below 0
    first: jax.Array  # int32 its first token in this log
    length: jax.Array  # int32 tokens drawn; of a response that is not in this log: 0
    stopped: jax.Array  # bool drew a stop token


@struct.dataclass
class _Log:
    """What was drawn."""

    token_NB: jax.Array
    logprob_NB: jax.Array
    entropy_NB: jax.Array

    def put(self, row: jax.Array, *values_B: jax.Array) -> _Log:
        """With this row set."""
        logs = (self.token_NB, self.logprob_NB, self.entropy_NB)
        put = jax.lax.dynamic_update_index_in_dim
        return _Log(*(put(log, value, row, 0) for log, value in zip(logs, values_B, strict=True)))


@struct.dataclass
class _Lanes:
    """What the token loop carries."""

    cache: KVCache
    key_B: jax.Array  # of the response
    start_B: jax.Array  # int32 tokens of the prompt
    hidden_BD: jax.Array  # the model's state that predicts the next token
    token_B: jax.Array  # int32 the last token: of the prompt, then of the response
    live_B: jax.Array  # bool
    response_B: jax.Array  # int32 which of the group's Q responses
    text: _Text  # [B]
    repeats: repeats.Repeats | None  # None: nothing is stopped for repeating itself
    log: _Log
    row: jax.Array  # int32[] of the log, the next one
    next_P: jax.Array | None  # int32[P] the response to be begun next; None: all are begun
    handed_in: tuple[_Text, jax.Array] | None  # [P, R] each, and the lane int32[P, R]: responses whose lane went on
    groups: int = struct.field(pytree_node=False)  # X, of lanes and of responses


def make_rollout(
    model: qwen.Transformer,
    *,
    num_responses: int,
    max_new_tokens: int,
    window: int,
    stop_tokens: tuple[int, ...],
    lanes: int = 0,
    repeat_rule: repeats.Rule | None = None,
    on_progress: Progress | None = None,
    on_tokens: OnTokens | None = None,
) -> Rollout:
    """A traceable `rollout(params, prompts, key, settings, forbid=None) -> Rollouts`. Not jitted: callers inline it.

    Args:
      model: under the decode layout; `params` are in its compute dtype and sharded so.
      num_responses: R.
      max_new_tokens: T, the longest response.
      window: columns of the cache that are read at a time, tokens.
      stop_tokens: ids that end a response; drawn, they are part of it.
      lanes: G, how many responses of a prompt are sampled at a time, divides R; 0: all. What is drawn is the same.
      repeat_rule: responses that repeat themselves by it end, without a stop token; None: none do.
      on_progress: told every `window` tokens how far the loop is; costs a callback to the host.
      on_tokens: told every few tokens what is drawn so far, in no order; for few rows, as all of them go to the host.
    """
    R, T, G = num_responses, max_new_tokens, lanes or num_responses
    for knob, value in (("num_responses", R), ("max_new_tokens", T), ("window", window), ("lanes", G)):
        if value < 1:
            raise ValueError(f"{knob} = {value}: expected at least 1")
    if R % G:
        raise ValueError(f"lanes = {G}: expected a divisor of num_responses = {R}")
    if on_tokens is not None and G < R:
        raise ValueError(f"lanes = {G}: expected all {R} with on_tokens")
    X = model.layout.batch_shards

    def tell(done: jax.Array, live: jax.Array) -> None:
        if on_progress is not None:
            on_progress(int(done), int(live))

    def stream(token_NB: jax.Array, done: jax.Array) -> None:
        if on_tokens is not None:
            on_tokens(np.asarray(token_NB).T, int(done))

    def rollout(
        params: Params, prompts: Prompts, key: jax.Array, settings: SamplingSettings, forbid: Forbid | None = None
    ) -> Rollouts:
        P = prompts.tokens_PC.shape[0]
        problem_key_P = rng.problem_keys(key, prompts.problem_P)
        hidden_PD, token_P, lanes = _prefill(model, params, prompts, problem_key_P, (R, G, T), min(window, T))
        if repeat_rule is not None:
            lanes = replace(lanes, repeats=repeats.none(P * G, repeat_rule))

        def one_token(lanes: _Lanes) -> _Lanes:
            t_B, live_B = lanes.text.length, lanes.live_B
            logits_BV = qwen.logits(model, params, lanes.hidden_BD[:, None])[:, 0]
            banned_BV = None if forbid is None else _banned(forbid, lanes.token_B)
            with jax.named_scope(scopes.DRAWING):
                drawn = sample(logits_BV, rng.row_uniforms(lanes.key_B, t_B), settings, banned_BV)
            token_B, logprob_B, entropy_B = (jnp.where(live_B, x, 0) for x in drawn)
            stops_B = live_B & jnp.isin(token_B, jnp.asarray(stop_tokens, jnp.int32))
            cache = replace(lanes.cache, length_B=jnp.where(live_B, t_B, 0))
            position_B1 = (lanes.start_B + t_B)[:, None]
            hidden_BTD, new_cache = qwen.forward(model, params, token_B[:, None], position_B1, cache=cache)
            assert new_cache is not None
            length_B = t_B + live_B
            ends_B = live_B & (stops_B | (length_B == T))
            said = None
            if repeat_rule is not None and lanes.repeats is not None:
                said = repeats.after(lanes.repeats, token_B)
                ends_B |= live_B & repeats.too_many(said, repeat_rule)
            lanes = replace(
                lanes,
                cache=new_cache,
                hidden_BD=hidden_BTD[:, 0],
                token_B=token_B,
                live_B=live_B & ~ends_B,
                text=replace(lanes.text, length=length_B, stopped=lanes.text.stopped | stops_B),
                repeats=said,
                log=lanes.log.put(lanes.row, token_B, logprob_B, entropy_B),
                row=lanes.row + 1,
            )
            return lanes if lanes.next_P is None else take_next(lanes, ends_B)

        def take_next(lanes: _Lanes, ends_B: jax.Array) -> _Lanes:
            """Lanes whose response ended hand it in and begin their prompt's next, as far as there are any."""
            assert lanes.next_P is not None and lanes.handed_in is not None
            ends_PG = ends_B.reshape(P, G)
            response_PG = lanes.next_P[:, None] + jnp.cumsum(ends_PG, axis=1) - 1
            begins_B = (ends_PG & (response_PG < R)).reshape(-1)
            response_B = response_PG.reshape(-1)

            def begin(new_B: Any, old_B: jax.Array) -> jax.Array:
                return jnp.where(begins_B.reshape(-1, *(1,) * (old_B.ndim - 1)), new_B, old_B)

            text, fresh = lanes.text, None if repeat_rule is None else repeats.none(P * G, repeat_rule)
            return replace(
                lanes,
                handed_in=_hand_in(lanes.handed_in, text, begins_B, lanes.response_B),
                next_P=jnp.minimum(lanes.next_P + jnp.sum(ends_PG, axis=1), R),
                key_B=begin(rng.response_keys(jnp.repeat(problem_key_P, G), response_B), lanes.key_B),
                hidden_BD=begin(jnp.repeat(hidden_PD, G, axis=0), lanes.hidden_BD),
                token_B=begin(jnp.repeat(token_P, G), lanes.token_B),
                live_B=lanes.live_B | begins_B,
                response_B=begin(response_B, lanes.response_B),
                repeats=jax.tree.map(begin, fresh, lanes.repeats),
                text=_Text(begin(lanes.row, text.begin), text.first, begin(0, text.length), text.stopped & ~begins_B),
            )

        def advance(lanes: _Lanes, going: Callable[[_Lanes], jax.Array], scope: str) -> _Lanes:
            """One token after the other while `going`; the host is told. `scope` names the loop for planning/hlo.py."""
            every = window if on_tokens is None else STREAMED

            def some_tokens(lanes: _Lanes) -> _Lanes:
                end = (lanes.cache.column // every + 1) * every
                lanes = jax.lax.while_loop(lambda x: (x.cache.column < end) & going(x), one_token, lanes)
                live = jnp.sum(lanes.live_B)
                due = (lanes.cache.column == end) | (live == 0)
                if on_progress is not None:
                    waiting = 0 if lanes.next_P is None else jnp.sum(R - lanes.next_P)
                    told = (lanes.cache.column if G == R else P * R - waiting - live, live)
                    jax.lax.cond(due, lambda: jax.debug.callback(tell, *told), lambda: None)
                if on_tokens is not None:
                    jax.debug.callback(stream, lanes.log.token_NB, lanes.cache.column)
                return lanes

            with jax.named_scope(scopes.TOKEN_LOOP), jax.named_scope(scope):
                return jax.lax.while_loop(going, some_tokens if on_progress or on_tokens else one_token, lanes)

        done = _empty_rollouts(model, P * R, T)
        fewer = [] if on_tokens is not None else _quarters(P * G // X)
        for M in fewer:

            def going(lanes: _Lanes, M: int = M) -> jax.Array:
                most = jnp.max(jnp.sum(lanes.live_B.reshape(X, -1), axis=1))
                begun = True if lanes.next_P is None else jnp.all(lanes.next_P >= R)
                return (most > M) | ((most > 0) & ~jnp.asarray(begun))

            lanes = advance(lanes, going, scopes.ALL_LANES if M == fewer[0] else scopes.FEW_LANES)
            done, lanes = _collect(done, lanes), _compact(model, lanes, M, done.tokens_BT.shape)
        lanes = advance(lanes, lambda lanes: jnp.any(lanes.live_B), scopes.FEW_LANES if fewer else scopes.ALL_LANES)
        return _collect(done, lanes)

    return rollout


def _quarters(lanes: int) -> list[int]:
    """How many lanes a shard goes on with, each time a quarter as many, until they are FEW."""
    found = []
    while lanes > FEW:
        lanes = -(-lanes // 4)
        found.append(lanes)
    return found


def _prefill(
    model: qwen.Transformer,
    params: Params,
    prompts: Prompts,
    problem_key_P: jax.Array,
    sizes: tuple[int, int, int],
    block: int,
) -> tuple[jax.Array, jax.Array, _Lanes]:
    """Each prompt through the model once: its hidden state and last token, and lanes that begin its first responses."""
    R, G, T = sizes
    P, B = len(problem_key_P), len(problem_key_P) * G
    tokens_PC = jnp.where(prompts.valid_PC, prompts.tokens_PC, 0)
    hidden_PCD, prompt_kv = qwen.prefill(model, params, tokens_PC, prompts.valid_PC)
    start_P = jnp.sum(prompts.valid_PC, axis=-1, dtype=jnp.int32)
    hidden_PD = jnp.take_along_axis(hidden_PCD, start_P[:, None, None] - 1, axis=1)[:, 0]
    token_P = jnp.take_along_axis(tokens_PC, start_P[:, None] - 1, axis=1)[:, 0]

    def per_lane(dtype: Any = jnp.int32) -> jax.Array:
        return model.layout.constrain(jnp.zeros(B, dtype), "batch")

    def per_response(dtype: Any = jnp.int32) -> jax.Array:
        return model.layout.constrain(jnp.zeros((P, R), dtype), "batch", None)

    def text(zeros: Callable[..., jax.Array]) -> _Text:
        return _Text(zeros(), zeros(), zeros(), zeros(bool))

    response_B = per_lane() + jnp.tile(jnp.arange(G), P)
    more = G < R
    lanes = _Lanes(
        cache=ring.start(model.cfg, model.layout, prompt_kv, prompts.valid_PC, lanes=B, length=T, block=block),
        key_B=rng.response_keys(jnp.repeat(problem_key_P, G), response_B),
        start_B=jnp.repeat(start_P, G),
        hidden_BD=jnp.repeat(hidden_PD, G, axis=0),
        token_B=jnp.repeat(token_P, G),
        live_B=~per_lane(bool),
        response_B=response_B,
        text=text(per_lane),
        repeats=None,
        log=_empty_log(model, (R - 1) * T // G + T if more else T, B),
        row=jnp.int32(0),
        next_P=jnp.full(P, G, jnp.int32) if more else None,
        handed_in=(text(per_response), per_response()) if more else None,
        groups=P,
    )
    return hidden_PD, token_P, lanes


def _empty_log(model: qwen.Transformer, N: int, B: int) -> _Log:
    """Room for N iterations: R responses of T tokens on G lanes take (R - 1) * T / G + T at most."""
    dtypes = (jnp.int32, jnp.float32, jnp.float32)
    return _Log(*(model.layout.constrain(jnp.zeros((N, B), dtype), None, "batch") for dtype in dtypes))


def _empty_rollouts(model: qwen.Transformer, B: int, T: int) -> Rollouts:
    def rows(dtype: Any, *axes: int) -> jax.Array:
        return model.layout.constrain(jnp.zeros((B, *axes), dtype), "batch", *(None for _ in axes))

    return Rollouts(rows(jnp.int32, T), rows(bool, T), rows(jnp.float32, T), rows(jnp.float32, T), rows(bool))


def _hand_in(
    known: tuple[_Text, jax.Array], text: _Text, which_B: jax.Array, response_B: jax.Array
) -> tuple[_Text, jax.Array]:
    """What is known of each group's responses, [X, Q], with the texts of some lanes; and on which lane they are."""
    X, Q = known[1].shape
    here_XQM = which_B.reshape(X, 1, -1) & (response_B.reshape(X, 1, -1) == jnp.arange(Q)[None, :, None])
    found_XQ = jnp.any(here_XQM, axis=-1)

    def one(old_XQ: jax.Array, new_B: jax.Array) -> jax.Array:
        new_XQ = jnp.sum(jnp.where(here_XQM, new_B.reshape(X, 1, -1).astype(jnp.int32), 0), axis=-1)
        return jnp.where(found_XQ, new_XQ.astype(old_XQ.dtype), old_XQ)

    lane_B = jnp.tile(jnp.arange(here_XQM.shape[-1]), X)
    return jax.tree.map(one, known, (text, lane_B))


def _collect(done: Rollouts, lanes: _Lanes) -> Rollouts:
    """The responses with what the lanes' log has of them."""
    B, T = done.tokens_BT.shape
    X = lanes.groups
    known = lanes.handed_in
    if known is None:
        zero_XQ = jnp.zeros((X, B // X), jnp.int32)
        known = (_Text(zero_XQ, zero_XQ, zero_XQ, zero_XQ.astype(bool)), zero_XQ)
    text, lane_XQ = _hand_in(known, lanes.text, jnp.ones(lanes.live_B.shape, bool), lanes.response_B)
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
        tokens_BT=put(done.tokens_BT, lanes.log.token_NB),
        sampled_BT=done.sampled_BT | here_BT,
        logprob_BT=put(done.logprob_BT, lanes.log.logprob_NB),
        entropy_BT=put(done.entropy_BT, lanes.log.entropy_NB),
        stopped_B=done.stopped_B | text.stopped.reshape(B),
    )


def _compact(model: qwen.Transformer, lanes: _Lanes, M: int, rows: tuple[int, int]) -> _Lanes:
    """The live lanes of each shard, at most M, and a new log."""
    B, X = len(lanes.live_B), model.layout.batch_shards
    lane_XM = jnp.argsort(~lanes.live_B.reshape(X, -1), axis=1, stable=True)[:, :M]

    def pick(x_B: jax.Array) -> jax.Array:
        picked = ring.pick(x_B, lane_XM)
        return model.layout.constrain(picked, "batch", *(None for _ in picked.shape[1:]))

    group_B = jnp.arange(B) // (B // lanes.groups) % (lanes.groups // X)
    length_B, live_B = pick(lanes.text.length), pick(lanes.live_B)
    return _Lanes(
        cache=ring.compact(model.layout, lanes.cache, lane_XM, jnp.any(live_B)),
        key_B=pick(lanes.key_B),
        start_B=pick(lanes.start_B),
        hidden_BD=pick(lanes.hidden_BD),
        token_B=pick(lanes.token_B),
        live_B=live_B,
        response_B=pick(group_B * (rows[0] // lanes.groups) + lanes.response_B),
        text=_Text(begin=-length_B, first=length_B, length=length_B, stopped=jnp.zeros_like(live_B)),
        repeats=jax.tree.map(pick, lanes.repeats),
        log=_empty_log(model, rows[1], X * M),
        row=jnp.int32(0),
        next_P=None,
        handed_in=None,
        groups=X,
    )


def _banned(forbid: Forbid, token_B: jax.Array) -> jax.Array:
    """bool[B, V]: what may not be drawn after `token_B`."""
    token_V = jnp.arange(forbid.after_V.shape[0])
    return (token_V == forbid.token)[None, :] & ~forbid.after_V[token_B][:, None]
