# SPDX-License-Identifier: Apache-2.0
"""More groups are sampled than the update learns from: which are kept, what is learnt, what is said of all of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import files_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import several
import small
from random_qwen import make_folder
from small import ONE, STOPS, P, R
from tiny_run import rows_of

from t1jax.devices import multihost
from t1jax.planning import estimate, phases, slices
from t1jax.rewards.score import HostScores
from t1jax.training import checkpoint, results, stages, step
from t1jax.training.scoring import make_score
from t1jax.training.setup import rl_setup
from t1jax.training.step_report import fates
from t1jax.types import Rollouts
from t1jax.update import advantages
from t1jax.weights import load as weights

KEPT = P // 2  # of P that are drawn
KEPT_GROUPS = [0, 1, 4, 5]  # of the rule below, where there is one shard
MIXED = np.array([0, 1, 0, 0, 1, 1, 0, 0], bool)  # of the drawn groups, by the rule below


def knobs(**more: Any) -> dict[str, Any]:
    return {"rl__prompts_per_step": KEPT, "rl__overdraw": 2.0} | more


def rule(problem: np.ndarray, tokens: np.ndarray, sampled: np.ndarray, stopped: np.ndarray) -> HostScores:
    """All wrong, but every other response to the MIXED problems; of problem 103 nothing can be judged."""
    right = MIXED[problem - 100] & (np.arange(len(problem)) % 2 == 0)
    outcome = np.where(problem == 103, -1, right).astype(np.int8)
    no = np.zeros(len(problem), bool)
    return HostScores(outcome, ~stopped, no, no)


def chosen_by_loop(mixed: np.ndarray, keep: int) -> list[int]:
    """The numbers of the groups that are kept, literally: mixed ones in their order, then others in theirs."""
    order = [p for p in range(len(mixed)) if mixed[p]] + [p for p in range(len(mixed)) if not mixed[p]]
    return sorted(order[:keep])


def groups(tree: Any, which: list[int]) -> Any:
    """These groups of a tree of [P, ...] or [B, ...]."""
    rows = {P: np.array(which), P * R: np.concatenate([np.arange(p * R, (p + 1) * R) for p in which])}
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[rows[len(x)]]), tree)


# which


@pytest.mark.parametrize("shape", [ONE, (2, 2, 2), (1, 4, 2), (1, 2, 1)])
def test_each_shard_keeps_its_part_of_the_groups_mixed_ones_first(shape):
    prompts, rollouts, *_ = small.to_numpy(small.drawn())
    setup = rl_setup(small.make_config(**knobs(rl__entropy_coef=0.0, rl__kl_coef=0.0)), small.make_mesh(shape))
    scores, plan = jax.jit(make_score(setup, rule))(prompts, rollouts)
    shards = shape[0] * shape[1]
    of_shard = MIXED.reshape(shards, -1)
    expected = [s * P // shards + p for s in range(shards) for p in chosen_by_loop(of_shard[s], KEPT // shards)]
    np.testing.assert_array_equal(plan.kept_B, np.repeat(np.isin(np.arange(P), expected), R))
    assert plan.kept_B.dtype == bool and np.asarray(plan.kept_B).sum() == KEPT * R
    assert expected == {1: KEPT_GROUPS, 2: KEPT_GROUPS, 4: [1, 2, 4, 6]}[shards]
    packed = np.asarray(plan.row_B) >= 0
    teaches = advantages.teaches(small.to_numpy(scores), setup.cfg.rl)
    np.testing.assert_array_equal(packed, teaches & np.asarray(plan.kept_B))


def test_without_overdraw_nothing_is_chosen_and_the_host_says_no_more():
    """The scores' four arrays and the plan's three, as ever; with it one more."""
    prompts, rollouts, *_ = small.drawn()
    found = {}
    for overdraw, keep in ((1.0, P), (2.0, KEPT)):
        cfg = small.make_config(rl__prompts_per_step=keep, rl__overdraw=overdraw)
        asked: list[int] = []

        def call(function, shapes, *arrays, asked=asked):
            asked.append(len(shapes))
            return [jnp.zeros(x.shape, x.dtype) for x in shapes]

        _, plan = jax.eval_shape(make_score(rl_setup(cfg, small.make_mesh()), rule, call), prompts, rollouts)
        found[overdraw] = asked[0], plan.kept_B is None
    assert found == {1.0: (7, True), 2.0: (8, False)}


# what is learnt


@functools.cache
def overdrawn(**more: Any) -> tuple[Any, Any, Any, Any]:
    """(setup, prompts, rollouts, (scores, plan)) of a step that draws P groups and keeps half: KEPT_GROUPS."""
    prompts, rollouts, *_ = small.drawn()
    setup = rl_setup(small.make_config(**knobs(**more)), small.make_mesh())
    return setup, prompts, rollouts, jax.jit(make_score(setup, rule))(prompts, rollouts)


@functools.cache
def updated(**more: Any) -> tuple[Any, Any]:
    """(state, report) after the update of `overdrawn`."""
    setup, prompts, rollouts, scored = overdrawn(**more)
    return jax.jit(step.make_update(setup))(small.start(setup.cfg, setup.mesh), prompts, rollouts, *scored)


PER_TOKEN = {
    "rl__loss_normalisation": "token", "rl__kl_reduction": "mean", "rl__entropy_target": 1.0, "rl__micro_batches": 4,
    "rl__ratio_cap": 2.0,
}  # fmt: skip
PER_MEAN = {"rl__loss_normalisation": "response_mean", "rl__kl_site": "loss", "rl__entropy_coef": 0.0}


@pytest.mark.parametrize(
    "more",
    [{}, pytest.param(PER_TOKEN, marks=pytest.mark.slow), pytest.param(PER_MEAN, marks=pytest.mark.slow)],
    ids=["default", "token", "response_mean"],
)
def test_the_update_is_that_of_the_kept_groups_given_alone(more):
    setup, prompts, rollouts, (scores, _) = overdrawn(**more)
    alone = rl_setup(small.make_config(**knobs(**more) | {"rl__overdraw": 1.0}), setup.mesh)
    few = groups(prompts, KEPT_GROUPS), groups(rollouts, KEPT_GROUPS)
    again, where = jax.jit(make_score(alone, rule))(*few)
    jax.tree.map(np.testing.assert_array_equal, again, groups(scores, KEPT_GROUPS))
    state = small.start(setup.cfg, setup.mesh)
    found, report = updated(**more)
    expected, theirs = jax.jit(step.make_update(alone))(state, *few, again, where)
    for name in ("loss", "grad_norm", "kl_anchor", "tokens_trained", "packed_rows", *["alpha"] * ("alpha" in theirs)):
        np.testing.assert_allclose(report[name], theirs[name], rtol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), found.params, state.params)
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_another_advantage_sees_no_group_that_is_not_kept():
    setup, prompts, rollouts, (scores, plan) = overdrawn()
    seen = []

    def advantage(judged, kl_B, rl):
        seen.append(True)
        return jnp.where(advantages.scorable(judged), advantages.raw_reward(judged), kl_B)

    plan = jax.jit(make_score(setup, rule, every=True))(prompts, rollouts)[1]
    np.testing.assert_array_equal(np.asarray(plan.row_B) >= 0, np.repeat(np.isin(np.arange(P), KEPT_GROUPS), R))
    judged = step.learnt_from(plan, rollouts, scores)[1]
    np.testing.assert_array_equal(advantages.scorable(judged), plan.kept_B)
    update = step.make_update(setup, advantage)
    jax.eval_shape(update, small.start(setup.cfg, setup.mesh), prompts, rollouts, scores, plan)
    assert seen


# what is said


def test_figures_speak_of_all_that_was_drawn_and_each_token_has_one_fate():
    _, _, rollouts, _ = overdrawn()
    report = small.to_numpy(updated()[1])
    assert report["accuracy"] == np.float32(3 * (R // 2) / ((P - 1) * R))  # of the kept groups it would be 3/8
    assert report["mixed_groups"] == 3 / P and report["mixed_groups_kept"] == 3 / KEPT
    assert report["unscorable"] == 1 / P
    length = np.asarray(rollouts.sampled_BT).sum(-1).reshape(P, R).sum(-1)
    assert report["response_length"] == np.float32(length.sum() / (P * R)) and report["tokens"] == length.sum()
    told = {name.removeprefix("tokens_"): int(x) for name, x in report.items() if name.startswith("tokens_")}
    assert told == {
        "trained": length[[0, 1, 4, 5]].sum(), "not_kept": length[[2, 6, 7]].sum(), "unscorable": length[3],
        "no_advantage": 0, "skipped": 0,
    }  # fmt: skip


def test_fates_by_hand():
    """Four responses of 1, 2, 4, 8 tokens: trained, kept without an advantage, not kept, unscorable and not kept."""
    sampled_BT = jnp.asarray(np.arange(10) < np.array([1, 2, 4, 8])[:, None])
    zeros = jnp.zeros((4, 10), jnp.float32)
    rollouts = Rollouts(zeros.astype(jnp.int32), sampled_BT, zeros, zeros, jnp.ones(4, bool))
    scorable, packed, kept = (jnp.array(x, bool) for x in ([1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]))
    found = fates(rollouts, scorable, packed, jnp.bool_(True), kept)
    assert {name: int(x) for name, x in found.items()} == {
        "tokens_trained": 1, "tokens_skipped": 0, "tokens_unscorable": 8, "tokens_no_advantage": 2,
        "tokens_not_kept": 4,
    }  # fmt: skip


def test_the_tokens_of_a_run_have_one_reason_more():
    row = {f"tokens_{name}": n for n, name in enumerate((*results.FATES, results.NOT_KEPT), 1)} | {"stage": "rl"}
    found = results.tokens([row, row], None, {"tokens": 100}, 0)
    assert found == {
        "generated": 130, "trained": 2, "skipped": 4, "unscorable": 6, "no_advantage": 8, "not_kept": 10,
        "evaluation": 100, "filter": 0,
    }  # fmt: skip


# what it takes


def test_sampling_is_planned_for_all_and_the_update_for_those_that_are_kept():
    mesh = small.make_mesh((1, 2, 1))
    plain, twice = (
        rl_setup(small.make_config(rl__prompts_per_step=KEPT, rl__overdraw=n, rl__lanes=R), mesh, 1 << 40, False)
        for n in (1.0, 2.0)
    )
    assert plain.grid == twice.grid
    few, many = ({part.name: part for part in setup.memory.parts} for setup in (plain, twice))
    rest = [name for name, part in few.items() if part.phase in ("scoring", "update")]
    assert len(rest) > 5 and all(few[name] == many[name] for name in rest)
    grown = {name for name in few if many[name].bytes > few[name].bytes}
    assert grown == {
        "responses", "prompts' keys and values", "lanes' keys and values", "log of drawn tokens", "logits",
        "one block of them and prompts, for few lanes",
    }  # fmt: skip
    assert all(many[name].bytes == 2 * few[name].bytes for name in grown)
    once, double = (estimate.work(setup.cfg, 8.0) for setup in (plain, twice))
    assert (double.prefill, double.decode) == (2 * once.prefill, 2 * once.decode)
    assert (double.update, double.anchor, double.remat) == (once.update, once.anchor, once.remat)
    chip = slices.Chip("reader", 2**34, flops=1e30, bandwidth=1e6, links=1e30)
    one, two = (phases.of_chip(setup, chip, (1, 2, 1)) for setup in (plain, twice))
    assert one.response == two.response and one.step < two.step < 2 * one.step  # weights are read once


# several processes, and a run that is stopped


def steps_on(*shape: int) -> dict[str, Any]:
    """Two steps on a mesh: the reports, and which groups were kept of the responses that both kinds of run agree on."""
    cfg, mesh = small.make_config(**knobs()), small.make_mesh(shape)
    setup = rl_setup(cfg, mesh)
    train_step = step.make_train_step(setup, small.parity, stop_tokens=STOPS)
    state, reports = small.start(cfg, mesh), []
    for seed in range(2):
        state, report = train_step(state, small.on_devices(small.prompt_rows(seed), mesh))
        reports.append({name: float(value) for name, value in report.items()})
    random = np.random.default_rng(5)
    tokens = random.integers(0, small.V, (P * R, small.T)).astype(np.int32)
    rollouts = Rollouts(tokens, tokens >= 0, 0.0 * tokens, 0.0 * tokens, tokens[:, 0] > 20)
    score = jax.jit(make_score(setup, small.parity))
    _, plan = score(*(small.on_devices(rows, mesh) for rows in (small.prompt_rows(), rollouts)))
    return {"reports": reports, "kept": np.asarray(multihost.to_host(plan.kept_B)).tolist()}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 1, 2)])
def test_two_processes_keep_the_groups_that_one_keeps(shape):
    (alone,) = several.said(several.start("test_overdraw.steps_on", *shape, processes=1, devices=2))
    both = several.said(several.start("test_overdraw.steps_on", *shape, processes=2, devices=1))
    assert both[0] == both[1] and sum(alone["kept"]) == KEPT * R and both[0]["kept"] == alone["kept"]
    for mine, theirs in zip(both[0]["reports"], alone["reports"], strict=True):
        assert theirs["mixed_groups_kept"] >= theirs["mixed_groups"] and theirs["tokens_not_kept"] > 0
        for name, value in theirs.items():
            np.testing.assert_allclose(mine[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """A run on two files, three quarters of the prompts from the first, that draws twice the groups that it keeps."""
    here = tmp_path_factory.mktemp("files")
    folder = make_folder(here / "hf")
    rows = [{"question": f"{a} and {b}", "answer": f"{a + b}"} for a in range(12) for b in range(5)]
    base = small.make_config(
        **files_run.KNOBS | {"sft__num_steps": 0, "rl__num_steps": 4, "eval__every": 0, "scaling__budgets": ()},
        **{"eval__before": False, "rl__overdraw": 2.0, "data__weights": (0.75, 0.25), "model__checkpoint": str(folder)},
        data__train=",".join(files_run.write_rows(here / f"{n}.jsonl", rows[n::3]) for n in range(2)),
        data__eval=files_run.write_rows(here / "eval.jsonl", rows[2::3]),
    )
    return dataclasses.replace(base, model=weights.model_config(weights.find(folder), base.model))


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_as_one_that_is_not(cfg, tmp_path, monkeypatch, capsys):
    stages.run(cfg, tmp_path / "whole")
    said = " ".join(capsys.readouterr().out.split())
    first, second = cfg.data.train.split(",")
    assert f"{first}: 20 problems, 75.0% of the prompts" in said and f"{second}: 20 problems, 25.0%" in said
    save = checkpoint.Checkpoints.save

    def stop(self, number, *rest, **named):
        if number > 2:
            raise KeyboardInterrupt
        save(self, number, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoints, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            stages.run(cfg, tmp_path / "cut")
    stages.run(cfg, tmp_path / "cut")
    whole, cut = rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut")
    assert whole == cut and [row["step"] for row in whole] == [1, 2, 3, 4]
    for row in whole:
        assert (row["source_1"], row["source_2"]) == (0.75, 0.25) and row["tokens_not_kept"] >= 0
        assert sum(row[f"tokens_{name}"] for name in (*results.FATES, results.NOT_KEPT)) == row["tokens"]
    found = json.loads((tmp_path / "whole/results.json").read_text())
    assert found["sources"] == [
        {"file": first, "weight": 0.75, "share": 0.75}, {"file": second, "weight": 0.25, "share": 0.25},
    ]  # fmt: skip
    assert found["tokens"]["not_kept"] == sum(row["tokens_not_kept"] for row in whole) > 0
    assert sum(n for name, n in found["tokens"].items() if name != "generated") == found["tokens"]["generated"]
    assert "learning from 8 of the 16 groups of a step" in (tmp_path / "whole/report.html").read_text()
