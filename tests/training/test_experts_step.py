# SPDX-License-Identifier: Apache-2.0
"""Steps of a mixture of experts: sampler and learner, packed rows, lanes, meshes, both loops, LoRA, half precision."""

from __future__ import annotations

import dataclasses
import functools
import shutil

import adapting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
import tiny_run
import unpacked

from t1jax.model import parameters
from t1jax.rewards.score import HostScores
from t1jax.training import sft, stages, step
from t1jax.training.scoring import make_score
from t1jax.training.setup import rl_setup, sft_setup


def run(shape=small.ONE, steps=1, start=small.start, rule=small.parity, **knobs):
    """The state after a few steps, and their reports."""
    cfg, mesh = small.make_config(**small.MOE | knobs), small.make_mesh(shape)
    scorer = small.Recorder()
    scorer.rule = rule
    return small.Fused(rl_setup(cfg, mesh), scorer).run(start(cfg, mesh), range(steps))


@functools.cache
def pieces():
    """(setup, sample, score, update) on one device, each of the last three a program."""
    setup = rl_setup(small.make_config(**small.MOE), small.make_mesh())
    parts = step.make_sample(setup, small.STOPS), make_score(setup, small.parity), step.make_update(setup)
    return setup, *map(jax.jit, parts)


def draw(state, seed=0):
    """(prompts, rollouts, scores, plan) of a step from this state."""
    setup, sample, score, _ = pieces()
    prompts = small.on_devices(small.prompt_rows(seed), setup.mesh)
    rollouts = sample(state.params, prompts, state.rng, state.step)
    return prompts, rollouts, *score(prompts, rollouts)


@functools.cache
def drawn():
    """(setup, state, prompts, rollouts, scores, plan) of the first step."""
    setup = pieces()[0]
    state = small.start(setup.cfg, setup.mesh)
    return setup, state, *draw(state)


def test_sampler_and_learner_agree_token_for_token_and_route_for_route():
    """In float32, on one device, in steps that change the weights; and neither measure is blind."""
    setup, state, prompts, rollouts, scores, plan = drawn()
    update = pieces()[-1]
    state, reports = small.start(setup.cfg, setup.mesh), []
    for seed in range(3):
        state, report = update(state, *draw(state, seed))
        reports.append(report)
    assert max(report["logprob_gap"] for report in reports) < 1e-4
    assert [float(report["route_gap"]) for report in reports] == [0.0] * 3
    assert all(report["grad_norm"] > 1e-3 and report["skipped"] == 0 for report in reports)

    state = drawn()[1]
    packed = np.asarray(rollouts.sampled_BT) & (np.asarray(plan.row_B) >= 0)[:, None]
    at = tuple(np.argwhere(packed)[3])
    other = dataclasses.replace(rollouts, route_BT=rollouts.route_BT.at[at].add(jnp.uint32(1)))
    _, report = update(state, prompts, other, scores, plan)
    np.testing.assert_allclose(report["route_gap"], 1 / packed.sum(), rtol=1e-5)
    router = state.params["layers"]["router"]
    moved = {**state.params, "layers": {**state.params["layers"], "router": router[..., ::-1]}}
    _, report = update(state.replace(params=moved), prompts, rollouts, scores, plan)
    assert report["route_gap"] > 0.5 and report["logprob_gap"] > 0.1


def test_packed_rows_give_the_loss_and_gradient_of_rows_that_are_not():
    """Against a reference that pads every response, one forward a response."""
    setup, state, prompts, rollouts, scores, plan = drawn()
    setup = dataclasses.replace(setup, optimizer=small.keeping_the_gradient())
    expected = jax.jit(unpacked.make_reference(setup.cfg, setup.mesh))(state, prompts, rollouts, scores)
    kept = state.replace(opt_state=jax.jit(setup.optimizer.init)(state.params))
    after, report = jax.jit(step.make_update(setup))(kept, prompts, rollouts, scores, plan)
    np.testing.assert_allclose(report["loss"], expected["loss"], rtol=1e-4, atol=1e-6)
    for name, x in after.opt_state["layers"].items():
        other = expected["gradient"]["layers"][name]
        assert np.abs(other).max() > 1e-5, name
        np.testing.assert_allclose(x, other, atol=1e-4 * np.abs(other).max(), err_msg=name)


@pytest.mark.parametrize("lanes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_lanes_that_start_again_sample_the_same_and_keep_their_routes(lanes):
    setup, state, prompts, rollouts, *_ = drawn()
    other = rl_setup(small.with_rl(setup.cfg, lanes=lanes), setup.mesh)
    found = jax.jit(step.make_sample(other, small.STOPS))(state.params, prompts, state.rng, state.step)
    np.testing.assert_array_equal(found.tokens_BT, rollouts.tokens_BT)
    np.testing.assert_array_equal(found.route_BT, rollouts.route_BT)
    np.testing.assert_allclose(found.logprob_BT, rollouts.logprob_BT, atol=1e-5)
    assert (np.asarray(found.route_BT)[np.asarray(found.sampled_BT)] != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 1, 4), (2, 1, 2)])
def test_two_steps_on_a_mesh_are_those_on_one_device(shape):
    found = [run(each, 2) for each in (small.ONE, shape)]
    (one, reports), (other, elsewhere) = ((small.to_numpy((s.params, s.anchor_offset)), r) for s, r in found)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5)
    for name in ("loss", "grad_norm", "kl_anchor", "reward", "entropy"):
        np.testing.assert_allclose(reports[1][name], elsewhere[1][name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_step_in_bfloat16():
    """Rounding may send a token elsewhere; the two measures say how often, and what it costs."""
    with small.optimised():
        _, (report,) = run(model__compute_dtype="bfloat16")
    assert report["skipped"] == 0 and np.isfinite(report["loss"])
    assert report["route_gap"] < 0.1 and report["logprob_gap"] < 1.0


@pytest.mark.slow
def test_reward_rises():
    """A reward for one token, which random weights seldom draw."""

    def rule(problem, tokens, sampled, stopped):
        no = np.zeros(len(problem), bool)
        share = ((tokens == 7) & sampled).sum(-1) / np.maximum(sampled.sum(-1), 1)
        return HostScores((share > 0.1).astype(np.int8), no, no, no)

    _, reports = run(steps=25, rule=rule, rl__num_steps=25, rl__learning_rate=1e-2, rl__kl_coef=0.0)
    accuracy = [float(report["accuracy"]) for report in reports]
    assert np.mean(accuracy[-5:]) > np.mean(accuracy[:5]) + 0.3, accuracy


def test_the_cold_start_learns():
    cfg, mesh = small.make_config(**small.MOE, sft__micro_batches=2), small.make_mesh((1, 1, 2))
    setup = sft_setup(cfg, mesh)
    rows, train = small.on_devices(small.packed_rows(cfg), mesh), sft.make_sft_step(setup)
    state = setup.init_state(small.make_params(cfg, mesh))
    losses = []
    for _ in range(12):
        state, report = train(state, rows)
        losses.append(float(report["loss"]))
    assert losses[-1] < 0.7 * losses[0], losses


@pytest.mark.slow
def test_lora_of_attention_reads_the_experts_and_leaves_them_alone():
    knobs = {"model__lora_rank": 4, "model__lora_targets": "attention"}
    cfg, mesh = small.make_config(**small.MOE | knobs), small.make_mesh((1, 1, 2))
    state = adapting.start(cfg, mesh)
    base = small.to_numpy(state.base)
    state, (report,) = small.Fused(rl_setup(cfg, mesh), small.Recorder()).run(state, range(1))
    jax.tree.map(np.testing.assert_array_equal, base, small.to_numpy(state.base))
    assert set(state.params["layers"]) == {"q", "k", "v", "o"} and report["grad_norm"] > 1e-4
    assert report["logprob_gap"] < 1e-4


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_alike(tmp_path):
    """Both stages with experts over `tensor`, and rows of `fsdp`; without the checkpoints of RL, then of its end."""
    knobs = {"sft__num_steps": 2, "rl__num_steps": 2, "eval__every": 0, "scaling__budgets": (), "checkpoint__every": 1}
    mesh = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
    cfg = small.make_config(**tiny_run.KNOBS | small.MOE | knobs | mesh)
    stages.run(cfg, tmp_path / "run")
    expected, rows = tiny_run.last_state(tmp_path / "run", cfg), tiny_run.rows_of(tmp_path / "run")
    gaps = [row["route_gap"] for row in rows if row["stage"] == "rl"]
    assert len(gaps) == 2 and max(gaps) < 0.01 and np.abs(expected.params["layers"]["router"]).max() > 0.01
    for gone in ("1", "2"):
        again = tmp_path / gone
        shutil.copytree(tmp_path / "run", again)
        for name in ("results.json", "report.html", "measured/rl.json"):
            (again / name).unlink()
        for step_number in range(int(gone), 3):
            shutil.rmtree(again / f"checkpoints/rl/{step_number}")
        stages.run(cfg, again)
        assert tiny_run.rows_of(again) == rows
        jax.tree.map(np.testing.assert_array_equal, tiny_run.last_state(again, cfg), expected)


def test_memory_is_counted_by_all_experts_to_the_byte():
    cfg, mesh = small.make_config(**small.MOE), small.make_mesh((1, 2, 2))
    state = rl_setup(cfg, mesh).state_shapes()

    def held(tree):
        return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    parts = {part.name: part.bytes for part in rl_setup(cfg, mesh).memory.parts}
    assert parts["parameters"] == held(state.params) == parts["anchor"]
    layer = 32 * 8 / 2 + 3 * 8 * 32 * 24 / 4  # the router over fsdp, the experts over fsdp and tensor
    attention = 2 * 32 * 4 * 8 / 4 + 2 * 32 * 2 * 8 / 4
    rest = 2 * (2 * 8 + 2 * 32 / 2) + 32 / 2 + 64 * 32 / 4
    assert parts["parameters"] == 4 * (2 * (layer + attention) + rest)


def test_all_kinds_of_parameters_are_known():
    cfg, mesh = small.make_config(**small.MOE), small.make_mesh()
    kinds = parameters.kinds(small.make_params(cfg, mesh))["layers"]
    assert {name for name, kind in kinds.items() if kind == "matrix"} == {
        *("q", "k", "v", "o", "router", "expert_gate", "expert_up", "expert_down")
    }
