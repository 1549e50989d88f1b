# SPDX-License-Identifier: Apache-2.0
"""The update without packing: one row a response, padded to the longest. The reference of the packed one.

Axes: P prompts, R responses per prompt, B = P*R rows (b = p*R + r), C prompt positions, T response positions,
S = C + T, D width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from t1jax.devices.sharding import train_layout
from t1jax.model import qwen
from t1jax.training.sft import split
from t1jax.types import Prompts, Rollouts
from t1jax.update import advantages, losses, optim
from t1jax.update.logprobs import predictors, token_logprobs_and_entropy


@struct.dataclass
class Rows:
    """What the update needs of each response: prompt and response in one row, the prompt shifted right to meet it."""

    tokens_BS: jax.Array  # int32[B, C + T]
    position_BS: jax.Array  # int32[B, C + T]
    segment_BS: jax.Array  # int32[B, C + T] 1 for prompt and sampled tokens, 0 for padding
    rollouts: Rollouts


def join(prompts: Prompts, rollouts: Rollouts) -> Rows:
    """One row per response: [padding, prompt, response, padding], C + T long, response token t at C + t."""
    B, _ = rollouts.tokens_BT.shape
    P, C = prompts.tokens_PC.shape
    pad_P = C - prompts.valid_PC.sum(-1, dtype=jnp.int32)
    position_PC = jnp.arange(C, dtype=jnp.int32)[None] - pad_P[:, None]
    prompt_PC = jnp.take_along_axis(prompts.tokens_PC, jnp.maximum(position_PC, 0), axis=1)
    prompt_PC = jnp.where(position_PC >= 0, prompt_PC, 0)
    T = rollouts.tokens_BT.shape[1]
    start_P = C - pad_P
    position_PS = jnp.concatenate(
        [jnp.maximum(position_PC, 0), start_P[:, None] + jnp.arange(T, dtype=jnp.int32)[None]], axis=1
    )

    def each(x_P: jax.Array) -> jax.Array:
        return jnp.repeat(x_P, B // P, axis=0)

    return Rows(
        tokens_BS=jnp.concatenate([each(prompt_PC), rollouts.tokens_BT], axis=1),
        position_BS=each(position_PS),
        segment_BS=jnp.concatenate([each(position_PC >= 0), rollouts.sampled_BT], axis=1).astype(jnp.int32),
        rollouts=rollouts,
    )


def merge(tree: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def make_reference(cfg: Any, mesh: Any) -> Any:
    """A function (state, prompts, rollouts, scores) -> the loss, its gradient, and what the report says of them."""
    layout = train_layout(mesh)
    model = qwen.Transformer(cfg.model, layout)
    parts = cfg.rl.micro_batches

    def token_stats(params: Any, rows: Rows) -> tuple[jax.Array, jax.Array]:
        """log-probabilities and entropies, [b, T], of the sampled tokens of some rows."""
        hidden_bSD, _ = qwen.forward(model, params, rows.tokens_BS, rows.position_BS, segment_BT=rows.segment_BS)
        T = rows.rollouts.tokens_BT.shape[1]
        return token_logprobs_and_entropy(
            predictors(hidden_bSD)[:, -T:],
            qwen.head_weight(model, params),
            rows.rollouts.tokens_BT,
            rows.rollouts.sampled_BT,
            cfg.rl.learner_temperature,
            cfg.rl.vocab_chunks,
        )

    def reference(state: Any, prompts: Prompts, rollouts: Rollouts, scores: Any) -> dict[str, Any]:
        rows = join(prompts, rollouts)
        anchor = optim.anchor_params(state.anchor_offset, state.params)
        anchor_logprob_BT = merge(jax.lax.map(lambda part: token_stats(anchor, part)[0], split(rows, parts)))
        kl_BT = advantages.kl_of_token(rollouts.logprob_BT, anchor_logprob_BT, rollouts.sampled_BT, cfg.rl.kl_clip)
        kl_B = kl_BT.sum(-1)
        length_B1 = jnp.maximum(rollouts.sampled_BT.sum(-1, keepdims=True, dtype=jnp.float32), 1.0)
        scorable_B = advantages.scorable(scores)
        in_reward_B = kl_B / length_B1[:, 0] if cfg.rl.kl_reduction == "mean" else kl_B
        advantage_BT = jnp.broadcast_to(advantages.advantages(scores, in_reward_B, cfg.rl)[:, None], kl_BT.shape)
        if cfg.rl.kl_site == "token":
            advantage_BT = advantage_BT - cfg.rl.kl_coef * kl_BT
        if cfg.rl.loss_normalisation == "response_mean":  # of what is linear in the advantage, not of a k2 term
            assert cfg.rl.kl_site != "loss"
            advantage_BT = advantage_BT / length_B1
        entropy = rollouts.entropy_BT.sum() / rollouts.sampled_BT.sum(dtype=jnp.float32)
        above = (entropy >= cfg.rl.entropy_target) & (cfg.rl.entropy_target > 0)
        alpha = jnp.where(above, 0.0, jnp.float32(cfg.rl.entropy_coef))
        counts = losses.loss_counts(rollouts.sampled_BT, scorable_B, cfg.rl.loss_normalisation)

        def loss(params: Any, part: Any) -> tuple[jax.Array, jax.Array]:
            rows, anchor_logprob_bT, scorable_b, advantage_bT = part
            logprob_bT, entropy_bT = token_stats(params, rows)
            sampled_bT = rows.rollouts.sampled_BT
            scorable_bT = jnp.broadcast_to(scorable_b[:, None], logprob_bT.shape)
            share = losses.policy_loss(
                logprob_bT, entropy_bT, anchor_logprob_bT, sampled_bT, scorable_bT, advantage_bT, counts, cfg.rl,
                alpha=alpha,
            )  # fmt: skip
            gap_bT = jnp.where(sampled_bT, jnp.abs(logprob_bT - rows.rollouts.logprob_BT), 0.0)
            return share, gap_bT.max()

        def accumulate(total: Any, part: Any) -> tuple[Any, None]:
            (value, gap), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, part)
            loss_sum, worst, gradients = total
            return (loss_sum + value, jnp.maximum(worst, gap), jax.tree.map(jnp.add, gradients, gradient)), None

        zero = (jnp.float32(0), jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
        all_parts = split((rows, anchor_logprob_BT, scorable_B, advantage_BT), parts)
        (loss_sum, logprob_gap, gradient), _ = jax.lax.scan(accumulate, zero, all_parts)
        return {"loss": loss_sum, "gradient": gradient, "kl_B": kl_B, "logprob_gap": logprob_gap}

    return reference
