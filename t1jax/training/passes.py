# SPDX-License-Identifier: Apache-2.0
"""The passes of an RL update through the model: log-probabilities, and the gradient of the policy loss.

Responses go through the model in packed rows, a part of them at a time, as far as rows are filled. Gradients of parts
are summed in float32; the loss is divided by counts of the whole batch, so the sum needs no division.

Axes: j parts of b packed rows, S positions of a row; B rows of one part or responses, T their positions, D width.
Deliberately not here: the loss (losses.py), the rows (packing.py), what is done with the gradient (step.py).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from t1jax.devices import scopes
from t1jax.model import precision, qwen
from t1jax.training.setup import RlSetup
from t1jax.types import LossScale, Params
from t1jax.update import losses, optim, packing
from t1jax.update.logprobs import token_logprobs_and_entropy


def token_stats(
    setup: RlSetup, params: Params, rows: packing.Rows, adapters: Params | None = None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """log-probabilities and entropies, float32[b, S] nats, of the sampled tokens of one part.

    And int32[], how many of them are predicted by a state that took another route through the experts than it did in
    sampling; None without experts. `params`, `adapters`: as qwen.forward takes them.
    """
    hidden_bSD, _, route_bS = qwen.forward_and_routes(
        setup.learner,
        params,
        rows.tokens_jbS,
        rows.position_jbS,
        segment_BT=rows.segment_jbS,
        parent_BT=rows.parent_jbS,
        adapters=adapters,
    )
    logprob_bS, entropy_bS = token_logprobs_and_entropy(
        precision.pick(hidden_bSD, rows.state_jbS),
        qwen.head(params),
        rows.target_jbS,
        rows.sampled_jbS,
        setup.cfg.rl.learner_temperature,
        setup.cfg.rl.vocab_chunks,
        setup.layout,
        frozen=adapters is not None,
    )
    rerouted = None
    if route_bS is not None:
        other_bS = jnp.take_along_axis(route_bS, rows.state_jbS, axis=1) != rows.route_jbS
        rerouted = (other_bS & rows.sampled_jbS).sum(dtype=jnp.int32)
    return logprob_bS, entropy_bS, rerouted


def logprobs(setup: RlSetup, params: Params, rows: packing.Rows, parts: jax.Array) -> jax.Array:
    """float32[j, b, S]: log-probabilities of the sampled tokens under `params`; 0 elsewhere. No gradient."""

    def one(j: jax.Array, logprob_jbS: jax.Array) -> jax.Array:
        logprob_bS, *_ = token_stats(setup, params, packing.part(rows, j))
        return _put(logprob_jbS, logprob_bS, j)

    return jax.lax.fori_loop(0, parts, one, jnp.zeros_like(rows.logprob_jbS))


def policy_gradient(
    setup: RlSetup,
    trained: Params,
    read: Params,
    loss_scale: LossScale | None,
    rows: packing.Rows,
    parts: jax.Array,
    anchor_jbS: jax.Array,
    scorable_jbS: jax.Array,
    advantage_jbS: jax.Array,
    share_jbS: jax.Array | None,
    counts: losses.LossCounts,
    alpha: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None, Params]:
    """The loss of all parts, float32[]; log-probabilities, float32[j, b, S]; how many tokens took another route, as in
    `token_stats`; the scaled gradient of `trained`.

    `trained`, `read`: TrainState.params, and what the model reads; see `Setup.differentiated`.
    """

    def loss(trained: Params, part: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
        rows, anchor_bS, scorable_bS, advantage_bS, share_bS = part
        params, adapters = setup.differentiated(trained, read)
        logprob_bS, entropy_bS, rerouted = token_stats(setup, params, rows, adapters)
        share = losses.policy_loss(
            logprob_bS,
            entropy_bS,
            anchor_bS,
            rows.sampled_jbS,
            scorable_bS,
            advantage_bS,
            counts,
            setup.cfg.rl,
            rows.logprob_jbS,
            share_bS,
            alpha,
        )
        return optim.scaled(share, loss_scale), (share, logprob_bS, rerouted)

    def accumulate(j: jax.Array, total: Any) -> Any:
        part = packing.part((rows, anchor_jbS, scorable_jbS, advantage_jbS, share_jbS), j)
        gradient, (share, logprob_bS, rerouted) = jax.grad(loss, has_aux=True)(trained, part)
        loss_sum, logprob_jbS, count, gradients = total
        summed = (loss_sum, count, gradients), (share, rerouted, gradient)
        loss_sum, count, gradients = jax.tree.map(jnp.add, *summed)
        return loss_sum, _put(logprob_jbS, logprob_bS, j), count, gradients

    count = None if rows.route_jbS is None else jnp.int32(0)
    zero = (jnp.float32(0), jnp.zeros_like(rows.logprob_jbS), count, jax.tree.map(jnp.zeros_like, trained))
    with jax.named_scope(scopes.UPDATE_PARTS):
        total: tuple[jax.Array, jax.Array, jax.Array | None, Params]
        total = jax.lax.fori_loop(0, parts, accumulate, zero)
    return total


def _put(x_jbS: jax.Array, x_bS: jax.Array, j: jax.Array) -> jax.Array:
    """With part j set."""
    return jax.lax.dynamic_update_index_in_dim(x_jbS, x_bS, j, axis=0)
