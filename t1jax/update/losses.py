# SPDX-License-Identifier: Apache-2.0
"""From hidden states to the loss: log-probabilities and entropy of tokens in chunks, policy loss, SFT loss.

prompts -> rollouts -> rewards -> advantages -> UPDATE.

    L = - mean_i A_i sum_t log pi(y_it)  -  alpha * H  [ + beta * mean_i sum_t k2_it  with kl_site "loss" ]

`policy_loss` gives one micro-batch's share of L: it divides by `LossCounts` of the whole batch, which are known before
any gradient, so the shares and their gradients simply add up.

Axes: B rows, T positions, D width, V vocabulary, c chunks of t positions each.
Source: T1 (arXiv 2501.11651) section 2, loss.
Deliberately not here: the forward pass (model/), the advantage (advantages.py), the optimiser (optim.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from t1jax.config import RlConfig
from t1jax.devices import scopes
from t1jax.devices.sharding import Layout
from t1jax.model.precision import einsum, rounded
from t1jax.types import Packed
from t1jax.update.masking import masked, masked_sum


def predictors(x_BTD: jax.Array) -> jax.Array:
    """The one-token shift, and the only one: out[:, t] = x[:, t - 1], the state that predicts token t.

    out[:, 0] is zero: nothing in the row predicts its first token, so that one must never count.

    Args:
      x_BTD: [B, T, ...], anything that stands one step before what it predicts.
    """
    return jnp.concatenate([jnp.zeros_like(x_BTD[:, :1]), x_BTD[:, :-1]], axis=1)


def token_logprobs_and_entropy(
    hidden_BTD: jax.Array,
    w_DV: jax.Array,
    tokens_BT: jax.Array,
    counted_BT: jax.Array,
    temperature: float,
    chunks: int,
    layout: Layout | None = None,
) -> tuple[jax.Array, jax.Array]:
    """log pi(token) and the entropy of pi = softmax(hidden @ w / temperature), exact over the vocabulary.

    With z = hidden @ w / temperature and lse = logsumexp(z):  log pi(y) = z_y - lse,  H = lse - sum_v pi_v z_v.
    The positions are taken in `chunks` parts, one after the other, forward and backward; logits are computed again in
    the backward pass. At most B * ceil(T / chunks) * V logits exist at a time, and chunks after the last counted
    position are not computed. Rows stay whole, so that a batch split over devices stays where it is. Source: T1
    section 2, loss, H = token-level entropy.

    Args:
      hidden_BTD: compute dtype; hidden_BTD[b, t] is the state that PREDICTS tokens_BT[b, t]: see `predictors`.
      w_DV: the head's float32 master, or a copy in compute dtype. It is cast to the dtype of the hidden states; logits,
        and its gradient, are accumulated in float32.
      tokens_BT: int32.
      counted_BT: bool; where it is False nothing is read (hidden and token may be anything, NaN too), both results
        are 0 and no gradient flows.
      temperature: > 0; of the sampler, or the log-probabilities are not those of the samples. Constant in gradients.
      chunks: parts of the T positions; need not divide T.
      layout: by which the cast head is made whole along D, once for all chunks; None: it stays where it is.

    Returns:
      float32[B, T] log-probabilities, nats, and float32[B, T] entropies, nats.
    """
    B, T = tokens_BT.shape
    length = -(-T // chunks)
    chunks = -(-T // length)

    def parts(x: jax.Array) -> jax.Array:  # [B, T, ...] -> [chunks, B * length, ...], padded with zeros
        x = jnp.pad(x, ((0, 0), (0, chunks * length - T)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(B, chunks, length, *x.shape[2:]).swapaxes(0, 1)

    hidden_BTD = jnp.where(counted_BT[:, :, None], hidden_BTD, jnp.zeros_like(hidden_BTD))
    tokens_BT = jnp.where(counted_BT, tokens_BT, 0)
    inverse = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
    counted_c = parts(counted_BT).any((1, 2))
    used = jnp.max(jnp.where(counted_c, jnp.arange(1, chunks + 1), 0))
    out = _chunked(layout, parts(hidden_BTD), w_DV, parts(tokens_BT), inverse, used)
    logprob_BT, entropy_BT = (x.swapaxes(0, 1).reshape(B, chunks * length)[:, :T] for x in out)
    return masked(logprob_BT, counted_BT), masked(entropy_BT, counted_BT)


def logprob_and_entropy(z_BtV: jax.Array, tokens_Bt: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log pi(token) = z_y - lse,  H = lse - sum_v pi_v z_v,  and lse, of pi = softmax(z); all nats, float32[B, t].

    z may hold -inf: such a token weighs nothing. The token's own score is a masked sum, not a gather, so that a
    vocabulary split over devices is not collected on one.
    """
    lse_Bt = jax.nn.logsumexp(z_BtV, axis=-1)
    p_BtV = jnp.exp(z_BtV - lse_Bt[:, :, None])
    mean_Bt = jnp.where(p_BtV > 0, p_BtV * z_BtV, 0.0).sum(-1)
    own_Bt = jnp.where(_is_token(z_BtV, tokens_Bt), z_BtV, 0.0).sum(-1)
    return own_Bt - lse_Bt, lse_Bt - mean_Bt, lse_Bt


def logprob_and_entropy_gradient(
    z_BtV: jax.Array, tokens_Bt: jax.Array, lse_Bt: jax.Array, entropy_Bt: jax.Array, g_Bt: jax.Array, h_Bt: jax.Array
) -> jax.Array:
    """d(g log pi(y) + h H) / dz_v = g [v = y] - pi_v (g + h (log pi_v + H)), float32[B, t, V].

    From  d log pi(y) / dz_v = [v = y] - pi_v  and  dH / dz_v = - pi_v (log pi_v + H).
    """
    log_p_BtV = z_BtV - lse_Bt[:, :, None]
    p_BtV = jnp.exp(log_p_BtV)
    pull_BtV = g_Bt[:, :, None] + h_Bt[:, :, None] * (log_p_BtV + entropy_Bt[:, :, None])
    return jnp.where(_is_token(z_BtV, tokens_Bt), g_Bt[:, :, None], 0.0) - jnp.where(p_BtV > 0, p_BtV * pull_BtV, 0.0)


def _is_token(z_BtV: jax.Array, tokens_Bt: jax.Array) -> jax.Array:
    return jnp.arange(z_BtV.shape[-1])[None, None, :] == tokens_Bt[:, :, None]


def _scores(hidden_BtD: jax.Array, w_DV: jax.Array, inverse: jax.Array) -> jax.Array:
    """z_BtV = hidden @ w / temperature, float32."""
    return einsum("BtD,DV->BtV", hidden_BtD, w_DV) * inverse


def _cast(layout: Layout | None, w_DV: jax.Array, like: jax.Array) -> jax.Array:
    """The head as the products read it."""
    w_DV = w_DV.astype(like.dtype)
    return w_DV if layout is None else layout.constrain(w_DV, None, "vocab")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(
    layout: Layout | None,
    hidden_cBtD: jax.Array,
    w_DV: jax.Array,
    tokens_cBt: jax.Array,
    inverse: jax.Array,
    used: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """log pi(token) and H, [c, B, t], one chunk c after the other; 0 from chunk `used` on.

    Its gradient is written out: the backward pass makes a chunk's logits and pi once (automatic differentiation under
    jax.checkpoint also repeats the reductions), and the head's gradient is added up in float32 and given to its master.
    """
    return _chunked_forward(layout, hidden_cBtD, w_DV, tokens_cBt, inverse, used)[0]


def _chunk(tree: Any, c: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, c, keepdims=False), tree)


def _chunked_forward(
    layout: Layout | None,
    hidden_cBtD: jax.Array,
    w_DV: jax.Array,
    tokens_cBt: jax.Array,
    inverse: jax.Array,
    used: jax.Array,
) -> Any:
    cast_DV = _cast(layout, w_DV, hidden_cBtD)

    def one(c: jax.Array, out: Any) -> Any:
        hidden_BtD, tokens_Bt = _chunk((hidden_cBtD, tokens_cBt), c)
        found = logprob_and_entropy(_scores(hidden_BtD, cast_DV, inverse), tokens_Bt)
        return tuple(jax.lax.dynamic_update_index_in_dim(x, new, c, 0) for x, new in zip(out, found, strict=True))

    zero_cBt = jnp.zeros(tokens_cBt.shape, jnp.float32)
    with jax.named_scope(scopes.HEAD_CHUNKS):
        logprob, entropy, lse = jax.lax.fori_loop(0, used, one, (zero_cBt, zero_cBt, zero_cBt))
    return (logprob, entropy), (hidden_cBtD, w_DV, tokens_cBt, inverse, used, lse, entropy)


def _chunked_backward(layout: Layout | None, saved: Any, gradients: tuple[jax.Array, jax.Array]) -> Any:
    hidden_cBtD, w_DV, tokens_cBt, inverse, used, lse, entropy = saved
    cast_DV = _cast(layout, w_DV, hidden_cBtD)

    def one(c: jax.Array, so_far: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        dw_DV, dhidden_cBtD = so_far
        hidden_BtD, *rest = _chunk((hidden_cBtD, tokens_cBt, lse, entropy, *gradients), c)
        dz_BtV = logprob_and_entropy_gradient(_scores(hidden_BtD, cast_DV, inverse), *rest) * inverse
        dz_BtV = rounded(dz_BtV, hidden_BtD.dtype)
        dhidden_BtD = einsum("BtV,DV->BtD", dz_BtV, cast_DV)
        dw_DV = dw_DV + einsum("BtD,BtV->DV", hidden_BtD, dz_BtV)
        return dw_DV, jax.lax.dynamic_update_index_in_dim(dhidden_cBtD, dhidden_BtD.astype(hidden_BtD.dtype), c, 0)

    start = (jnp.zeros(w_DV.shape, jnp.float32), jnp.zeros_like(hidden_cBtD))
    with jax.named_scope(scopes.HEAD_CHUNKS):
        dw_DV, dhidden_cBtD = jax.lax.fori_loop(0, used, one, start)
    return dhidden_cBtD, dw_DV.astype(w_DV.dtype), None, None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


@struct.dataclass
class LossCounts:
    """What summed losses are divided by. Of the WHOLE batch: all micro-batches, all devices."""

    objective: jax.Array  # float32[] scorable responses, or their sampled tokens (cfg.rl.loss_normalisation)
    tokens: jax.Array  # float32[] sampled tokens of all responses


def loss_counts(sampled_BT: jax.Array, scorable_B: jax.Array, normalisation: str) -> LossCounts:
    """The divisors of the loss, from the masks of the whole batch: before any gradient, before it is split.

    normalisation "response": the policy term is divided by the number of scorable responses (T1's mean_i);
    "token": by the number of their sampled tokens.

    Args:
      sampled_BT: bool.
      scorable_B: bool, from advantages.scorable. A response without tokens counts as well.
      normalisation: cfg.rl.loss_normalisation.
    """
    tokens_B = sampled_BT.sum(axis=-1, dtype=jnp.int32)
    weight_B = tokens_B if normalisation == "token" else jnp.ones_like(tokens_B)
    objective = jnp.where(scorable_B, weight_B, 0).sum()  # integers: exact
    return LossCounts(objective.astype(jnp.float32), tokens_B.sum().astype(jnp.float32))


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
    objective = masked_sum(per_token, counted) / jnp.maximum(counts.objective, 1.0)
    return objective - cfg.entropy_coef * masked_sum(entropy, sampled) / jnp.maximum(counts.tokens, 1.0)


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
