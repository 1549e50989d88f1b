# SPDX-License-Identifier: Apache-2.0
"""Prompts -> sampled responses, inside one compiled program.

Each prompt goes through the model once, and all its responses share its keys and values. Then there is one loop
iteration per token: every lane draws a token from its last hidden state, logs it, and runs the model on it. A prompt
has m lanes for its R responses: when a response ends, its lane starts the prompt's next one in the same iteration, from
the prompt's hidden state and with none of its own columns in the cache.

When no response is left to start, lanes become idle. Each time most of them are, the others are compacted and the loop
continues with as many lanes as are left (`lanes.tiers`), until few are. So the cost of a step follows the
tokens that are drawn: attention reads back to the start of the longest live response (model/ring.py), and the loop ends
with the last response.

Axes: P prompts, R responses per prompt, m lanes per prompt, B lanes (lane i of prompt p is b = p * m + i), C prompt
positions, T response positions, D width, V vocabulary, I iterations; X shards of the batch with M lanes each.
Deliberately not here: what a lane is (lanes.py), how responses are read from what was drawn (log.py), how a token is
drawn (sampling.py), its random number (rng.py), attention (model/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from t1jax.devices import scopes
from t1jax.model import qwen, ragged, ring
from t1jax.rollouts import repeats, rng
from t1jax.rollouts.lanes import Lanes, Sizes, begin, collect, compact, take_next, tiers
from t1jax.rollouts.log import empty_rollouts
from t1jax.rollouts.sampling import SamplingSettings, sample
from t1jax.types import Params, Prompts, Rollouts

# (tokens done per row, or with fewer lanes than responses, responses done; live rows) -> ignored; on the host
Progress = Callable[[int, int], Any]
OnTokens = Callable[[np.ndarray, int], Any]  # (tokens int32[B, T], how many of T are drawn) -> ignored; on the host
STREAMED = 4  # tokens between two calls of an OnTokens


@struct.dataclass
class Forbid:
    """A ban on `token`, except directly after a token that `after_V` allows."""

    token: jax.Array  # int32[]; -1 bans nothing
    after_V: jax.Array  # bool[V]


class Rollout(Protocol):
    """What `make_rollout` returns."""

    def __call__(
        self, params: Params, prompts: Prompts, key: jax.Array, settings: SamplingSettings, forbid: Forbid | None = None
    ) -> Rollouts: ...


@dataclass(frozen=True)
class _Watch:
    """The host's callbacks from the loop, and how often they are called."""

    on_progress: Progress | None
    on_tokens: OnTokens | None
    window: int

    @property
    def every(self) -> int:
        """Tokens between two calls."""
        return self.window if self.on_tokens is None else STREAMED

    def tell(self, lanes: Lanes, due: jax.Array, live: jax.Array, sizes: Sizes, rows: int) -> None:
        """Calls them from inside the program, on_progress only if `due`. `rows`: responses of all prompts."""
        if self.on_progress is not None:
            waiting = 0 if lanes.next_P is None else jnp.sum(sizes.responses - lanes.next_P)
            done = lanes.cache.column if sizes.lanes == sizes.responses else rows - waiting - live
            jax.lax.cond(due, lambda: jax.debug.callback(self._progress, done, live), lambda: None)
        if self.on_tokens is not None:
            jax.debug.callback(self._tokens, lanes.log.token_IB, lanes.cache.column)

    def _progress(self, done: jax.Array, live: jax.Array) -> None:
        assert self.on_progress is not None
        self.on_progress(int(done), int(live))

    def _tokens(self, token_IB: jax.Array, done: jax.Array) -> None:
        assert self.on_tokens is not None
        self.on_tokens(np.asarray(token_IB).T, int(done))


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
      model: with the decode layout; `params` must be in its compute dtype and sharded accordingly.
      num_responses: R.
      max_new_tokens: T, the maximum response length.
      window: columns of a block of the cache, tokens.
      stop_tokens: ids that end a response, and are part of it.
      lanes: m, responses of a prompt that are sampled at a time, a divisor of R; 0: all. Samples do not depend on it.
      repeat_rule: when to end a response that repeats itself, without a stop token; None: never.
      on_progress: called every `window` tokens with the progress of the loop.
      on_tokens: called every few tokens with all tokens so far, possibly out of order; meant for few rows.
    """
    sizes = Sizes(num_responses, lanes or num_responses, max_new_tokens, min(window, max_new_tokens))
    R, m, T, _ = sizes
    for knob, value in (("num_responses", R), ("max_new_tokens", T), ("window", window), ("lanes", m)):
        if value < 1:
            raise ValueError(f"{knob} = {value}: expected at least 1")
    if R % m:
        raise ValueError(f"lanes = {m}: expected a divisor of num_responses = {R}")
    if on_tokens is not None and m < R:
        raise ValueError(f"lanes = {m}: expected all {R} with on_tokens")
    X, watch = model.layout.batch_shards, _Watch(on_progress, on_tokens, window)
    unread = ring.reader(model.cfg, model.layout, ring.columns(T, sizes.block)) == "ragged"

    def rollout(
        params: Params, prompts: Prompts, key: jax.Array, settings: SamplingSettings, forbid: Forbid | None = None
    ) -> Rollouts:
        P = prompts.tokens_PC.shape[0]
        starts, lanes = begin(model, params, prompts, key, sizes, repeat_rule)

        def one_token(lanes: Lanes) -> Lanes:
            lanes, ends_B = _one_token(model, params, lanes, settings, forbid, T, stop_tokens, repeat_rule)
            return lanes if lanes.next_P is None else take_next(lanes, starts, ends_B, R, repeat_rule)

        def advance(lanes: Lanes, going: Callable[[Lanes], jax.Array], scope: str) -> Lanes:
            """Draws tokens while `going`, and calls the host. `scope` names the loop."""

            def some_tokens(lanes: Lanes) -> Lanes:
                end = (lanes.cache.column // watch.every + 1) * watch.every
                lanes = jax.lax.while_loop(lambda x: (x.cache.column < end) & going(x), one_token, lanes)
                live = jnp.sum(lanes.live_B)
                watch.tell(lanes, (lanes.cache.column == end) | (live == 0), live, sizes, P * R)
                return lanes

            with jax.named_scope(scopes.TOKEN_LOOP), jax.named_scope(scope):
                return jax.lax.while_loop(going, some_tokens if on_progress or on_tokens else one_token, lanes)

        done = empty_rollouts(model, P * R, T)
        fewer = [] if on_tokens is not None else tiers(P * m // X, unread)
        for M in fewer:
            going = partial(_more_than, lanes=M, shards=X, responses=R)
            lanes = advance(lanes, going, scopes.ALL_LANES if M == fewer[0] else scopes.FEW_LANES)
            done, lanes = collect(done, lanes), compact(model, lanes, M, done.tokens_BT.shape)
        lanes = advance(lanes, lambda lanes: jnp.any(lanes.live_B), scopes.FEW_LANES if fewer else scopes.ALL_LANES)
        return collect(done, lanes)

    return rollout


def _more_than(x: Lanes, lanes: int, shards: int, responses: int) -> jax.Array:
    """bool[]: whether more than `lanes` lanes of some shard are live, or some response has not started."""
    most = jnp.max(jnp.sum(x.live_B.reshape(shards, -1), axis=1))
    begun = True if x.next_P is None else jnp.all(x.next_P >= responses)
    return (most > lanes) | ((most > 0) & ~jnp.asarray(begun))


def _one_token(
    model: qwen.Transformer,
    params: Params,
    lanes: Lanes,
    settings: SamplingSettings,
    forbid: Forbid | None,
    length: int,
    stop_tokens: tuple[int, ...],
    repeat_rule: repeats.Rule | None,
) -> tuple[Lanes, jax.Array]:
    """Every live lane draws a token, logs it and runs the model on it. Also returns bool[B]: its response ended."""
    t_B, live_B = lanes.text.length, lanes.live_B
    logits_BV = qwen.logits(model, params, lanes.hidden_BD[:, None])[:, 0]
    banned_BV = None if forbid is None else _banned(forbid, lanes.token_B)
    with jax.named_scope(scopes.DRAWING):
        drawn = sample(logits_BV, rng.row_uniforms(lanes.key_B, t_B), settings, banned_BV, model.layout)
    token_B, logprob_B, entropy_B = (jnp.where(live_B, x, 0) for x in drawn)
    stops_B = live_B & jnp.isin(token_B, jnp.asarray(stop_tokens, jnp.int32))
    cache = replace(lanes.cache, length_B=jnp.where(live_B, t_B, ragged.IDLE))
    position_B1 = (lanes.start_B + t_B)[:, None]
    hidden_BTD, new_cache, route_BT = qwen.forward_and_routes(model, params, token_B[:, None], position_B1, cache=cache)
    assert new_cache is not None
    length_B = t_B + live_B.astype(t_B.dtype)
    ends_B = live_B & (stops_B | (length_B == length))
    new_repeats = None
    if repeat_rule is not None and lanes.repeats is not None:
        new_repeats = repeats.update(lanes.repeats, token_B)
        ends_B |= live_B & repeats.too_many(new_repeats, repeat_rule)
    lanes = replace(
        lanes,
        cache=new_cache,
        hidden_BD=hidden_BTD[:, 0],
        route_B=None if route_BT is None else route_BT[:, 0],
        token_B=token_B,
        live_B=live_B & ~ends_B,
        text=replace(lanes.text, length=length_B, stopped=lanes.text.stopped | stops_B),
        repeats=new_repeats,
        log=lanes.log.put(lanes.row, token_B, logprob_B, entropy_B, lanes.route_B),
        row=lanes.row + 1,
    )
    return lanes, ends_B


def _banned(forbid: Forbid, token_B: jax.Array) -> jax.Array:
    """bool[B, V]: tokens that must not be drawn after `token_B`."""
    token_V = jnp.arange(forbid.after_V.shape[0])
    return (token_V == forbid.token)[None, :] & ~forbid.after_V[token_B][:, None]
