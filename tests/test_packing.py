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

from t1jax import advantages, config, optim, packing, step, validation
from t1jax.sharding import train_layout
from t1jax.types import Plan, Prompts, Rollouts, Scores

B = P * R
MESHES = [ONE, (2, 2, 2), (8, 1, 1)]


# The plan.


@pytest.mark.parametrize("pack_length", [0, 2 * (C + T) + 5, 3 * (C + T)])
@pytest.mark.parametrize("kind", ["any", "longest", "awkward"])
def test_a_plan_places_each_response_once_and_its_rows_always_suffice(kind, pack_length):
    cfg = small.make_config(rl__pack_length=pack_length, rl__micro_batches=4).rl
    grid = packing.make_grid(cfg, B, C, 1)
    for seed in range(50):
        random = np.random.default_rng(seed)
        length = random.integers(1, C + T + 1, B)
        if kind != "any":  # the worst for first fit: a bit more than a half, a third
            length[:] = C + T if kind == "longest" else random.choice([10, 7, C + T], B)
        wanted = random.random(B) < (1 if kind == "longest" else 0.8)
        row, start = packing.plan(length, wanted, grid)
        taken = np.zeros((grid.parts * grid.rows, grid.length), int)
        for i in range(B):
            assert (row[i] >= 0) == wanted[i]
            if wanted[i]:
                taken[row[i], start[i] : start[i] + length[i]] += 1
        assert taken.max() == 1 and taken.sum() == length[wanted].sum()
        used = taken.any(-1)
        assert used[: used.sum()].all() and (taken.cumprod(-1) == taken).all()  # from the front, without holes
        if kind == "any":
            assert used.sum() <= 11 / 9 * np.ceil(taken.sum() / grid.length) * 1.15 + 1


def test_first_fit_takes_the_longest_first():
    """By hand: 6 + 4 and 5 + 3 + 2 fill two rows of 10; in the given order it would be three."""
    row, start = packing.plan(np.array([4, 2, 5, 3, 6]), np.ones(5, bool), packing.Grid(1, 5, 10))
    assert row.tolist() == [0, 1, 1, 1, 0] and start.tolist() == [6, 8, 0, 5, 0]


def test_a_response_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="11 positions fits in no row"):
        packing.plan(np.array([11]), np.ones(1, bool), packing.Grid(1, 1, 10))
    with pytest.raises(ValueError, match="pack_length is 18; expected at least 19"):
        packing.make_grid(small.make_config(rl__pack_length=18).rl, B, C, 1)


@pytest.mark.parametrize("site", ["reward", "advantage"])
def test_what_is_not_wanted_is_what_has_no_advantage(site):
    """Against advantages.py, whose rules the host repeats in NumPy; with entropy or KL, all are wanted."""
    cfg = small.make_config(rl__kl_coef=0.0, rl__entropy_coef=0.0, rl__penalty_site=site).rl
    shares = []
    for seed in range(100):
        random = np.random.default_rng(seed)
        rare = random.random(3)[:, None] * 0.4
        outcome = random.choice([-1, 0, 0, 0, 1], B) if seed % 2 else random.choice([-1, 1], B)
        flags = random.random((3, B)) < rare**2
        scores = Scores(jnp.int8(outcome), *map(jnp.asarray, flags))
        advantage = np.asarray(advantages.advantages(scores, jnp.zeros(B), cfg))
        wanted = packing.wanted((outcome, *flags), cfg)
        assert (advantage[~wanted] == 0).all()
        own_group = np.repeat((np.abs(advantage).reshape(P, R) > 1e-6).any(-1), R)
        np.testing.assert_array_equal(wanted, wanted & own_group)
        shares.append(wanted.mean())
        for knob in ("kl_coef", "entropy_coef"):
            assert packing.wanted((outcome, *flags), dataclasses.replace(cfg, **{knob: 1e-3})).all()
    assert min(shares) < 0.3 and max(shares) > 0.7


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
    rollouts = Rollouts(tokens, sampled, tokens / 10, tokens * 0.0, jnp.ones(4, bool))
    where = Plan(jnp.array([0, 1, 1, -1]), jnp.array([0, 3, 0, 0]))
    layout, grid = train_layout(mesh), packing.Grid(2, 2, 7)
    rows = packing.pack(layout, grid, where, prompts, rollouts)
    empty = [[0] * 7] * 2
    assert rows.tokens_jbS.tolist() == [[[7, 8, 21, 22, 23, 0, 0], [4, 25, 26, 7, 8, 24, 0]], empty]
    assert rows.position_jbS.tolist() == [[[0, 1, 2, 3, 4, 0, 0], [0, 1, 2, 0, 1, 2, 0]], empty]
    assert rows.segment_jbS.tolist() == [[[1, 1, 1, 1, 1, 0, 0], [3, 3, 3, 2, 2, 2, 0]], empty]
    assert rows.sampled_jbS[0].astype(int).tolist() == [[0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1, 0]]
    back = packing.unpack(layout, where, prompts, sampled, rows.logprob_jbS)
    np.testing.assert_allclose(back, [[2.1, 2.2, 2.3], [2.4, 0, 0], [2.5, 2.6, 0], [0, 0, 0]], rtol=1e-6)
    spread = packing.spread(layout, rows, jnp.array([1.0, 2.0, 3.0, 4.0]))
    assert spread[0].tolist() == [[1, 1, 1, 1, 1, 0, 0], [3, 3, 3, 2, 2, 2, 0]] and not spread[1].any()
    parts, share = packing.filled(layout, grid, where)
    assert (int(parts), float(share)) == (1, 0.5)


# The gradient.


def packed_gradient(cfg, shape, rollouts, scores, monkeypatch):
    """(report, gradient, plan) of the update on a mesh, from scores that a scorer gives back as they are."""
    mesh, keep = small.make_mesh(shape), small.keeping_the_gradient()
    prompts = small.on_devices(small.prompt_rows(), mesh)
    rollouts = small.on_devices(small.to_numpy(rollouts), mesh)

    def scorer(problem, *_):
        first = (problem[0] - 100) * R
        return [np.asarray(x)[first : first + len(problem)] for x in dataclasses.astuple(small.to_numpy(scores))]

    monkeypatch.setattr(optim, "make_optimizer", lambda *_: keep)
    state = small.start(cfg, mesh)
    state = state.replace(opt_state=jax.tree.map(jnp.zeros_like, state.params))
    given, plan = jax.jit(step.make_score(cfg, mesh, scorer))(prompts, rollouts)
    after, report = jax.jit(step.make_update(cfg, mesh))(state, prompts, rollouts, given, plan)
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
]


@functools.cache
def unpacked_gradient(cfg):
    """What the unpacked update makes of `awkward()` on one device."""
    one = small.fused(ONE)
    reference = jax.jit(unpacked.make_reference(cfg, one.mesh))
    return small.to_numpy(reference(small.start(one.cfg, one.mesh), one.prompts(), *awkward()))


@pytest.mark.parametrize("knobs", KNOBS)
@pytest.mark.parametrize("shape", MESHES)
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
    assert packed.all() != skipped and not (skipped and packed[20:24].any())
    assert 0 < report["packed_rows"] < 1


def test_parts_beyond_the_last_filled_row_are_not_computed(monkeypatch):
    """A forward is counted by a callback from inside the program: two a filled part, none for the rest."""
    cfg = small.make_config(rl__micro_batches=16, rl__kl_coef=0.0, rl__entropy_coef=0.0)
    calls: list[int] = []
    forward = step.qwen.forward

    def counted(*args, **named):
        jax.debug.callback(lambda: calls.append(1))
        return forward(*args, **named)

    monkeypatch.setattr(step.qwen, "forward", counted)
    rollouts, scores = awkward()
    report, _, plan = packed_gradient(cfg, ONE, rollouts, scores, monkeypatch)
    jax.effects_barrier()
    rows = plan.row_B.max() + 1
    assert len(calls) == 2 * -(-rows // 2) and rows / B == report["packed_rows"] < 0.5
    calls.clear()
    nothing = dataclasses.replace(scores, outcome_B=jnp.full_like(scores.outcome_B, -1))
    report, gradient, _ = packed_gradient(cfg, ONE, rollouts, nothing, monkeypatch)
    jax.effects_barrier()
    assert not calls and report["packed_rows"] == 0 == report["loss"]
    assert not any(x.any() for x in jax.tree.leaves(gradient)) and np.isnan(report["kl_anchor"])
