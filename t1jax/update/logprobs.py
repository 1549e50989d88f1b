# SPDX-License-Identifier: Apache-2.0
"""From hidden states to log-probabilities and entropies of tokens, in chunks, so that the scores are never whole.

prompts -> rollouts -> rewards -> advantages -> UPDATE.

Axes: B rows, T positions, D width, V vocabulary, c chunks of t positions each, X shards of the batch.
Source: T1 (arXiv 2501.11651) section 2, loss, H = token-level entropy.
Deliberately not here: the forward pass (model/), what is done with them (losses.py, advantages.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from t1jax.devices import scopes
from t1jax.devices.sharding import Layout
from t1jax.model.precision import einsum, rounded
from t1jax.update.masking import masked


def predictors(x: jax.Array) -> jax.Array:
    """The one-token shift, and the only one: out[:, t] = x[:, t - 1], the state that predicts token t.

    out[:, 0] is zero: nothing in the row predicts its first token, so that one must never count.

    Args:
      x: [B, T, ...]: it stands one step before what it predicts.
    """
    return jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], axis=1)


def token_logprobs_and_entropy(
    hidden_BTD: jax.Array,
    w_DV: jax.Array,
    tokens_BT: jax.Array,
    counted_BT: jax.Array,
    temperature: float,
    chunks: int,
    layout: Layout | None = None,
    frozen: bool = False,
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
      frozen: the head has no gradient, and none is made.

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
    out = _chunked(layout, frozen, parts(hidden_BTD), w_DV, parts(tokens_BT), inverse, used)
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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked(
    layout: Layout | None,
    frozen: bool,
    hidden_cBtD: jax.Array,
    w_DV: jax.Array,
    tokens_cBt: jax.Array,
    inverse: jax.Array,
    used: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """log pi(token) and H, [c, B, t], one chunk c after the other; 0 from chunk `used` on.

    Its gradient is written out: the backward pass makes a chunk's logits and pi once (automatic differentiation under
    jax.checkpoint also repeats the reductions), and the head's gradient is added up in float32 and given to its master:
    each shard of the batch adds up its own chunks, so that devices exchange it once.
    """
    return _chunked_forward(layout, frozen, hidden_cBtD, w_DV, tokens_cBt, inverse, used)[0]


def _chunk(tree: Any, c: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, c, keepdims=False), tree)


def _chunked_forward(
    layout: Layout | None,
    frozen: bool,
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


def _chunked_backward(layout: Layout | None, frozen: bool, saved: Any, gradients: tuple[jax.Array, jax.Array]) -> Any:
    hidden_cBtD, w_DV, tokens_cBt, inverse, used, lse, entropy = saved
    cast_DV = _cast(layout, w_DV, hidden_cBtD)
    X = 1 if layout is None else layout.batch_shards

    def each(dw_XDV: jax.Array) -> jax.Array:
        return dw_XDV if layout is None else layout.constrain(dw_XDV, "batch", None, "vocab")

    def one(c: jax.Array, so_far: tuple[jax.Array | None, jax.Array]) -> tuple[jax.Array | None, jax.Array]:
        dw_XDV, dhidden_cBtD = so_far
        hidden_BtD, *rest = _chunk((hidden_cBtD, tokens_cBt, lse, entropy, *gradients), c)
        dz_BtV = logprob_and_entropy_gradient(_scores(hidden_BtD, cast_DV, inverse), *rest) * inverse
        dz_BtV = rounded(dz_BtV, hidden_BtD.dtype)
        dhidden_BtD = einsum("BtV,DV->BtD", dz_BtV, cast_DV)
        if dw_XDV is not None:
            hidden_XBtD, dz_XBtV = (x.reshape(X, -1, *x.shape[1:]) for x in (hidden_BtD, dz_BtV))
            dw_XDV = each(dw_XDV + einsum("XBtD,XBtV->XDV", hidden_XBtD, dz_XBtV))
        return dw_XDV, jax.lax.dynamic_update_index_in_dim(dhidden_cBtD, dhidden_BtD.astype(hidden_BtD.dtype), c, 0)

    zero_XDV = None if frozen else each(jnp.zeros((X, *w_DV.shape), jnp.float32))
    start = (zero_XDV, jnp.zeros_like(hidden_cBtD))
    with jax.named_scope(scopes.HEAD_CHUNKS):
        dw_XDV, dhidden_cBtD = jax.lax.fori_loop(0, used, one, start)
    if dw_XDV is None:
        return dhidden_cBtD, None, None, None, None
    dw_DV = dw_XDV[0] if layout is None else _over_shards(layout, dw_XDV)
    return dhidden_cBtD, dw_DV.astype(w_DV.dtype), None, None, None


def _over_shards(layout: Layout, dw_XDV: jax.Array) -> jax.Array:
    """The sum over the shards of the batch: each of `fsdp` keeps its part, and then replicas add up their parts."""
    replicas = dw_XDV.reshape(layout.mesh.shape["data"], -1, *dw_XDV.shape[1:]).sum(1)
    parts = NamedSharding(layout.mesh, PartitionSpec("data", *layout.spec("embed", "vocab")))
    return layout.constrain(jax.lax.with_sharding_constraint(replicas, parts).sum(0), "embed", "vocab")


_chunked.defvjp(_chunked_forward, _chunked_backward)
