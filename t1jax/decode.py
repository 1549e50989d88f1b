# SPDX-License-Identifier: Apache-2.0
"""Prompts -> sampled responses, inside one compiled program.

Each prompt goes through the model once, and its keys and values are kept once for all its responses. Then one loop
iteration a token: draw from the last hidden state, write, run the model on the drawn token. Responses' own keys and
values stand in buffers exactly as long as the current window; when the window is full and a row still lives, it
doubles. So attention never reads further than twice the longest live response, and a step costs what the text has
cost so far. The loop ends when every row has drawn a stop token.

Axes: P prompts, R responses per prompt, B = P * R rows (b = p * R + r), C prompt positions, T response positions,
D width, V vocabulary.
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

from t1jax import rng
from t1jax.model import qwen
from t1jax.sampling import SamplingSettings, sample
from t1jax.types import KVCache, Params, Prompts, Rollouts

Progress = Callable[[int, int], Any]  # (tokens done a row, rows still live) -> ignored; on the host
OnTokens = Callable[[np.ndarray, int], Any]  # (tokens int32[B, T], how many of T are drawn) -> ignored; on the host
STREAMED = 4  # tokens between two calls of an OnTokens


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
class _Lanes:
    """What the token loop carries. `cache.cursor` tokens of each row are done."""

    cache: KVCache
    hidden_BD: jax.Array  # the model's state that predicts the next token
    token_B: jax.Array  # int32[B] the last token: of the prompt, then of the response
    live_B: jax.Array  # bool[B] no stop token yet
    done: Rollouts  # [B, T], filled up to the cursor


def make_rollout(
    model: qwen.Transformer,
    *,
    num_responses: int,
    max_new_tokens: int,
    window: int,
    stop_tokens: tuple[int, ...],
    on_progress: Progress | None = None,
    on_tokens: OnTokens | None = None,
) -> Rollout:
    """A traceable `rollout(params, prompts, key, settings, forbid=None) -> Rollouts`. Not jitted: callers inline it.

    Args:
      model: under the decode layout; `params` are in its compute dtype and sharded so.
      num_responses: R.
      max_new_tokens: T, the longest response.
      window: own positions of the first buffers, tokens; they double until T.
      stop_tokens: ids that end a response; drawn, they are part of it.
      on_progress: told every `window` tokens how far the loop is; costs a callback to the host.
      on_tokens: told every few tokens what is drawn so far, in no order; for few rows, as all of them go to the host.
    """
    R, T = num_responses, max_new_tokens
    for knob, value in (("num_responses", R), ("max_new_tokens", T), ("window", window)):
        if value < 1:
            raise ValueError(f"{knob} = {value}: expected at least 1")

    def tell(done: jax.Array, live: jax.Array) -> None:
        if on_progress is not None:
            on_progress(int(done), int(live))

    def stream(tokens_BT: jax.Array, done: jax.Array) -> None:
        if on_tokens is not None:
            on_tokens(np.asarray(tokens_BT), int(done))

    def rollout(
        params: Params, prompts: Prompts, key: jax.Array, settings: SamplingSettings, forbid: Forbid | None = None
    ) -> Rollouts:
        row_key_B = rng.row_keys(key, prompts.problem_P, R)
        start_B = jnp.repeat(jnp.sum(prompts.valid_PC, axis=-1, dtype=jnp.int32), R)

        def one_token(lanes: _Lanes) -> _Lanes:
            t, live_B = lanes.cache.cursor, lanes.live_B
            logits_BV = qwen.logits(model, params, lanes.hidden_BD[:, None])[:, 0]
            banned_BV = None if forbid is None else _banned(forbid, lanes.token_B)
            drawn = sample(logits_BV, rng.row_uniforms(row_key_B, t), settings, banned_BV)
            token_B, logprob_B, entropy_B = (jnp.where(live_B, x, 0) for x in drawn)
            stops_B = live_B & jnp.isin(token_B, jnp.asarray(stop_tokens, jnp.int32))
            done = Rollouts(
                tokens_BT=_put(lanes.done.tokens_BT, token_B, t),
                sampled_BT=_put(lanes.done.sampled_BT, live_B, t),
                logprob_BT=_put(lanes.done.logprob_BT, logprob_B, t),
                entropy_BT=_put(lanes.done.entropy_BT, entropy_B, t),
                stopped_B=lanes.done.stopped_B | stops_B,
            )
            hidden_BTD, cache = qwen.forward(model, params, token_B[:, None], (start_B + t)[:, None], cache=lanes.cache)
            assert cache is not None
            return _Lanes(cache, hidden_BTD[:, 0], token_B, live_B & ~stops_B, done)

        def until(end: int | jax.Array, advance: Callable[[_Lanes], _Lanes], lanes: _Lanes) -> _Lanes:
            """Repeat `advance` until the cursor is at `end` or no row lives."""
            return jax.lax.while_loop(lambda x: (x.cache.cursor < end) & jnp.any(x.live_B), advance, lanes)

        def some_tokens(lanes: _Lanes) -> _Lanes:
            end = lanes.cache.cursor + (window if on_tokens is None else STREAMED)
            lanes = until(jnp.minimum(end, lanes.cache.valid_BS.shape[1]), one_token, lanes)
            if on_progress is not None:
                jax.debug.callback(tell, lanes.cache.cursor, jnp.sum(lanes.live_B))
            if on_tokens is not None:
                jax.debug.callback(stream, lanes.done.tokens_BT, lanes.cache.cursor)
            return lanes

        lanes = _prefill(model, params, prompts, R, T)
        for length in _windows(window, T):
            lanes = replace(lanes, cache=_grow(model, lanes.cache, length))
            lanes = until(length, some_tokens if on_progress or on_tokens else one_token, lanes)
        return lanes.done

    return rollout


def _windows(first: int, last: int) -> list[int]:
    """Lengths of the buffers: first, doubling, `last` exactly."""
    lengths = []
    while first < last:
        lengths.append(first)
        first *= 2
    return [*lengths, last]


def _prefill(model: qwen.Transformer, params: Params, prompts: Prompts, R: int, T: int) -> _Lanes:
    """Each prompt through the model once; its rows stand at its last token, nothing drawn yet."""
    P, C = prompts.tokens_PC.shape
    B = P * R
    tokens_PC = jnp.where(prompts.valid_PC, prompts.tokens_PC, 0)
    position_PC = jnp.broadcast_to(jnp.arange(C, dtype=jnp.int32)[None], (P, C))
    empty = qwen.empty_cache(model, P, C, valid_BS=prompts.valid_PC)
    hidden_PCD, cache = qwen.forward(model, params, tokens_PC, position_PC, cache=empty)
    last_P1 = jnp.sum(prompts.valid_PC, axis=-1, keepdims=True) - 1
    hidden_PD = jnp.take_along_axis(hidden_PCD, last_P1[:, :, None], axis=1)[:, 0]
    token_P = jnp.take_along_axis(tokens_PC, last_P1, axis=1)[:, 0]

    def rows(dtype: Any, *axes: int) -> jax.Array:
        return model.layout.constrain(jnp.zeros((B, *axes), dtype), "batch", *(None for _ in axes))

    return _Lanes(
        cache=qwen.empty_cache(model, B, 0, prompt=cache),
        hidden_BD=jnp.repeat(hidden_PD, R, axis=0),
        token_B=jnp.repeat(token_P, R),
        live_B=~rows(bool),
        done=Rollouts(rows(jnp.int32, T), rows(bool, T), rows(jnp.float32, T), rows(jnp.float32, T), rows(bool)),
    )


def _grow(model: qwen.Transformer, cache: KVCache, length: int) -> KVCache:
    """The cache with `length` own positions a row: what is written stays, the rest is zero."""
    B, old = cache.valid_BS.shape

    def longer(x_LBKSH: jax.Array) -> jax.Array:
        padded = jnp.pad(x_LBKSH, ((0, 0), (0, 0), (0, 0), (0, length - old), (0, 0)))
        return model.layout.constrain(padded, None, "batch", "kv_heads", None, None)

    return replace(
        cache, k_LBKSH=longer(cache.k_LBKSH), v_LBKSH=longer(cache.v_LBKSH), valid_BS=jnp.ones((B, length), bool)
    )


def _put(x_BT: jax.Array, value_B: jax.Array, t: jax.Array) -> jax.Array:
    """`x_BT` with column t set."""
    return jax.lax.dynamic_update_slice_in_dim(x_BT, value_B[:, None], t, axis=1)


def _banned(forbid: Forbid, token_B: jax.Array) -> jax.Array:
    """bool[B, V]: what may not be drawn after `token_B`."""
    token_V = jnp.arange(forbid.after_V.shape[0])
    return (token_V == forbid.token)[None, :] & ~forbid.after_V[token_B][:, None]
