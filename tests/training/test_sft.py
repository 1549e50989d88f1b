# SPDX-License-Identifier: Apache-2.0
"""The cold start's update: what its loss counts, that parts and devices change nothing, and that it learns."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from float64_model import reference_logits
from small import ONE

from t1jax.training import sft
from t1jax.training.setup import sft_setup
from t1jax.update import optim

CFG = small.make_config()
RATE = 3e-2


@functools.cache
def make(shape=ONE, parts=1, steps=None):
    """(step, a function that makes a new state); with `steps` a real optimiser, else one that keeps the gradient."""
    cfg = dataclasses.replace(
        CFG,
        sft=dataclasses.replace(
            CFG.sft, micro_batches=parts, num_steps=steps or 1, optimizer="muon", learning_rate=RATE
        ),
    )
    mesh = small.make_mesh(shape)
    with pytest.MonkeyPatch.context() as patch:
        if steps is None:
            patch.setattr(optim, "make_optimizer", lambda *_: small.keeping_the_gradient())
        setup = sft_setup(cfg, mesh)
        update = sft.make_sft_step(setup)

    def start():
        return setup.init_state(small.make_params(cfg, mesh))

    return update, start, mesh


def gradient(packed, **how):
    """(loss, gradient, report) of one batch."""
    update, start, mesh = make(**how)
    state, report = update(start(), small.on_devices(packed, mesh))
    return float(report["loss"]), small.to_numpy(state.opt_state), small.to_numpy(report)


def texts(packed):
    """(tokens, target) of each text of the rows."""
    for b in range(len(packed.tokens_BT)):
        for segment in range(1, packed.segment_BT[b].max() + 1):
            here = packed.segment_BT[b] == segment
            yield packed.tokens_BT[b][here], packed.target_BT[b][here]


def reference_loss(params, packed, counted=lambda target: target):
    """Mean over response tokens of - log pi, each text alone in a row of its own; float64."""
    total = number = 0
    for tokens, target in texts(packed):
        z = reference_logits(params, tokens, CFG.model)
        logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
        of_next = logp[np.arange(len(tokens) - 1), tokens[1:]]
        where = counted(target)[1:]
        total, number = total - of_next[where].sum(), number + where.sum()
    return total / number


def float64_params():
    return jax.tree.map(lambda x: np.asarray(x, np.float64), small.make_params(CFG, small.make_mesh(ONE)))


def test_the_loss_is_that_of_the_responses_alone():
    """Of each text's response tokens, whatever else is in its row; prompts counted too it would be another number."""
    packed = small.packed_rows(CFG)
    params = float64_params()
    loss, g, report = gradient(packed)
    np.testing.assert_allclose(loss, reference_loss(params, packed), rtol=1e-5)
    assert abs(loss - reference_loss(params, packed, counted=lambda target: target | True)) > 1e-2
    assert report["tokens"] == (packed.segment_BT > 0).sum()

    length = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in jax.tree.leaves(g)))
    np.testing.assert_allclose(report["grad_norm"], length, rtol=1e-5)
    ends = [
        reference_loss(jax.tree.map(lambda x, d, s=sign: x + s * 1e-4 * d / length, params, g), packed)
        for sign in (1, -1)
    ]
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-4, length, rtol=1e-3)


def test_padding_is_not_learnt_and_not_read():
    packed = small.packed_rows(CFG)
    padding = packed.segment_BT == 0
    assert 0.2 < padding.mean() < 0.9
    other = packed.replace(tokens_BT=np.where(padding, 3, packed.tokens_BT), target_BT=packed.target_BT | padding)
    first, second = gradient(packed), gradient(other)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_first_token_of_a_row_and_of_a_text_is_nobodys_target():
    """Nothing of the same text stands before it."""
    packed = small.packed_rows(CFG)
    starts = (packed.position_BT == 0) & (packed.segment_BT > 0)
    first, second = gradient(packed), gradient(packed.replace(target_BT=packed.target_BT | starts))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("how", [{"parts": 4}, {"shape": (2, 2, 2)}])
def test_parts_and_devices_change_nothing(how):
    packed = small.packed_rows(CFG)
    (loss, g, report), (other_loss, other_g, other_report) = gradient(packed), gradient(packed, **how)
    assert abs(loss - other_loss) < 1e-6 * max(1, loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), g, other_g)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), report, other_report)


def test_it_learns_a_batch_by_heart_and_is_one_program():
    """Muon and cosine, 25 updates on the same rows; the state is donated, nothing is compiled twice."""
    update, start, mesh = make(steps=25)
    state, packed = start(), small.on_devices(small.packed_rows(CFG), mesh)
    losses, rates = [], []
    for number in range(25):
        given = state
        with small.counting_compilations() as compiled:
            state, report = jax.block_until_ready(update(state, packed))
        assert len(compiled) == (number == 0)
        assert all(x.is_deleted() for x in jax.tree.leaves(given))
        losses.append(float(report["loss"]))
        rates.append(float(report["learning_rate"]))
    assert losses[0] > 3 and losses[-1] < 1, losses
    assert int(state.step) == 25 and state.anchor_offset is None
    assert rates[0] == np.float32(RATE) and rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.05 * rates[0]
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params))
