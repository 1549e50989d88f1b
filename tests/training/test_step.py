# SPDX-License-Identifier: Apache-2.0
"""One iteration is one program; its pieces, parts and devices change nothing; its gradient is the equation's."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
import unpacked
from float64_model import reference_logits
from jax.extend.core import Var
from small import ONE, P, R, T

from t1jax.devices import sharding
from t1jax.model import parameters
from t1jax.rewards.score import HostScores
from t1jax.training import sft, step
from t1jax.training.scoring import make_score
from t1jax.training.setup import rl_setup, sft_setup
from t1jax.types import Plan, Prompts, Rollouts, Scores
from t1jax.update import optim

B = P * R
PACKED = ("packed_rows", "packed_positions")


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), small.to_numpy(a), small.to_numpy(b))


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, small.to_numpy(a), small.to_numpy(b))


@pytest.fixture(scope="module")
def drawn() -> tuple[Prompts, Rollouts, Scores, Plan]:
    return small.drawn()


@pytest.fixture(scope="module")
def updated(drawn):
    """The update alone, on what was drawn alone."""
    return small.update()(small.fused(ONE).start(), *drawn)


# One program.


def test_one_call_compiles_one_program_and_the_next_none():
    small.fused.cache_clear()
    one = small.fused(ONE)
    state, batches = one.start(), [one.prompts(seed) for seed in range(2)]
    for batch, programs in zip(batches, (1, 0), strict=True):
        with small.counting_compilations() as compiled:
            state, report = jax.block_until_ready(one.step(state, batch))
        assert len(compiled) == programs
    assert one.step._cache_size() == 1
    assert int(state.step) == 2 and set(report) >= {"loss", "reward", "logprob_gap"}


def test_the_state_is_donated_and_the_prompts_are_not():
    one = small.fused(ONE)
    state, prompts = one.start(), one.prompts()
    after, _ = one.step(state, prompts)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert not any(x.is_deleted() for x in jax.tree.leaves((after, prompts)))


def test_a_step_takes_nothing_from_the_host_but_its_prompts():
    one = small.fused(ONE)
    state, batches, on_host = one.start(), [one.prompts(seed) for seed in range(2)], small.prompt_rows()
    with jax.transfer_guard("disallow"):
        for prompts in batches:
            state, _ = one.step(state, prompts)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            one.step(state, on_host)


@pytest.mark.parametrize("shape", [ONE, (2, 2, 2)])
def test_nothing_of_the_size_of_a_parameter_leaves_the_devices(shape):
    """In the compiled program: what callbacks are given, what comes out beside the state, what is kept in place."""
    one = small.fused(shape)
    state = one.start()
    compiled = one.step.lower(state, one.prompts()).compile()
    text = compiled.as_text()
    leaves = jax.tree.leaves(state)
    matrices = [x for name, x in state.params["layers"].items() if name in parameters.MATRICES]
    smallest = min(x.addressable_shards[0].data.size for x in matrices)
    rows = B // sharding.train_layout(one.mesh).batch_shards
    assert rows * T < smallest
    callbacks = re.findall(r"target=\"\S*callback\S*\", operand_layout_constraints=(.*?), custom_call_has", text)
    assert len(callbacks) == 1 and not re.search(r" (infeed|outfeed|send|recv)\(", text)
    given = [np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"\w\[([\d,]+)\]", callbacks[0])]
    assert sorted(given) == sorted([rows, rows, rows, rows, rows * T, rows * T]) and max(given) < smallest
    after, report = jax.eval_shape(one.step, state, one.prompts())
    assert all(x.shape == () for x in jax.tree.leaves(report))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes == sum(x.addressable_shards[0].data.nbytes for x in leaves)
    assert "all-gather" in text or shape == ONE


def test_the_new_state_lies_where_the_old_one_lay():
    for shape in (ONE, (2, 2, 2)):
        one = small.fused(shape)
        expected = one.setup.state_shardings()
        state = one.start()
        after, _ = one.step(jax.tree.map(jnp.copy, state), one.prompts())
        for tree in (state, after):
            jax.tree.map(lambda x, s: (x.sharding == s) or pytest.fail(f"{x.sharding} {s}"), tree, expected)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_all_that_mirrors_the_parameters_lies_like_them(optimizer):
    """Moments and anchor are split over fsdp and tensor as the weights are; the anchor is always float32."""
    cfg = small.make_config(sft__optimizer=optimizer, model__compute_dtype="bfloat16")
    mesh = small.make_mesh((2, 2, 2))
    shapes = dataclasses.replace(sft_setup(cfg, mesh), anchored=True).state_shapes()
    weights = {x.shape: x.sharding for x in jax.tree.leaves(shapes.params)}
    moments = [x for x in jax.tree.leaves(shapes.opt_state) if x.shape in weights]
    matrices = len(parameters.MATRICES.keys() & shapes.params["layers"].keys())
    assert len(moments) == 2 * 14 - (matrices if optimizer == "muon" else 0)  # Muon has one a matrix
    assert all(x.sharding == weights[x.shape] for x in moments)
    assert sum(x.size for x in jax.tree.leaves(shapes.opt_state) if x.shape not in weights) < 20
    assert all(not x.sharding.is_fully_replicated for x in moments if x.size > 1000)
    jax.tree.map(lambda a, p: (a == p and a.sharding == p.sharding) or pytest.fail(str(a)), shapes.anchor_offset,
                 shapes.params)  # fmt: skip
    assert {x.dtype for x in jax.tree.leaves((shapes.params, shapes.anchor_offset))} == {jnp.dtype("float32")}
    assert sft_setup(cfg, mesh).state_shapes().anchor_offset is None


# Pieces, parts, devices.


def test_the_pieces_apart_are_the_step(drawn, updated):
    """Sample, score and update, each a program of its own, give the samples, state and report of the fused step."""
    one = small.fused(ONE)
    one.scorer.take()
    state, report = jax.block_until_ready(one.step(one.start(), one.prompts()))  # then the scorer has been called
    problem, *rows = one.scorer.rows()
    prompts, rollouts, *_ = drawn
    np.testing.assert_array_equal(problem, np.repeat(prompts.problem_P, R))
    equal(tuple(rows), (rollouts.tokens_BT, rollouts.sampled_BT, rollouts.stopped_B))
    assert 0.2 < rollouts.stopped_B.mean() < 0.9 and len(np.unique(rollouts.sampled_BT.sum(-1))) > 3
    close(state, updated[0], rtol=1e-5, atol=1e-6)
    close(report, updated[1], rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.params, one.start().params)
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_parts_of_a_batch_add_up_to_the_batch(drawn, updated):
    one = small.fused(ONE)
    cfg = small.with_rl(one.cfg, micro_batches=8)
    state, report = jax.jit(step.make_update(rl_setup(cfg, one.mesh)))(one.start(), *drawn[:3], small.planned(cfg))
    assert abs(report["loss"] - updated[1]["loss"]) < 1e-6 * max(1, abs(updated[1]["loss"]))
    rows, positions = (report.pop(name) for name in PACKED)  # depend on how long a row is
    close(report, {name: x for name, x in updated[1].items() if name not in PACKED}, rtol=1e-5, atol=1e-6)
    assert 0 < rows <= updated[1]["packed_rows"] == 1
    assert updated[1]["packed_positions"] < positions <= 1  # what is empty is not computed
    close(state.opt_state, updated[0].opt_state, rtol=1e-4, atol=1e-6)
    close((state.params, state.anchor_offset), (updated[0].params, updated[0].anchor_offset), rtol=1e-4, atol=2e-5)


def test_split_takes_rows_from_every_shard_and_merge_is_its_inverse():
    rows = {"a": jnp.arange(12), "b": jnp.arange(24).reshape(12, 2)}
    parts = sft.split(rows, 3)
    np.testing.assert_array_equal(parts["a"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    assert parts["b"].shape == (3, 4, 2) and parts["b"][1, 2].tolist() == [14, 15]
    equal(unpacked.merge(parts), rows)


def test_join_sets_the_prompt_against_the_response():
    """By hand: a prompt of 2 of 3 positions and one of 3, two responses each."""
    prompts = Prompts(jnp.array([[7, 8, 9], [4, 5, 6]]), jnp.array([[1, 1, 0], [1, 1, 1]], bool), jnp.array([0, 1]))
    sampled = jnp.array([[1, 1], [1, 0], [1, 1], [1, 0]], bool)
    tokens = jnp.array([[21, 22], [23, 0], [24, 25], [26, 0]])
    zero = jnp.zeros((4, 2))
    rows = unpacked.join(prompts, Rollouts(tokens, sampled, zero, zero, jnp.ones(4, bool)))
    np.testing.assert_array_equal(
        rows.tokens_BS, [[0, 7, 8, 21, 22], [0, 7, 8, 23, 0], [4, 5, 6, 24, 25], [4, 5, 6, 26, 0]]
    )
    np.testing.assert_array_equal(rows.segment_BS, [[0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1] * 5, [1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(rows.position_BS[1:3], [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4]])


def test_each_step_draws_afresh_from_its_seed_and_number():
    """The same weights and prompts: other samples at another step or from another root, the same ones again."""
    one = small.fused(ONE)

    def samples(**change):
        one.scorer.take()
        one.step(one.start().replace(**change), one.prompts())
        return one.scorer.rows()[1]

    first = samples()
    np.testing.assert_array_equal(samples(), first)
    for change in ({"step": jnp.int32(1)}, {"rng": jax.random.key_data(jax.random.key(1))}):
        assert (samples(**change) != first).any(-1).mean() > 0.9


MESHES = [
    (1, 1, 2),
    (2, 2, 2),
    (1, 2, 4),  # two kv heads over four devices: copies
    *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((8, 1, 1), (1, 8, 1), (4, 1, 2), (1, 4, 2), (2, 1, 4))),
]


@pytest.fixture(scope="module")
def three_steps():
    """Samples and losses of three steps on one device. The weights' seed is one at which no mesh's rounding turns a
    draw: of the other seeds that were tried, none did either, but nothing forbids it."""
    return run_three(ONE)


def run_three(shape):
    one = small.fused(shape)
    one.scorer.take()
    state, samples, reports = one.start(), [], []
    for seed in range(3):
        state, (report,) = one.run(state, [seed])
        calls = one.scorer.take()
        samples.append(sorted(calls, key=lambda call: call[0][0]))
        reports.append(report)
    return state, samples, reports


@pytest.mark.parametrize("shape", MESHES)
def test_devices_change_nothing(shape, three_steps):
    """Three steps: the same samples, token for token, and losses within 1e-4."""
    state, samples, reports = run_three(shape)
    for calls, expected in zip(samples, three_steps[1], strict=True):
        together = [np.concatenate(part) for part in zip(*calls, strict=True)]
        equal(together, list(expected[0]))
    for report, expected in zip(reports, three_steps[2], strict=True):
        assert abs(report["loss"] - expected["loss"]) < 1e-4
        assert report["logprob_gap"] < 1e-4
        close(report, expected, rtol=1e-4, atol=1e-4)
    close(state.params, three_steps[0].params, atol=2e-4)
    assert len({float(report["loss"]) for report in reports}) == 3


@pytest.mark.parametrize("shape", [ONE, *MESHES])
def test_each_shard_scores_its_own_rows_once(shape):
    """Each call of the scorer gets the rows of one shard; copies of a shard (tensor > 1) do not ask again."""
    one = small.fused(shape)
    one.scorer.take()
    state, _ = one.step(one.start(), one.prompts())
    jax.block_until_ready(state)
    calls = one.scorer.take()
    shards = shape[0] * shape[1]
    assert len(calls) == shards
    asked = sorted(tuple(call[0]) for call in calls)
    assert asked == [tuple(part) for part in np.repeat(np.arange(100, 100 + P), R).reshape(shards, -1)]
    for problem, tokens, sampled, stopped in calls:
        assert tokens.shape == sampled.shape == (len(problem), T) and stopped.shape == (len(problem),)
        assert (tokens.dtype, sampled.dtype, stopped.dtype) == (np.int32, np.bool_, np.bool_)


@pytest.mark.parametrize("shape", [ONE, (1, 4, 2)])
def test_scores_come_back_to_their_rows(shape):
    """Each row's outcome, by problem, is in the report: 3 of 8 problems right, one of them unscorable instead."""
    one = small.fused(shape)

    def rule(problem, tokens, sampled, stopped):
        outcome = np.where(problem == 101, -1, problem < 103).astype(np.int8)
        return HostScores(outcome, problem == 103, problem == 104, problem >= 106)

    with small.scoring(one.scorer, rule):
        _, (report,) = one.run(one.start(), [0])
    assert report["unscorable"] == 1 / 8 and report["accuracy"] == np.float32(2 / 7)
    assert (report["overlong"], report["repetition"], report["garbled"]) == (1 / 8, 1 / 8, 2 / 8)
    assert report["reward"] == np.float32((2 - 4) / 7) and report["mixed_groups"] == 0 == report["failed"]
    fates = {name: int(report[f"tokens_{name}"]) for name in ("trained", "skipped", "unscorable", "no_advantage")}
    assert sum(fates.values()) == report["tokens"] > fates["trained"] > 0 < fates["unscorable"]
    assert fates["skipped"] == 0 == fates["no_advantage"]  # the entropy bonus teaches something of every response


@pytest.mark.parametrize("shape", [ONE, (1, 4, 2)])
def test_a_response_that_puzzles_the_policy_is_penalised_and_the_host_knows(shape):
    """All are wrong: only where a group has both puzzling responses and others is there something to learn."""
    prompts, rollouts, *_ = small.drawn()
    nll = -np.asarray(rollouts.logprob_BT).sum(-1) / np.asarray(rollouts.sampled_BT).sum(-1)
    most = float(np.exp(np.median(nll)))
    cfg = small.make_config(rl__max_perplexity=most, rl__entropy_coef=0.0, rl__kl_coef=0.0)

    def wrong(problem, *_):
        no = np.zeros(len(problem), bool)
        return HostScores(no.astype(np.int8), no, no, no)

    score = make_score(rl_setup(cfg, small.make_mesh(shape)), wrong)
    scores, plan = jax.jit(score)(*small.to_numpy((prompts, rollouts)))
    np.testing.assert_array_equal(scores.perplexed_B, nll > np.log(most))
    puzzling = np.asarray(scores.perplexed_B).reshape(P, R)
    mixed = puzzling.any(-1) & ~puzzling.all(-1)
    assert 0 < mixed.sum()
    np.testing.assert_array_equal(np.asarray(plan.row_B) >= 0, np.repeat(mixed, R))


@pytest.mark.parametrize("shape", [ONE, (1, 4, 2)])
@pytest.mark.parametrize("fault", ["raises", "too few"])
def test_a_scorer_that_fails_is_seen_and_no_device_waits_for_it(shape, fault, caplog):
    """Its rows are not learnt from, the report says which share they are, and the program ends."""
    one = small.fused(shape)
    whole = shape[0] * shape[1] == 1

    def rule(problem, *rest):
        if 101 in problem:
            if fault == "raises":
                raise KeyError("no such problem")
            return HostScores(*(x[:1] for x in small.parity(problem, *rest)))
        return small.parity(problem, *rest)

    with small.scoring(one.scorer, rule):
        state, (report,) = one.run(one.start(), [0])
    assert report["failed"] == report["unscorable"] == (1 if whole else 1 / 4)
    assert np.isfinite(state.params["final_norm"]).all()
    assert "the scorer failed on" in caplog.text and ("no such problem" in caplog.text or fault == "too few")


def test_an_anchor_that_moves_every_other_update(drawn):
    """After the first it is where it was; after the second it has come gamma of the way, as after every one with 1."""
    one = small.fused(ONE)
    update = jax.jit(step.make_update(rl_setup(small.with_rl(one.cfg, anchor_every=2), one.mesh)))
    before = one.start()
    stood = optim.anchor_params(before.anchor_offset, before.params)
    after, _ = update(before, *drawn)
    close(optim.anchor_params(after.anchor_offset, after.params), stood, rtol=1e-6, atol=1e-7)
    second = before.replace(step=before.step + 1)
    equal(update(second, *drawn)[0].anchor_offset, small.update()(second, *drawn)[0].anchor_offset)


# The gradient, against the equations in float64.


def reference_tokens(params, row, cfg):
    """(log-probability, entropy) of each response token, float64, at the learner's temperature."""
    prompt, response = row
    z = reference_logits(params, np.concatenate([prompt, response]), cfg.model) / cfg.rl.learner_temperature
    z = z[len(prompt) - 1 : -1]
    logp = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
    return logp[np.arange(len(response)), response], -(np.exp(logp) * logp).sum(-1)


def reference_advantages(outcome, penalised, kl, cfg):
    """A_i = r'_i - mean of the others' r' - beta (k_i - mean of the others' k), one response at a time."""
    rl, result = cfg.rl, np.zeros(B)
    in_reward = rl.penalty_site == "reward"
    flagged = {"reward": rl.penalty, "advantage": outcome == 1, "wrong": 0.0}[rl.penalty_site]
    reward = np.where(penalised, flagged, outcome == 1)
    for i in range(B):
        others = [j for j in range(i // R * R, i // R * R + R) if j != i and outcome[j] >= 0]
        if outcome[i] < 0:
            continue
        if others:
            apart = {i: reward[i] - reward[others].mean()}
            for j in others:
                apart[j] = reward[j] - np.mean([reward[k] for k in (i, *others) if k != j])
            result[i] = max(apart[i], -max(apart.values())) if rl.advantage_floor else apart[i]
            if rl.kl_site == "reward":
                result[i] -= rl.kl_coef * (kl[i] - kl[others].mean())
        if not in_reward and penalised[i]:
            result[i] = rl.penalty
    return result


def reference_loss(params, rows, scorable, advantage, anchor, kl_tokens, cfg):
    """L = - mean_i A_i sum_t log pi - alpha H [+ beta mean_i sum_t (log pi - log pi_ref)^2 / 2]."""
    policy = entropy = tokens = 0.0
    for i, row in enumerate(rows):
        logprob, h = reference_tokens(params, row, cfg)
        entropy, tokens = entropy + h.sum(), tokens + len(h)
        if scorable[i]:
            each = 1 / len(logprob) if cfg.rl.loss_normalisation == "response_mean" else 1.0
            of_token = np.full(len(logprob), advantage[i])
            if cfg.rl.kl_site == "token":  # of the weights that the gradient is taken at, not of `params`
                of_token -= cfg.rl.kl_coef * kl_tokens[i]
            policy -= each * (of_token * logprob).sum()
            if cfg.rl.kl_site == "loss":
                policy += cfg.rl.kl_coef * ((logprob - anchor[i]) ** 2).sum() / 2
    by = sum(len(row[1]) for row, s in zip(rows, scorable, strict=True) if s)
    count = by if cfg.rl.loss_normalisation == "token" else sum(scorable)
    return policy / count - cfg.rl.entropy_coef * entropy / tokens


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"kl_site": "loss", "penalty_site": "advantage", "loss_normalisation": "token", "micro_batches": 4},
        {
            "kl_site": "token",
            "penalty_site": "wrong",
            "advantage_floor": True,
            "loss_normalisation": "response_mean",
        },
        {"kl_reduction": "mean", "advantage_floor": True, "loss_normalisation": "response_mean", "micro_batches": 4},
    ],
)
def test_the_gradient_is_that_of_the_equations(drawn, knobs, monkeypatch):
    """All of the update up to the optimiser: advantages, anchor, log-probabilities, entropy, loss, gradient.

    The reference shares no code with it. Its derivative is by central differences, for each parameter along the
    gradient and along a random direction.
    """
    one = small.fused(ONE)
    cfg = small.with_rl(one.cfg, kl_coef=0.5, entropy_coef=0.3, kl_clip=0.1, **knobs)
    keep = small.keeping_the_gradient()
    monkeypatch.setattr(optim, "make_optimizer", lambda *_: keep)
    prompts, rollouts, scores, _ = drawn
    plan = small.planned(cfg)
    scores = dataclasses.replace(scores, outcome_B=scores.outcome_B.at[jnp.array([1, 6, 8, 9, 10])].set(-1))
    before = one.start()
    before = before.replace(opt_state=keep.init(before.params))
    state, report = jax.jit(step.make_update(rl_setup(cfg, one.mesh)))(before, prompts, rollouts, scores, plan)
    gradient = state.opt_state

    params = jax.tree.map(lambda x: np.asarray(x, np.float64), before.params)
    anchor_params = jax.tree.map(lambda x, d: x + np.asarray(d, np.float64), params, before.anchor_offset)
    tokens, sampled = np.asarray(rollouts.tokens_BT), np.asarray(rollouts.sampled_BT)
    prompt = [np.asarray(prompts.tokens_PC[p])[np.asarray(prompts.valid_PC[p])] for p in range(P)]
    rows = [(prompt[b // R], tokens[b][sampled[b]]) for b in range(B)]
    outcome = np.asarray(scores.outcome_B)
    penalised = np.asarray(scores.overlong_B) | np.asarray(scores.repetition_B) | np.asarray(scores.garbled_B)
    anchor = [reference_tokens(anchor_params, row, cfg)[0] for row in rows]
    own = [reference_tokens(params, row, cfg)[0] for row in rows]
    clipped = [np.clip(a - b, -0.1, 0.1) for a, b in zip(own, anchor, strict=True)]
    assert 0.05 < np.mean(np.abs(np.concatenate(clipped)) == 0.1) < 0.95
    kl = np.array([x.sum() for x in clipped])
    in_reward = kl / sampled.sum(-1) if cfg.rl.kl_reduction == "mean" else kl
    advantage = reference_advantages(outcome, penalised, in_reward, cfg)
    np.testing.assert_allclose(report["kl_anchor"], kl.mean(), atol=1e-5)

    def loss(tree):
        return reference_loss(tree, rows, outcome >= 0, advantage, anchor, clipped, cfg)

    np.testing.assert_allclose(report["loss"], loss(params), rtol=1e-5)
    np.testing.assert_allclose(report["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
    leaves, tree = jax.tree.flatten(params)
    random = np.random.default_rng(0)
    for i, g in enumerate(jax.tree.leaves(gradient)):
        g = np.asarray(g, np.float64)
        length = np.sqrt((g**2).sum())
        noise = random.normal(size=g.shape)
        for direction in (g / length, noise / np.sqrt((noise**2).sum())):
            ends = (
                loss(tree.unflatten([x + sign * 1e-4 * direction if j == i else x for j, x in enumerate(leaves)]))
                for sign in (1, -1)
            )
            slope = (next(ends) - next(ends)) / 2e-4
            assert abs(slope - (g * direction).sum()) < 1e-3 * length
    assert len(leaves) == 14


def test_the_anchor_is_made_after_sampling():
    """Its offset is read through a barrier that waits for the rows: XLA may else make it before the token loop.

    They would be held beside the cache: 0.8 of 14 GiB of qwen32b_lora on v5e:8x8.
    """
    one = small.fused(ONE)
    given = (one.start(), *small.drawn())
    traced = jax.make_jaxpr(step.make_update(one.setup))(*given).jaxpr
    named = zip(jax.tree_util.tree_leaves_with_path(given), traced.invars, strict=True)
    offsets = {var for (path, _), var in named if "anchor_offset" in jax.tree_util.keystr(path)}
    readers = [eqn for eqn in traced.eqns if not offsets.isdisjoint(v for v in eqn.invars if isinstance(v, Var))]
    assert readers[0].primitive.name == "optimization_barrier" and offsets < set(readers[0].invars)
    rows = [var for var in readers[0].invars if var not in offsets]
    assert {var.aval.shape for var in rows} >= {(one.setup.grid.parts, one.setup.grid.rows, one.setup.grid.length)}
