# SPDX-License-Identifier: Apache-2.0
"""From log-probabilities of tokens to the loss: policy loss, SFT loss.

prompts -> rollouts -> rewards -> advantages -> UPDATE.

    L = - mean_i A_i sum_t log pi(y_it)  -  alpha * H  [ + beta * mean_i sum_t k2_it  with kl_site "loss" ]

`policy_loss` gives one micro-batch's share of L: it divides by `LossCounts` of the whole batch, which are known before
any gradient, so the shares and their gradients simply add up.

Axes: B rows, T positions; the policy loss takes tokens in any shape.
Source: T1 (arXiv 2501.11651) section 2, loss.
Deliberately not here: log-probabilities (logprobs.py), the advantage (advantages.py), the optimiser (optim.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from t1jax.config import RlConfig
from t1jax.types import Packed
from t1jax.update.logprobs import predictors
from t1jax.update.masking import Mean, masked, masked_sum


@struct.dataclass
class LossCounts:
    """What summed losses are divided by. Of the WHOLE batch: all micro-batches, all devices."""

    objective: jax.Array  # float32[] scorable responses, or their sampled tokens (cfg.rl.loss_normalisation)
    tokens: jax.Array  # float32[] sampled tokens of all responses


def loss_counts(sampled_BT: jax.Array, scorable_B: jax.Array, normalisation: str) -> LossCounts:
    """The divisors of the loss, from the masks of the whole batch: before any gradient, before it is split.

    normalisation "response": the policy term is divided by the number of scorable responses (T1's mean_i);
    "response_mean": likewise, after each response's sum is divided by its tokens (`shares`); "token": by the number of
    sampled tokens of scorable responses.

    Args:
      sampled_BT: bool.
      scorable_B: bool, from advantages.scorable. A response without tokens counts as well.
      normalisation: cfg.rl.loss_normalisation.
    """
    tokens_B = sampled_BT.sum(axis=-1, dtype=jnp.int32)
    weight_B = tokens_B if normalisation == "token" else jnp.ones_like(tokens_B)
    objective = jnp.where(scorable_B, weight_B, 0).sum()  # integers: exact
    return LossCounts(objective.astype(jnp.float32), tokens_B.sum().astype(jnp.float32))


def shares(sampled_BT: jax.Array, normalisation: str) -> jax.Array | None:
    """float32[B]: what the terms of a response's tokens are multiplied by before they are summed; None: by 1.

    "response_mean" takes the mean over the tokens of each response, then over responses, so that a long response weighs
    no more than a short one. Source: THUDM/TreeRL, PolicyLoss.
    """
    if normalisation != "response_mean":
        return None
    return 1.0 / jnp.maximum(sampled_BT.sum(axis=-1, dtype=jnp.float32), 1.0)


def policy_loss(
    logprob: jax.Array,
    entropy: jax.Array,
    anchor_logprob: jax.Array,
    sampled: jax.Array,
    scorable: jax.Array,
    advantage: jax.Array,
    counts: LossCounts,
    cfg: RlConfig,
    sampler_logprob: jax.Array | None = None,
    share: jax.Array | None = None,
    alpha: jax.Array | None = None,
) -> jax.Array:
    """A micro-batch's share of  L = - mean_i A_i sum_t log pi(y_it) - alpha H [+ beta mean_i sum_t k2_it].

    Each entry is a token, in any order and any shape, the same for all arrays; what is said of its response stands
    beside it. Shares of micro-batches add up to L, and their gradients to its gradient, because `counts` are of the
    whole batch. H is the mean entropy of all sampled tokens. With kl_site "loss" the KL to the anchor is the third
    term: k2 = (log pi - log pi_ref)^2 / 2. On samples from pi its expected gradient is
    E[(log pi - log pi_ref) grad log pi] = grad KL(pi || pi_ref), token by token, the text before each token held fixed.
    (k1's is E[grad log pi] = 0: it pulls nowhere. k3's is grad KL(pi_ref || pi): another divergence.)
    Source: T1 section 2, loss; trap 2.

    With ratio_cap c > 0 each token's policy term has the weight min(pi(y_it) / mu(y_it), c), a constant in gradients:
    mu is the sampler, which in bfloat16 is not quite pi. Source: truncated importance sampling between two engines,
    Yao et al. 2025, after Ionides 2008.

    Args:
      logprob: float32, with gradient, at cfg.learner_temperature.
      entropy: float32, with gradient.
      anchor_logprob: float32, no gradient flows into it; not read with kl_site "reward".
      sampled: bool, entries that hold a token; elsewhere nothing is read.
      scorable: bool, of the token's response; where it is False a token adds to the entropy term only.
      advantage: float32, of the token's response; no gradient flows into it.
      counts: `loss_counts` of the whole batch.
      cfg: entropy_coef, kl_site, kl_coef, ratio_cap.
      sampler_logprob: float32, log mu; read with ratio_cap only.
      share: float32, `shares` of the token's response; None: 1.
      alpha: float32[], weight of the entropy (`entropy_weight`); None: cfg.entropy_coef.

    Returns:
      float32[]; 0 where nothing was sampled.

    Raises:
      ValueError: the shapes differ.
    """
    shapes = [x.shape for x in (logprob, entropy, anchor_logprob, sampled, scorable, advantage)]
    if len(set(shapes)) > 1:
        raise ValueError(f"got {', '.join(map(str, shapes))}: expected one shape, an entry for each token")
    counted = sampled & scorable
    logprob = jnp.where(sampled, logprob, 0.0)
    weight = masked(advantage, scorable)
    if cfg.ratio_cap:
        assert sampler_logprob is not None
        ratio = jnp.exp(logprob - masked(sampler_logprob, sampled))
        weight = weight * jnp.minimum(ratio, cfg.ratio_cap)
    per_token = -jax.lax.stop_gradient(weight) * logprob
    if cfg.kl_site == "loss":
        anchor_logprob = jax.lax.stop_gradient(masked(anchor_logprob, sampled))
        per_token = per_token + cfg.kl_coef * 0.5 * jnp.square(logprob - anchor_logprob)
    if share is not None:
        per_token = per_token * masked(share, counted)
    objective = masked_sum(per_token, counted) / jnp.maximum(counts.objective, 1.0)
    return objective - (cfg.entropy_coef if alpha is None else alpha) * masked_sum(entropy, sampled) / jnp.maximum(
        counts.tokens, 1.0
    )


def entropy_weight(entropy_BT: jax.Array, sampled_BT: jax.Array, cfg: RlConfig) -> jax.Array | None:
    """float32[]: alpha, cfg.entropy_coef while the mean entropy of samples is below entropy_target, else 0.

    None without a target: alpha is always cfg.entropy_coef.

    Args:
      entropy_BT: float32, nats, of the sampler.
      sampled_BT: bool.
      cfg: entropy_coef, entropy_target.
    """
    if not cfg.entropy_target:
        return None
    mean = Mean.of(entropy_BT, sampled_BT).value()
    return jnp.where(mean < cfg.entropy_target, jnp.float32(cfg.entropy_coef), 0.0)


def sft_counted(packed: Packed) -> jax.Array:
    """bool[B, T]: tokens that the cold start learns: targets whose predecessor in the row is of the same text."""
    same_text_BT = predictors(packed.segment_BT) == packed.segment_BT
    return packed.target_BT & same_text_BT & (packed.segment_BT > 0)


def sft_loss(logprob_BT: jax.Array, counted_BT: jax.Array, count: jax.Array) -> jax.Array:
    """A micro-batch's share of  L = - (1 / count) sum_counted log pi(token): cross-entropy, nats a token.

    Source: T1 section 1, cold start.

    Args:
      logprob_BT: float32, with gradient, at temperature 1.
      counted_BT: bool, from `sft_counted`.
      count: float32[], counted tokens of the whole batch.
    """
    return -masked_sum(logprob_BT, counted_BT) / jnp.maximum(count, 1.0)
