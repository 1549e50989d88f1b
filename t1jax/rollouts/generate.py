# SPDX-License-Identifier: Apache-2.0
"""Prompts -> sampled tokens, outside training: for evaluation, a text on a terminal, chains for the cold start.

The sampler is the one of training (decode.py), compiled once for a prompt length and a number of new tokens. Prompts
go through it in batches of one size, and random numbers are named by prompt and response: what is sampled depends
neither on the batch nor on what was sampled before.

Axes: P prompts of a call, R responses per prompt, B = P * R rows, T response positions.
Deliberately not here: what a response is worth (evaluation/evaluator.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.devices.sharding import decode_layout
from t1jax.model import lora, parameters, qwen
from t1jax.prompts import streams
from t1jax.rollouts import decode, rng
from t1jax.rollouts.sampling import SamplingSettings
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Adapted, Params, Prompts, Rollouts

Tokens = list[int]


class Generator:
    """Samples responses to any prompts with any weights of the config's shape."""

    def __init__(
        self, cfg: Config, mesh: Mesh, tokenizer: Tokenizer, on_progress: Callable[[int, int, int], None] | None = None
    ) -> None:
        """`on_progress` is told (tokens done a row, new_tokens, rows live) while a batch is sampled."""
        self.cfg, self.tokenizer = cfg, tokenizer
        self._layout = decode_layout(mesh)
        self._on_progress = on_progress
        self._samplers: dict[Any, Callable[..., Rollouts]] = {}

    def __call__(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        name: str,
        *,
        length: int,
        new_tokens: int,
        responses: int = 1,
        temperature: float = 1.0,
        truncate: bool = False,
        forbid: decode.Forbid | None = None,
        ids: Sequence[int] | None = None,
        on_tokens: decode.OnTokens | None = None,
    ) -> list[list[Tokens]]:
        """The token ids of each response to each prompt, the stop token included where it was drawn.

        Args:
          params: in float32 or compute dtype; or Adapted.
          prompts: token ids, at most `length` of them; any number of prompts.
          name: of the random stream; the same name gives the same numbers.
          length: positions that prompts are padded to; a program is compiled for each length.
          new_tokens: most tokens of a response; a program is compiled for each.
          responses: R, of each prompt.
          temperature: 0 for greedy.
          truncate: leave out unlikely tokens, as cfg.rl.top_k, top_p and min_p say.
          forbid: a ban on some token, see decode.py.
          ids: what names each prompt's random numbers, int32; default: its place among `prompts`.
          on_tokens: told (tokens int32[B, T], how many of T are drawn) every few tokens, in no order: for a terminal.
        """
        rl, settings = self.cfg.rl, SamplingSettings(jnp.float32(temperature))
        if truncate:
            settings = dataclasses.replace(settings, top_k=rl.top_k, top_p=rl.top_p, min_p=rl.min_p)
        sampler = self._sampler(new_tokens, responses, on_tokens)
        key = rng.key_for(jax.random.key(self.cfg.seed), name, 0)
        ids = range(len(prompts)) if ids is None else ids
        shards = self._layout.batch_shards
        size = max(self.cfg.eval.batch_size // responses // shards, 1) * shards
        out: list[list[Tokens]] = []
        for start in range(0, len(prompts), size):
            part = list(prompts[start : start + size])
            names = list(ids[start : start + size])
            missing = size - len(part)
            batch = streams.pad_prompts(
                part + part[:1] * missing, names + names[:1] * missing, length, self.tokenizer.pad_id
            )
            rollouts = sampler(params, multihost.global_batch(batch, self._layout), key, settings, forbid)
            tokens_BT, sampled_BT = multihost.to_host((rollouts.tokens_BT, rollouts.sampled_BT))
            rows = [tokens[mask].tolist() for tokens, mask in zip(tokens_BT, sampled_BT, strict=True)]
            out += [rows[p * responses : (p + 1) * responses] for p in range(len(part))]
        return out

    def _sampler(self, new_tokens: int, responses: int, on_tokens: decode.OnTokens | None) -> Callable[..., Rollouts]:
        """The jitted sampler; one program for each length of prompts and kind of settings."""
        which = (new_tokens, responses, on_tokens)
        if which not in self._samplers:
            model = qwen.Transformer(self.cfg.model, self._layout)
            tell = self._on_progress
            rollout = decode.make_rollout(
                model,
                num_responses=responses,
                max_new_tokens=new_tokens,
                window=min(self.cfg.rl.window, new_tokens),
                stop_tokens=self.tokenizer.stop_ids,
                on_progress=tell and (lambda done, live: tell(done, new_tokens, live)),
                on_tokens=on_tokens,
            )

            def sample(params: Params | Adapted, prompts: Prompts, key: jax.Array, *rest: Any) -> Rollouts:
                return rollout(parameters.cast_for_decode(model, lora.merged(model.cfg, params)), prompts, key, *rest)

            self._samplers[which] = jax.jit(sample)
        return self._samplers[which]
