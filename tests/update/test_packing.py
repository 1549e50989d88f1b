# SPDX-License-Identifier: Apache-2.0
"""Packed rows hold every response once and whole, as few rows as they need, and change no gradient."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import unpacked
from small import ONE, C, P, R, T

from t1jax import config, validation
from t1jax.devices.sharding import train_layout
from t1jax.training import passes, step
from t1jax.training.scoring import make_score
from t1jax.training.setup import rl_setup
from t1jax.types import Plan, Prompts, Rollouts, Scores
from t1jax.update import optim, packing

B = P * R


# The plan.


@pytest.mark.parametrize("pack_length", [0, 2 * (C + T) + 5, 3 * (C + T)])
@pytest.mark.parametrize("kind", ["any", "longest", "awkward"])
def test_a_plan_places_each_response_once_and_its_rows_always_suffice(kind, pack_length):
    cfg = small.make_config(rl__pack_length=pack_length, rl__micro_batches=4)
    grid = packing.make_grid(cfg, train_layout(small.make_mesh()))
    for seed in range(50):
        random = np.random.default_rng(seed)
        length, prompt = random.integers(0, T + 1, B), np.repeat(random.integers(1, C + 1, P), R)
        if kind != "any":
            length[:], prompt[:] = T if kind == "longest" else random.choice([3, T // 2 + 1, T], B), C
        wanted = random.random(B) < (1 if kind == "longest" else 0.8)
        row, start, prompt_start = packing.plan(prompt, length, wanted, R, grid)
        taken = np.zeros((grid.parts * grid.rows, grid.length), int)
        prompts = set()
        for i in range(B):
            assert (row[i] >= 0) == (wanted[i] and length[i] > 0)
            if row[i] >= 0:
                taken[row[i], start[i] : start[i] + length[i]] += 1
                if (row[i], prompt_start[i]) not in prompts:
                    taken[row[i], prompt_start[i] : prompt_start[i] + prompt[i]] += 1
                prompts.add((row[i], prompt_start[i]))
                assert start[i] >= prompt_start[i] + prompt[i]
        assert taken.max() == 1 and (taken.cumprod(-1) == taken).all()  # from the front, without holes
        used = taken.any(-1)
        assert used[: used.sum()].all()
        assert len(prompts) == len({(r, i // R) for i, r in enumerate(row) if r >= 0})
        if kind == "any":
            assert used.sum() <= 1.3 * np.ceil(taken.sum() / grid.length) + 1


def test_a_plan_by_hand():
    """Prompts of 2 and 1 tokens. The second has the longer responses and comes first: 1 + 4 + 3 and 2 fill a row of 10,
    the first's 3 begins the next, with a copy of its prompt and after it the other's 1 would fit, which has no token.
    """
    prompt, length = np.array([2, 2, 2, 1, 1, 1]), np.array([3, 0, 1, 2, 4, 3])
    wanted = np.ones(6, bool)
    row, start, prompt_start = packing.plan(prompt, length, wanted, 3, packing.Grid(1, 2, 10))
    assert row.tolist() == [1, -1, 1, 0, 0, 0]
    assert start.tolist() == [2, 0, 5, 1, 3, 7] and prompt_start.tolist() == [0] * 6


def test_a_response_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"2 \+ 9 positions fits in no row"):
        packing.plan(np.array([2]), np.array([9]), np.ones(1, bool), 1, packing.Grid(1, 1, 10))
    with pytest.raises(ValueError, match="pack_length is 18; expected at least 19"):
        packing.make_grid(small.make_config(rl__pack_length=18), train_layout(small.make_mesh()))


def test_an_automatic_row_is_no_longer_than_the_kernel_takes(monkeypatch):
    layout, cfg = train_layout(small.make_mesh()), small.make_config(rl__micro_batches=2)
    assert packing.make_grid(cfg, layout) == packing.Grid(2, 1, 16 * (C + T))
    monkeypatch.setattr(packing.attention, "longest_row", lambda *_: 100)  # five of the longest: 19 positions each
    assert packing.make_grid(cfg, layout) == packing.Grid(3, 3, 100)
    monkeypatch.setattr(packing.attention, "longest_row", lambda *_: 1)
    assert packing.make_grid(cfg, layout) == packing.Grid(2, 16, C + T)


def test_pack_length_that_is_too_short_is_a_one_line_error():
    cfg = small.make_config(rl__pack_length=18)
    with pytest.raises(config.ConfigError, match=r"^rl.pack_length is 18; expected 0, or at least .* = 19$"):
        validation.validate(cfg, 1)
    validation.validate(small.make_config(rl__pack_length=19), 1)


# The rows.


def test_rows_by_hand():
    """Two prompts of 2 and 1 tokens, two responses each; the fourth is not packed."""
    mesh = small.make_mesh()
    prompts = Prompts(jnp.array([[7, 8], [4, 0]]), jnp.array([[1, 1], [1, 0]], bool), jnp.array([0, 1]))
    sampled = jnp.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]], bool)
    tokens = jnp.array([[21, 22, 23], [24, 99, 99], [25, 26, 99], [27, 0, 0]])
    rollouts = Rollouts(tokens, sampled, tokens.astype(jnp.float32) / 10, jnp.zeros((4, 3)), jnp.ones(4, bool))
    where = Plan(jnp.array([0, 0, 1, -1]), jnp.array([2, 5, 1, 0]), jnp.array([0, 0, 0, 0]))
    layout, grid = train_layout(mesh), packing.Grid(2, 2, 9)

    def through(where, prompts, rollouts):
        rows = packing.pack(layout, grid, where, prompts, rollouts)
        sums = packing.total(layout, rows, where, jnp.where(rows.sampled_jbS, rows.logprob_jbS, jnp.nan))
        spread = packing.spread(layout, rows, jnp.array([1.0, 2.0, 3.0, 4.0]))
        parts, share = packing.filled(layout, grid, where)
        return rows, sums, spread, (parts, share, packing.held(rows, parts))

    rows, sums, spread, (parts, share, held) = jax.jit(through)(where, prompts, rollouts)
    empty = [[0] * 9] * 2
    second = [4, 25, 26] + [0] * 6
    assert rows.tokens_jbS.tolist() == [[[7, 8, 21, 22, 23, 24, 0, 0, 0], second], empty]
    assert rows.position_jbS[0, 0].tolist() == [0, 1, 2, 3, 4, 2, 0, 0, 0]
    assert rows.segment_jbS[0, 0].tolist() == [1, 1, 3, 3, 3, 6, 0, 0, 0]
    assert rows.parent_jbS[0, 0].tolist() == [1] * 6 + [0] * 3
    assert rows.state_jbS[0, 0].tolist() == [1, 2, 3, 1, 0, 0, 0, 0, 0]
    assert rows.segment_jbS[0, 1].tolist() == [1, 2, 2] + [0] * 6
    assert rows.target_jbS.tolist() == [[[21, 22, 23, 24] + [0] * 5, [25, 26] + [0] * 7], empty]
    assert rows.sampled_jbS[0].sum(-1).tolist() == [4, 2] and rows.sampled_jbS[0, :, 0].all()
    assert rows.response_jbS[0].tolist() == [[0, 0, 0, 1] + [0] * 5, [2, 2] + [0] * 7]
    np.testing.assert_allclose(rows.logprob_jbS[0, 0, :5], [2.1, 2.2, 2.3, 2.4, 0], rtol=1e-6)
    np.testing.assert_allclose(sums, [2.1 + 2.2 + 2.3, 2.4, 2.5 + 2.6, 0], rtol=1e-6)
    assert spread[0].tolist() == [[1, 1, 1, 2] + [0] * 5, [3, 3] + [0] * 7] and not spread[1].any()
    assert (int(parts), float(share)) == (1, 0.5)
    assert float(held) == (6 + 3) / (2 * 9)  # of the one part that is computed
    assert float(packing.held(rows, jnp.int32(0))) == 1


# The gradient.


def packed_gradient(cfg, shape, rollouts, scores, monkeypatch):
    """(report, gradient, plan) of the update on a mesh, from scores that a scorer gives back as they are."""
    mesh, keep = small.make_mesh(shape), small.keeping_the_gradient()
    prompts = small.on_devices(small.prompt_rows(), mesh)
    rollouts = small.on_devices(small.to_numpy(rollouts), mesh)

    def scorer(problem, *_):
        first = (problem[0] - 100) * R
        told = dataclasses.astuple(small.to_numpy(scores))[:-1]  # that it puzzles the policy is not the host's to say
        return [np.asarray(x)[first : first + len(problem)] for x in told]

    monkeypatch.setattr(optim, "make_optimizer", lambda *_: keep)
    state = small.start(cfg, mesh)
    state = state.replace(opt_state=jax.tree.map(jnp.zeros_like, state.params))
    given, plan = jax.jit(make_score(rl_setup(cfg, mesh), scorer))(prompts, rollouts)
    after, report = jax.jit(step.make_update(rl_setup(cfg, mesh)))(state, prompts, rollouts, given, plan)
    return report, small.to_numpy(after.opt_state), small.to_numpy(plan)


def awkward() -> tuple[Rollouts, Scores]:
    """What was drawn, with unscorable rows, groups all right and all unscorable, rows without a token."""
    _, rollouts, scores, _ = small.drawn()
    keep = (jnp.arange(B) != 13) & (jnp.arange(B) != 30)
    masks = {"sampled_BT": rollouts.sampled_BT & keep[:, None]}
    for name in ("tokens_BT", "logprob_BT", "entropy_BT"):
        masks[name] = jnp.where(masks["sampled_BT"], getattr(rollouts, name), 0)
    outcome = scores.outcome_B.at[jnp.array([1, 6, 8, 9, 10, 11])].set(-1).at[20:24].set(1)
    quiet = {name: getattr(scores, name).at[20:24].set(False) for name in ("overlong_B", "repetition_B", "garbled_B")}
    return dataclasses.replace(rollouts, **masks), dataclasses.replace(scores, outcome_B=outcome, **quiet)


KNOBS = [
    {},
    {"kl_site": "loss", "loss_normalisation": "token", "micro_batches": 4},
    {"kl_site": "loss", "pack_length": 3 * (C + T) + 1, "micro_batches": 2},
    {"loss_normalisation": "token", "penalty_site": "advantage", "kl_coef": 0.0, "entropy_coef": 0.0},
    {"kl_site": "token", "loss_normalisation": "response_mean", "penalty_site": "wrong", "advantage_floor": True},
    {"kl_reduction": "mean", "loss_normalisation": "response_mean", "entropy_target": 0.1},
]


@functools.cache
def unpacked_gradient(cfg):
    """What the unpacked update makes of `awkward()` on one device."""
    one = small.fused(ONE)
    reference = jax.jit(unpacked.make_reference(cfg, one.mesh))
    return small.to_numpy(reference(small.start(one.cfg, one.mesh), one.prompts(), *awkward()))


@pytest.mark.parametrize(
    "shape, knobs",
    [(ONE, KNOBS[0]), (ONE, KNOBS[2]), ((2, 2, 2), KNOBS[1]), ((2, 2, 2), KNOBS[4])]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            (ONE, KNOBS[1]),
            (ONE, KNOBS[3]),
            ((2, 2, 2), KNOBS[2]),
            ((8, 1, 1), KNOBS[3]),
            ((8, 1, 1), KNOBS[0]),
            ((2, 2, 2), KNOBS[5]),
        )
    ],
)
def test_the_gradient_is_the_unpacked_one(shape, knobs, monkeypatch):
    rollouts, scores = awkward()
    cfg = small.with_rl(small.make_config(), **{"kl_coef": 0.5, "entropy_coef": 0.3, "kl_clip": 0.1} | knobs)
    expected = unpacked_gradient(cfg)
    report, gradient, plan = packed_gradient(cfg, shape, rollouts, scores, monkeypatch)
    np.testing.assert_allclose(report["loss"], expected["loss"], rtol=1e-5)
    for got, want in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected["gradient"]), strict=True):
        assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
    packed = plan.row_B >= 0
    np.testing.assert_allclose(report["kl_anchor"], expected["kl_B"][packed].mean(), rtol=1e-5, atol=1e-6)
    assert report["logprob_gap"] < 1e-4
    skipped = "entropy_coef" in knobs
    some = np.asarray(rollouts.sampled_BT).any(-1)
    assert (packed == some).all() != skipped and not (skipped and packed[20:24].any())
    assert 0 < report["packed_rows"] <= 1


def test_parts_beyond_the_last_filled_row_are_not_computed(monkeypatch):
    """A forward is counted by a callback from inside the program: two a filled part, none for the rest."""
    cfg = small.make_config(rl__micro_batches=16, rl__kl_coef=0.0, rl__entropy_coef=0.0)
    calls: list[int] = []
    rollouts, scores = awkward()  # sampling needs forwards of its own
    forward = passes.qwen.forward_and_routes

    def counted(*args, **named):
        jax.debug.callback(lambda: calls.append(1))
        return forward(*args, **named)

    monkeypatch.setattr(passes.qwen, "forward_and_routes", counted)
    report, _, plan = packed_gradient(cfg, ONE, rollouts, scores, monkeypatch)
    jax.effects_barrier()
    rows = plan.row_B.max() + 1
    assert len(calls) == 2 * rows and rows / 16 == report["packed_rows"] < 0.5  # a row of two a part
    calls.clear()
    nothing = dataclasses.replace(scores, outcome_B=jnp.full_like(scores.outcome_B, -1))
    report, gradient, _ = packed_gradient(cfg, ONE, rollouts, nothing, monkeypatch)
    jax.effects_barrier()
    assert not calls and report["packed_rows"] == 0 == report["loss"]
    assert not any(x.any() for x in jax.tree.leaves(gradient)) and np.isnan(report["kl_anchor"])
