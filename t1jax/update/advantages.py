# SPDX-License-Identifier: Apache-2.0
"""How much better than its siblings each response was: leave-one-out reward, leave-one-out KL.

prompts -> rollouts -> rewards -> ADVANTAGES -> update. One equation of the paper a function:

    r_i     = 1 if right, else 0; or what functions say      raw_reward
    r'_i    = -1 if penalised, else r_i                      penalised_reward
    rbar_i  = r'_i - mean_{j != i} r'_j                      leave_one_out, less_baseline
    k_i     = sum_t clip(log pi - log pi_ref, -c, c)         kl_of_token, summed by packing.total
    kbar_i  = k_i - mean_{j != i} k_j                        leave_one_out
    A_i     = rbar_i - beta * kbar_i                         advantages

A response whose checker failed (outcome -1, unscorable) has advantage 0 and is in nobody's baseline: it is neither
right nor wrong.

Axes: P prompts, R responses per prompt, B = P * R rows (b = p * R + r), T response positions.
Source: T1 (arXiv 2501.11651) section 2; the clamp from THUDM/TreeRL.
Deliberately not here: the rules that score and penalise (rewards/), the loss (losses.py).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t1jax.config import RlConfig
from t1jax.types import Array, Scores
from t1jax.update.masking import masked


def scorable(scores: Scores) -> Array:
    """bool[B]: the checker gave an answer. False rows enter no baseline, mean or gradient of reward."""
    return scores.outcome_B >= 0


def penalised(scores: Scores) -> Array:
    """bool[B]: repetitive, overlong, garbled or of too high a perplexity. Source: T1 section 2, penalty."""
    return scores.overlong_B | scores.repetition_B | scores.garbled_B | scores.perplexed_B


def surprise(logprob_BT: jax.Array, sampled_BT: jax.Array) -> jax.Array:
    """float32[B]: the mean of -log pi over the tokens of each response, nats; 0 without tokens. exp: its perplexity.

    Args:
      logprob_BT: float32, of the policy that sampled, at the sampling temperature.
      sampled_BT: bool.
    """
    count_B = jnp.maximum(sampled_BT.sum(-1, dtype=jnp.float32), 1.0)
    return -masked(logprob_BT, sampled_BT).sum(-1) / count_B


def perplexed(logprob_BT: jax.Array, sampled_BT: jax.Array, cfg: RlConfig) -> jax.Array:
    """bool[B]: the perplexity is above cfg.max_perplexity; with 0 none. Source: T1 section 2, the perplexity filter."""
    if not cfg.max_perplexity:
        return jnp.zeros(sampled_BT.shape[:1], bool)
    return surprise(logprob_BT, sampled_BT) > math.log(cfg.max_perplexity)


def raw_reward(scores: Scores, xp: Any = jnp) -> Array:
    """float32[B]: r_i, 1 if right, else 0; or what reward.function says. Meaningless where not `scorable`."""
    return (scores.outcome_B == 1).astype(xp.float32) if scores.reward_B is None else scores.reward_B


def penalised_reward(reward_B: Array, penalised_B: Array, penalty: float, xp: Any = jnp) -> Array:
    """r'_i = penalty if penalised, else r_i.

    A right answer does not buy off the penalty. Source: T1 section 2, correctness and penalty.

    Args:
      reward_B: float32, `raw_reward`.
      penalised_B: bool.
      penalty: reward of a penalised response, cfg.rl.penalty.
      xp: jax.numpy, or numpy for arrays of the host.

    Returns:
      float32[B].
    """
    return xp.where(penalised_B, xp.float32(penalty), reward_B)


def group_reward(scores: Scores, cfg: RlConfig, xp: Any = jnp) -> Array:
    """float32[B]: the reward that a group's baseline is of, by cfg.penalty_site:

    "reward": r', penalised; "advantage": r, penalised or not; "wrong": r, but 0 if penalised.
    """
    if cfg.penalty_site == "wrong":
        return penalised_reward(raw_reward(scores, xp), penalised(scores), 0.0, xp)
    penalised_B = penalised(scores) & (cfg.penalty_site == "reward")
    return penalised_reward(raw_reward(scores, xp), penalised_B, cfg.penalty, xp)


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


def kl_of_token(logprob: jax.Array, anchor_logprob: jax.Array, sampled: jax.Array, clip: float) -> jax.Array:
    """clip(log pi(y_t) - log pi_ref(y_t), -clip, clip): the k1 estimator of KL(pi || pi_ref), a token's share of k_i.

    k_i is its sum over the tokens of response i. All arrays have one shape, any: an entry is a token.
    Source: T1 section 2, on-policy KL normalisation; k1 and the clamp from THUDM/TreeRL.

    Args:
      logprob: float32, of the tokens under the policy, at the sampling temperature.
      anchor_logprob: float32, under the anchor, at the same temperature.
      sampled: bool, the tokens that count; elsewhere nothing is read.
      clip: nats, cfg.rl.kl_clip; infinity for no clamp.

    Returns:
      float32, nats; 0 where not sampled.
    """
    return masked(jnp.clip(logprob - anchor_logprob, -clip, clip), sampled)


def advantages(scores: Scores, kl_B: jax.Array, cfg: RlConfig) -> jax.Array:
    """A_i = rbar_i - beta * kbar_i; no gradient flows through it.

    penalty_site "reward": the penalty is part of r', so siblings of a penalised response look better by it.
    "advantage": baselines are of raw correctness, and a penalised response's advantage is the penalty itself. "wrong":
    the same, but in the baseline a penalised response counts as wrong.
    kl_site "reward": as written. "loss": A_i = rbar_i alone; the KL is a term of losses.policy_loss. "token": likewise;
    the KL of each token is taken off beside it, A_it = A_i - beta clip(k_it) (`token_advantages`).
    advantage_floor: rbar_i is at least minus the largest of its group, before penalties replace it.
    Source: T1 section 2, advantage; "wrong", "token" and the floor: THUDM/TreeRL.

    Args:
      scores: of B = P * R responses, the R of a prompt together.
      kl_B: float32, k_i of each response; not read with kl_site "loss".
      cfg: responses_per_prompt, baseline, penalty, penalty_site, kl_site, kl_coef, advantage_floor.

    Returns:
      float32[B]; 0 for unscorable rows and for rows without a scorable sibling.
    """
    groups = (-1, cfg.responses_per_prompt)
    valid_PR = scorable(scores).reshape(groups)
    penalised_B = penalised(scores)
    advantage_PR = less_baseline(group_reward(scores, cfg).reshape(groups), valid_PR, cfg.baseline)
    if cfg.advantage_floor:
        advantage_PR = jnp.maximum(advantage_PR, -advantage_PR.max(axis=-1, keepdims=True))
    if cfg.kl_site == "reward":
        advantage_PR = advantage_PR - cfg.kl_coef * leave_one_out(kl_B.reshape(groups), valid_PR)
    if cfg.penalty_site != "reward":
        advantage_PR = jnp.where(penalised_B.reshape(groups) & valid_PR, cfg.penalty, advantage_PR)
    return jax.lax.stop_gradient(advantage_PR.reshape(-1))


def token_advantages(advantage: jax.Array, kl: jax.Array, cfg: RlConfig) -> jax.Array:
    """A_it = A_i - beta * clip(k_it) with kl_site "token", else A_i; an entry a token, no gradient flows through it.

    Args:
      advantage: float32, of the token's response.
      kl: float32, `kl_of_token`.
      cfg: kl_site, kl_coef.
    """
    if cfg.kl_site != "token":
        return advantage
    return advantage - cfg.kl_coef * jax.lax.stop_gradient(kl)


def teaches(scores: Scores, cfg: RlConfig) -> np.ndarray:
    """bool[B]: responses that can have a gradient; all, unless entropy_coef and kl_coef are 0. On the host, in NumPy.

    Without the two, only an advantage gives one: `advantages` is 0 for what is unscorable, and for all of a group whose
    rewards are equal.

    Args:
      scores: NumPy arrays of whole groups, the R responses of a prompt together.
      cfg: as for `advantages`, and entropy_coef.
    """
    valid_B, penalised_B = scorable(scores), penalised(scores)
    if cfg.entropy_coef or cfg.kl_coef:
        return np.ones_like(valid_B)
    groups = (-1, cfg.responses_per_prompt)
    reward_B = group_reward(scores, cfg, np)
    highest_P = np.where(valid_B, reward_B, -np.inf).reshape(groups).max(-1)
    lowest_P = np.where(valid_B, reward_B, np.inf).reshape(groups).min(-1)
    teaches_B = np.repeat(highest_P > lowest_P, cfg.responses_per_prompt)
    if cfg.penalty_site != "reward" and cfg.penalty:
        teaches_B |= penalised_B
    return teaches_B & valid_B


def mixed_groups(scores: Scores, num_responses: int, xp: Any = jnp) -> Array:
    """bool[P]: groups with both right and wrong responses, or with different rewards, before penalties.

    What a report or a filter of groups may look at: by the penalised reward, a group of wrong answers with one cut off
    would pass as one that can be learnt from.

    Args:
      scores: of B = P * R responses.
      num_responses: R.
      xp: jax.numpy, or numpy for arrays of the host.
    """
    reward_PR, valid_PR = (x.reshape(-1, num_responses) for x in (raw_reward(scores, xp), scorable(scores)))
    highest_P = xp.where(valid_PR, reward_PR, -xp.inf).max(axis=-1)
    return highest_P > xp.where(valid_PR, reward_PR, xp.inf).min(axis=-1)


def kept(scores: Scores, num_responses: int, groups: int) -> np.ndarray:
    """bool[B]: the responses of so many groups: of mixed ones first, then of others, both in their order. In NumPy.

    A step that has sampled more groups than its update takes learns from these. One round, of a size that is known
    before: groups that are not mixed fill what mixed ones leave.
    Source: dynamic sampling of DAPO, arXiv 2503.14476 section 3.2, which draws until all groups are mixed.

    Args:
      scores: NumPy arrays of B = P * R responses.
      num_responses: R.
      groups: at most P.
    """
    mixed_P = mixed_groups(scores, num_responses, np)
    kept_P = np.zeros_like(mixed_P)
    kept_P[np.argsort(~mixed_P, kind="stable")[:groups]] = True
    return np.repeat(kept_P, num_responses)


def penalty_variance(scores: Scores, cfg: RlConfig) -> jax.Array:
    """float32[], 0..1: the share of the variance of r' within groups that is between penalised responses and others.

    Near 1, a step learns to escape penalties and hardly to be right. 0 if no group's rewards differ.

    Args:
      scores: of B = P * R responses; unscorable ones are left out.
      cfg: responses_per_prompt, penalty.
    """
    groups = (-1, cfg.responses_per_prompt)
    valid_PR, penalised_PR = (x.reshape(groups) for x in (scorable(scores), penalised(scores)))
    reward_PR = penalised_reward(raw_reward(scores), penalised(scores), cfg.penalty).reshape(groups)

    def mean(mask_PR: jax.Array) -> jax.Array:
        count_P1 = jnp.maximum(mask_PR.sum(-1, keepdims=True, dtype=jnp.float32), 1.0)
        return masked(reward_PR, mask_PR).sum(-1, keepdims=True) / count_P1

    apart_PR = jnp.where(penalised_PR, mean(valid_PR & penalised_PR), mean(valid_PR & ~penalised_PR)) - mean(valid_PR)
    of_penalty = masked(jnp.square(apart_PR), valid_PR).sum()
    of_all = masked(jnp.square(reward_PR - mean(valid_PR)), valid_PR).sum()
    return jnp.where(of_all > 1e-6, of_penalty / jnp.maximum(of_all, 1e-6), 0.0)
