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
) -> tuple[jax.Array, jax.Array]:
    """log-probabilities and entropies, float32[b, S] nats, of the sampled tokens of one part.

    `params`, `adapters`: as qwen.forward takes them.
    """
    hidden_bSD, _ = qwen.forward(
        setup.learner,
        params,
        rows.tokens_jbS,
        rows.position_jbS,
        segment_BT=rows.segment_jbS,
        parent_BT=rows.parent_jbS,
        adapters=adapters,
    )
    return token_logprobs_and_entropy(
        precision.pick(hidden_bSD, rows.state_jbS),
        qwen.head(params),
        rows.target_jbS,
        rows.sampled_jbS,
        setup.cfg.rl.learner_temperature,
        setup.cfg.rl.vocab_chunks,
        setup.layout,
        frozen=adapters is not None,
    )


def logprobs(setup: RlSetup, params: Params, rows: packing.Rows, parts: jax.Array) -> jax.Array:
    """float32[j, b, S]: log-probabilities of the sampled tokens under `params`; 0 elsewhere. No gradient."""

    def one(j: jax.Array, logprob_jbS: jax.Array) -> jax.Array:
        logprob_bS, _ = token_stats(setup, params, packing.part(rows, j))
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
) -> tuple[jax.Array, jax.Array, Params]:
    """The loss of all parts, float32[]; log-probabilities, float32[j, b, S]; the scaled gradient of `trained`.

    `trained`, `read`: TrainState.params, and what the model reads; see `Setup.differentiated`.
    """

    def loss(trained: Params, part: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        rows, anchor_bS, scorable_bS, advantage_bS, share_bS = part
        params, adapters = setup.differentiated(trained, read)
        logprob_bS, entropy_bS = token_stats(setup, params, rows, adapters)
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
        return optim.scaled(share, loss_scale), (share, logprob_bS)

    def accumulate(j: jax.Array, total: Any) -> Any:
        part = packing.part((rows, anchor_jbS, scorable_jbS, advantage_jbS, share_jbS), j)
        gradient, (share, logprob_bS) = jax.grad(loss, has_aux=True)(trained, part)
        loss_sum, logprob_jbS, gradients = total
        return loss_sum + share, _put(logprob_jbS, logprob_bS, j), jax.tree.map(jnp.add, gradients, gradient)

    zero = (jnp.float32(0), jnp.zeros_like(rows.logprob_jbS), jax.tree.map(jnp.zeros_like, trained))
    with jax.named_scope(scopes.UPDATE_PARTS):
        total: tuple[jax.Array, jax.Array, Params] = jax.lax.fori_loop(0, parts, accumulate, zero)
    return total


def _put(x_jbS: jax.Array, x_bS: jax.Array, j: jax.Array) -> jax.Array:
    """With part j set."""
    return jax.lax.dynamic_update_index_in_dim(x_jbS, x_bS, j, axis=0)
