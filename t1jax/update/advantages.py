# SPDX-License-Identifier: Apache-2.0
"""How much better than its siblings each response was: leave-one-out reward, leave-one-out KL.

prompts -> rollouts -> rewards -> ADVANTAGES -> update. One equation of the paper a function:

    r'_i    = -1 if penalised, else [answer right]           penalised_reward
    rbar_i  = r'_i - mean_{j != i} r'_j                      leave_one_out, less_baseline
    k_i     = sum_t clip(log pi - log pi_ref, -c, c)         kl_of_response
    kbar_i  = k_i - mean_{j != i} k_j                        leave_one_out
    A_i     = rbar_i - beta * kbar_i                         advantages

A response whose checker failed (outcome -1, unscorable) has advantage 0 and is in nobody's baseline: it is neither
right nor wrong.

Axes: P prompts, R responses per prompt, B = P * R rows (b = p * R + r), T response positions.
Source: T1 (arXiv 2501.11651) section 2; the clamp from THUDM/TreeRL.
Deliberately not here: the rules that score and penalise (rewards/), the loss (losses.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from t1jax.config import RlConfig
from t1jax.types import Scores
from t1jax.update.masking import masked, masked_sum


def scorable(scores: Scores) -> jax.Array:
    """bool[B]: the checker gave an answer, right or wrong. False rows enter no baseline, mean or gradient of reward."""
    return scores.outcome_B >= 0


def penalised(scores: Scores) -> jax.Array:
    """bool[B]: repetitive, overlong or garbled. Source: T1 section 2, penalty."""
    return scores.overlong_B | scores.repetition_B | scores.garbled_B


def penalised_reward(outcome_B: jax.Array, penalised_B: jax.Array, penalty: float) -> jax.Array:
    """r'_i = penalty if penalised, else 1 if right, else 0.

    A right answer does not buy off the penalty. Source: T1 section 2, correctness and penalty.

    Args:
      outcome_B: int8, 1 right, 0 wrong, -1 unscorable (its value here is meaningless: mask it with `scorable`).
      penalised_B: bool.
      penalty: reward of a penalised response, cfg.rl.penalty.

    Returns:
      float32[B].
    """
    return jnp.where(penalised_B, jnp.float32(penalty), (outcome_B == 1).astype(jnp.float32))


def leave_one_out(x_PR: jax.Array, valid_PR: jax.Array) -> jax.Array:
    """xbar_i = x_i - mean_{j != i, j valid} x_j; 0 where i is not valid or is alone.

    Not divided by a standard deviation. Computed as n / (n - 1) * (x_i - mean of the n valid ones), which is the same.
    Source: T1 section 2, leave-one-out reward and on-policy KL normalisation.

    Args:
      x_PR: float, one group a row; anything, NaN too, where not valid.
      valid_PR: bool, the members of each group.

    Returns:
      float32[P, R]; the valid entries of each row sum to 0.
    """
    x_PR = masked(x_PR, valid_PR)
    n_P1 = valid_PR.sum(axis=-1, keepdims=True, dtype=jnp.float32)
    mean_P1 = x_PR.sum(axis=-1, keepdims=True) / jnp.maximum(n_P1, 1.0)
    return jnp.where(valid_PR, (x_PR - mean_P1) * (n_P1 / jnp.maximum(n_P1 - 1.0, 1.0)), 0.0)


def less_baseline(reward_PR: jax.Array, valid_PR: jax.Array, baseline: str) -> jax.Array:
    """rbar_i: what is above the group's baseline. T1's is leave_one_out; the others are for comparison.

    leave_one_out   x_i - mean_{j != i} x_j
    group_mean      x_i - mean_j x_j, which is (n - 1) / n of it
    group_mean_std  (x_i - mean_j x_j) / (std_j x_j + 1e-4), with the n - 1 form of std: GRPO's

    Source: T1 section 2; GRPO: arXiv 2402.03300 section 4.1, the 1e-4 as in TRL.

    Args:
      reward_PR: float, one group a row; anything where not valid.
      valid_PR: bool.
      baseline: cfg.rl.baseline.

    Returns:
      float32[P, R]; 0 where not valid or alone.
    """
    apart_PR = leave_one_out(reward_PR, valid_PR)
    if baseline == "leave_one_out":
        return apart_PR
    n_P1 = valid_PR.sum(axis=-1, keepdims=True, dtype=jnp.float32)
    centred_PR = apart_PR * ((n_P1 - 1.0) / jnp.maximum(n_P1, 1.0))
    if baseline == "group_mean":
        return centred_PR
    variance_P1 = jnp.square(centred_PR).sum(axis=-1, keepdims=True) / jnp.maximum(n_P1 - 1.0, 1.0)
    return centred_PR / (jnp.sqrt(variance_P1) + 1e-4)


def kl_of_response(
    logprob_BT: jax.Array, anchor_logprob_BT: jax.Array, sampled_BT: jax.Array, clip: float
) -> jax.Array:
    """k_i = sum_t clip(log pi(y_t) - log pi_ref(y_t), -clip, clip): the k1 estimator of KL(pi || pi_ref).

    Source: T1 section 2, on-policy KL normalisation; k1 and the clamp from THUDM/TreeRL.

    Args:
      logprob_BT: float32, of the tokens under the policy, at the sampling temperature.
      anchor_logprob_BT: float32, under the anchor, at the same temperature.
      sampled_BT: bool, the tokens that count; elsewhere nothing is read.
      clip: nats, cfg.rl.kl_clip; infinity for no clamp.

    Returns:
      float32[B], nats a response; 0 for a row without tokens.
    """
    return masked_sum(jnp.clip(logprob_BT - anchor_logprob_BT, -clip, clip), sampled_BT, axis=-1)


def advantages(scores: Scores, kl_B: jax.Array, cfg: RlConfig) -> jax.Array:
    """A_i = rbar_i - beta * kbar_i; no gradient flows through it.

    penalty_site "reward": the penalty is part of r', so siblings of a penalised response look better by it.
    "advantage": baselines are of raw correctness, and a penalised response's advantage is the penalty itself.
    kl_site "reward": as written. "loss": A_i = rbar_i alone; the KL is a term of losses.policy_loss.
    Source: T1 section 2, advantage.

    Args:
      scores: of B = P * R responses, the R of a prompt together.
      kl_B: float32, from `kl_of_response`; not read with kl_site "loss".
      cfg: responses_per_prompt, baseline, penalty, penalty_site, kl_site, kl_coef.

    Returns:
      float32[B]; 0 for unscorable rows and for rows without a scorable sibling.
    """
    groups = (-1, cfg.responses_per_prompt)
    valid_PR = scorable(scores).reshape(groups)
    penalised_B = penalised(scores)
    in_reward_B = penalised_B & (cfg.penalty_site == "reward")
    reward_B = penalised_reward(scores.outcome_B, in_reward_B, cfg.penalty)
    advantage_PR = less_baseline(reward_B.reshape(groups), valid_PR, cfg.baseline)
    if cfg.kl_site == "reward":
        advantage_PR = advantage_PR - cfg.kl_coef * leave_one_out(kl_B.reshape(groups), valid_PR)
    if cfg.penalty_site == "advantage":
        advantage_PR = jnp.where(penalised_B.reshape(groups) & valid_PR, cfg.penalty, advantage_PR)
    return jax.lax.stop_gradient(advantage_PR.reshape(-1))


def mixed_groups(scores: Scores, num_responses: int) -> jax.Array:
    """bool[P]: groups with both right and wrong responses, judged on raw correctness, not on the penalised reward.

    What a report or a filter of groups may look at: by the penalised reward, a group of wrong answers with one cut off
    would pass as one that can be learnt from.

    Args:
      scores: of B = P * R responses.
      num_responses: R.
    """
    outcome_PR = scores.outcome_B.reshape(-1, num_responses)
    return (outcome_PR == 1).any(axis=-1) & (outcome_PR == 0).any(axis=-1)
