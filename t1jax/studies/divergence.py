# SPDX-License-Identifier: Apache-2.0
"""How far a policy has moved: its KL from another policy, estimated on its own responses.

... -> **evaluate**: studies compare reward against it. The anchor moves, so `kl_anchor` in a metrics row is the
distance to the policy's recent past; this is the distance to where RL began.

Axes: B responses, T positions of a row: a prompt and its response.
Deliberately not here: the KL penalty of RL (advantages.py), sampling (evaluator.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.devices.sharding import train_layout
from t1jax.model import qwen
from t1jax.training import sft
from t1jax.types import Packed, Params

Ids = Sequence[int]


def make_divergence(cfg: Config, mesh: Mesh) -> Callable[[Params, Params, Sequence[Ids], Sequence[Ids]], float]:
    """`divergence(params, reference, prompts, responses)`: KL(pi || reference), nats a response.

    The mean of log pi(y) - log reference(y) over the responses y, summed over their tokens: unbiased where they were
    drawn from pi at temperature 1, uncut. Prompts hold at most cfg.data.prompt_length tokens, responses at most
    cfg.rl.max_new_tokens.
    """
    layout = train_layout(mesh)
    model = qwen.Transformer(cfg.model, layout)

    @jax.jit
    def summed(params: Params, packed: Packed) -> jax.Array:
        logprob_BT, _ = sft.target_logprobs(model, params, packed, cfg.sft.vocab_chunks)
        return logprob_BT.sum(-1)

    def divergence(params: Params, reference: Params, prompts: Sequence[Ids], responses: Sequence[Ids]) -> float:
        size, total = cfg.eval.batch_size, 0.0
        length = cfg.data.prompt_length + cfg.rl.max_new_tokens
        for start in range(0, len(prompts), size):
            part = slice(start, start + size)
            packed = multihost.global_batch(_rows(prompts[part], responses[part], size, length), layout)
            policy_B, other_B = (multihost.to_host(summed(weights, packed)) for weights in (params, reference))
            total += float(np.sum(policy_B - other_B, dtype=np.float64))
        return total / len(prompts)

    return divergence


def _rows(prompts: Sequence[Ids], responses: Sequence[Ids], rows: int, length: int) -> Packed:
    """A row each, and empty ones up to `rows`."""
    tokens_BT: Any = np.zeros((rows, length), np.int32)
    segment_BT: Any = np.zeros((rows, length), np.int32)
    target_BT: Any = np.zeros((rows, length), bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        tokens_BT[row, :end] = [*prompt, *response]
        segment_BT[row, :end] = 1
        target_BT[row, len(prompt) : end] = True
    position_BT: Any = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy()
    return Packed(tokens_BT, segment_BT, position_BT, target_BT)
