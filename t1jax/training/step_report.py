# SPDX-License-Identifier: Apache-2.0
"""What a metrics row says of a step's responses, and of how far learner and sampler are apart. Runs inside the step.

Axes: P prompts, R responses per prompt, B = P*R responses, T response positions.
Deliberately not here: loss, gradient and learning rate, which the update adds (step.py); writing rows (loop.py).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from t1jax.config import RlConfig
from t1jax.types import Report, Rollouts, Scores
from t1jax.update import advantages
from t1jax.update.masking import Mean, masked

FAILED = -2  # outcome of responses whose scorer raised: nothing is learnt from them, and the loop ends (loop.py)
LOG_RATIO = math.log(1.25)  # a response's log pi / mu beyond which, or its negative, the two policies are apart


def describe(rollouts: Rollouts, scores: Scores, cfg: RlConfig, right_and_wrong: bool = True) -> Report:
    """What a metrics row says of a step's responses: float32[] means over all rows, or over the rows named.

    `right_and_wrong`: False leaves out accuracy, right and wrong. Where rewards are not 1 for right and 0 for wrong,
    there is mean_reward, before penalties.
    """
    scorable_B = advantages.scorable(scores)
    reward_B = advantages.penalised_reward(advantages.raw_reward(scores), advantages.penalised(scores), cfg.penalty)
    length_B = rollouts.sampled_BT.sum(-1, dtype=jnp.float32)
    surprise_B = advantages.surprise(rollouts.logprob_BT, rollouts.sampled_BT)
    mixed_P = advantages.mixed_groups(scores, cfg.responses_per_prompt)
    report = {
        "reward": Mean.of(reward_B, scorable_B).value(),
        "accuracy": Mean.of(scores.outcome_B == 1, scorable_B).value(),
        "response_length": length_B.mean(),
        "tokens": rollouts.sampled_BT.sum(dtype=jnp.int32),
        "entropy": Mean.of(rollouts.entropy_BT, rollouts.sampled_BT).value(),
        "overlong": scores.overlong_B.mean(dtype=jnp.float32),
        "repetition": scores.repetition_B.mean(dtype=jnp.float32),
        "garbled": scores.garbled_B.mean(dtype=jnp.float32),
        "perplexed": scores.perplexed_B.mean(dtype=jnp.float32),
        "surprise": surprise_B.mean(),
        "surprise_max": surprise_B.max(),
        "right": (scores.outcome_B == 1).mean(dtype=jnp.float32),
        "wrong": (scores.outcome_B == 0).mean(dtype=jnp.float32),
        "unscorable": 1.0 - scorable_B.mean(dtype=jnp.float32),
        "failed": (scores.outcome_B == FAILED).mean(dtype=jnp.float32),
        "mixed_groups": mixed_P.mean(dtype=jnp.float32),
        "penalty_variance": advantages.penalty_variance(scores, cfg),
    }
    if scores.reward_B is not None:
        report["mean_reward"] = Mean.of(scores.reward_B, scorable_B).value()
    graded = () if right_and_wrong else ("accuracy", "right", "wrong")
    return {name: value for name, value in report.items() if name not in graded}


def fates(
    rollouts: Rollouts,
    scorable_B: jax.Array,
    packed_B: jax.Array,
    applied: jax.Array,
    kept_B: jax.Array | None = None,
) -> Report:
    """What became of the step's tokens: int32[] counts that add up to `tokens`.

    tokens_trained: in the update. tokens_skipped: would have been, but the gradient was not finite.
    tokens_unscorable: of responses that could not be judged. tokens_no_advantage: of others from which nothing can be
    learnt, as their siblings were as good; with rl.entropy_coef or rl.kl_coef all teach something. tokens_not_kept: of
    others whose groups are not in the update, with rl.overdraw only.

    Args:
      scorable_B: bool, responses that were judged.
      packed_B: bool, responses that have a place in the rows of the update.
      applied: bool[], whether the update was made.
      kept_B: bool, responses of groups that stay for the update; None: all do.
    """
    length_B = rollouts.sampled_BT.sum(-1, dtype=jnp.int32)

    def count(which_B: jax.Array) -> jax.Array:
        return jnp.where(which_B, length_B, 0).sum()

    learnt = count(scorable_B & packed_B)
    stays_B = scorable_B if kept_B is None else scorable_B & kept_B
    found = {
        "tokens_trained": jnp.where(applied, learnt, 0),
        "tokens_skipped": jnp.where(applied, 0, learnt),
        "tokens_unscorable": count(~scorable_B),
        "tokens_no_advantage": count(stays_B & ~packed_B),
    }
    return found if kept_B is None else found | {"tokens_not_kept": count(scorable_B & ~kept_B)}


def mismatch(log_ratio: jax.Array, sampled: jax.Array, log_ratio_B: jax.Array, counted_B: jax.Array) -> Report:
    """How far log pi of the learner is from the sampler's, of the same weights: float32[]; 0 but for rounding.

    logprob_gap: the largest difference of a token. log_ratio_mean, log_ratio_std: of a token's log pi - log mu.
    log_ratio_std_response: std of their sums over responses. ratio_outside: share of responses whose ratio pi / mu is
    below 0.8 or above 1.25. All nats but the last.

    Args:
      log_ratio: float32, log pi - log mu, an entry a token, any shape.
      sampled: bool, entries that hold a token.
      log_ratio_B: float32, the sum over the tokens of each response.
      counted_B: bool, responses that have a token there.
    """

    def std(x: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.sqrt(Mean.of(jnp.square(x - Mean.of(x, mask).value()), mask).value())

    return {
        "logprob_gap": jnp.abs(masked(log_ratio, sampled)).max(),
        "log_ratio_mean": Mean.of(log_ratio, sampled).value(),
        "log_ratio_std": std(log_ratio, sampled),
        "log_ratio_std_response": std(log_ratio_B, counted_B),
        "ratio_outside": Mean.of(jnp.abs(log_ratio_B) > LOG_RATIO, counted_B).value(),
    }
