# SPDX-License-Identifier: Apache-2.0
"""T1's traps end to end, in the compiled step; that it learns; and how the loop ends when a scorer fails."""

from __future__ import annotations

import dataclasses

import guarded
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from small import ONE, STOPS, P, R, T

from t1jax import config
from t1jax.rewards.answers import Outcome
from t1jax.rewards.score import HostScores, make_scorer
from t1jax.training import checkpoint, health, loop, rl, step
from t1jax.training.setup import rl_setup


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, small.to_numpy(a), small.to_numpy(b))


def anchor(state):
    """theta_ref in float64."""
    return jax.tree.map(lambda x, d: np.asarray(x, np.float64) + d, state.params, small.to_numpy(state.anchor_offset))


def no_flags(problem, tokens, sampled, stopped, outcome):
    no = np.zeros(len(problem), bool)
    return HostScores(outcome.astype(np.int8), no, no, no)


def test_trap_1_the_ratio_to_the_sampler_is_1_at_every_token():
    """`logprob_gap`, the worst token of a step, in steps that change the weights; and it is not blind."""
    one = small.fused(ONE)
    _, reports = one.run(one.start(), range(4))
    assert one.cfg.rl.temperature == 1.2
    assert max(report["logprob_gap"] for report in reports) < 1e-4

    prompts, rollouts, *scored = small.drawn()
    at = tuple(np.argwhere(np.asarray(rollouts.sampled_BT))[40])
    other = dataclasses.replace(rollouts, logprob_BT=rollouts.logprob_BT.at[at].add(0.25))
    _, report = small.update()(one.start(), prompts, other, *scored)
    np.testing.assert_allclose(report["logprob_gap"], 0.25, atol=1e-4)


def test_trap_1_a_learner_at_temperature_1_is_seen():
    one = small.fused(ONE)
    cfg = small.with_rl(one.cfg, logprob_temperature=1.0)
    _, report = jax.jit(step.make_update(rl_setup(cfg, one.mesh)))(one.start(), *small.drawn())
    assert report["logprob_gap"] > 0.1


def test_trap_3_the_anchor_follows_in_float32_without_loss():
    """Against theta_ref <- gamma theta_ref + (1 - gamma) theta in float64, over the parameters of each step."""
    one = small.fused(ONE)
    state = one.start()
    expected = anchor(state)
    for seed in range(5):
        state, _ = one.run(state, [seed])
        expected = jax.tree.map(lambda ref, x: 0.9 * ref + 0.1 * np.asarray(x, np.float64), expected, state.params)
    assert one.cfg.rl.anchor_decay == 0.9
    assert {x.dtype for x in jax.tree.leaves(state.anchor_offset)} == {jnp.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), anchor(state), expected)
    apart = jax.tree.map(lambda x, ref: np.abs(np.asarray(x) - ref).max(), state.params, expected)
    assert min(jax.tree.leaves(apart)) > 1e-3


class Tokenizer:
    """All that checkpoints want of one."""

    def save(self, directory):
        directory.mkdir(parents=True, exist_ok=True)


def test_trap_4_a_resumed_run_has_its_anchor_and_goes_on_bit_for_bit(tmp_path):
    one = small.fused(ONE)
    state, _ = one.run(one.start(), range(2))
    halfway = small.to_numpy(state)
    with checkpoint.Checkpoints(tmp_path, one.cfg, Tokenizer()) as checkpoints:
        checkpoints.save(2, state)
        checkpoints.wait()
        unbroken, reports = one.run(state, range(2, 4))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), unbroken)
        resumed = checkpoints.restore(shapes)
    equal(resumed, halfway)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(resumed.anchor_offset)) > 1e-3
    resumed, again = one.run(resumed, range(2, 4))
    equal(resumed, unbroken)
    equal(again, reports)


def test_trap_5_padding_may_be_a_stop_token_or_anything():
    """Prompts padded with the stop token 0, with another one, and with an id that does not exist: the same bits."""
    one = small.fused(ONE)
    assert 0 in STOPS
    states = []
    for padding in (0, 50, 10**6):
        prompts = one.prompts(padding=padding)
        assert (np.asarray(prompts.tokens_PC) == padding).any()
        states.append(one.step(one.start(), prompts))
    equal(states[0], states[1])
    equal(states[0], states[2])


def test_trap_5_what_follows_a_response_is_never_read():
    """A response may end with token 0, which also fills what is behind it: the end counts, the filling does not."""
    one = small.fused(ONE)
    prompts, rollouts, *scored = small.drawn()
    tokens, sampled = np.asarray(rollouts.tokens_BT), np.asarray(rollouts.sampled_BT)
    last = tokens[np.arange(P * R), sampled.sum(-1) - 1]
    assert ((last == 0) & rollouts.stopped_B).any() and (tokens[~sampled] == 0).all() and not sampled.all()
    expected = small.update()(one.start(), prompts, rollouts, *scored)
    assert int(expected[1]["tokens"]) == sampled.sum() > (tokens != 0).sum()

    def filled(x_BT, value):
        return jnp.where(rollouts.sampled_BT, x_BT, value)

    other = dataclasses.replace(
        rollouts,
        tokens_BT=filled(rollouts.tokens_BT, 17),
        logprob_BT=filled(rollouts.logprob_BT, jnp.nan),
        entropy_BT=filled(rollouts.entropy_BT, jnp.nan),
    )
    equal(small.update()(one.start(), prompts, other, *scored), expected)


def test_trap_6_groups_are_counted_by_raw_correctness():
    """All wrong, but half of them penalised: rewards differ within each group, yet no group is mixed."""
    one = small.fused(ONE)

    def rule(problem, *rest):
        wrong = no_flags(problem, *rest, outcome=np.zeros(len(problem)))
        return wrong._replace(repetition=np.arange(len(problem)) % 2 == 0)

    with small.scoring(one.scorer, rule):
        _, (report,) = one.run(one.start(), [0])
    assert report["reward"] == -0.5 and report["mixed_groups"] == 0


def test_trap_7_an_unscorable_response_is_not_a_wrong_one():
    """A check that crashes on every response to one problem, through the scorer of a real run."""
    one = small.fused(ONE)

    class Task:
        def problem(self, index, split):
            assert split == "train"
            return index

        def score(self, problems, responses):
            if 102 in problems:
                raise ValueError("cannot be checked")
            return [Outcome.RIGHT if len(response) % 2 else Outcome.WRONG for response in responses]

    class Words:
        def decode(self, ids):
            return "ab" * (int(sum(ids)) % 50) + "c" * (int(sum(ids)) % 2)

    scorer = make_scorer(Task(), "train", Words(), one.cfg.rl)

    def variant(change):
        def rule(problem, *rest):
            scores = scorer(problem, *rest)
            failed = scores.outcome == -1
            np.testing.assert_array_equal(failed, problem == 102)
            return change(scores, failed)

        with small.scoring(one.scorer, rule):
            state, (report,) = one.run(one.start(), [0])
        return state, report

    state, report = variant(lambda scores, failed: scores)
    assert report["unscorable"] == 1 / P and report["failed"] == 0
    flagged, _ = variant(lambda scores, failed: scores._replace(garbled=scores.garbled | failed))
    equal(flagged, state)  # nothing else about such a response counts either
    as_wrong, wrong_report = variant(
        lambda scores, failed: scores._replace(outcome=np.where(failed, 0, scores.outcome), overlong=scores.overlong)
    )
    assert wrong_report["accuracy"] < report["accuracy"] and wrong_report["unscorable"] == 0
    assert jnp.abs(as_wrong.params["embedding"] - state.params["embedding"]).max() > 1e-4


def test_trap_7_with_nothing_scorable_only_the_entropy_pulls():
    """No response has a score: the gradient is that of - alpha H, whatever the advantages would have been."""
    one = small.fused(ONE)

    def unscorable(problem, *rest):
        return no_flags(problem, *rest, outcome=np.full(len(problem), -1))

    with small.scoring(one.scorer, unscorable):
        _, (report,) = one.run(one.start(), [0])
    _, (scored,) = one.run(one.start(), [0])
    assert np.isnan(report["reward"]) and np.isnan(report["accuracy"]) and report["unscorable"] == 1
    np.testing.assert_allclose(report["loss"], -one.cfg.rl.entropy_coef * report["entropy"], rtol=1e-4)
    assert report["grad_norm"] < 0.1 * scored["grad_norm"]


def test_it_learns_what_is_rewarded():
    """Right is what holds token 5: the share rises from one in six to nearly all."""
    one = small.fused(ONE)

    def rule(problem, tokens, sampled, stopped):
        return no_flags(problem, tokens, sampled, stopped, outcome=((tokens == 5) & sampled).any(-1))

    with small.scoring(one.scorer, rule):
        _, reports = one.run(one.start(), range(20))
    reward = [float(report["reward"]) for report in reports]
    assert np.mean(reward[:3]) < 0.4 and np.mean(reward[-3:]) > 0.8, reward
    assert all(report["logprob_gap"] < 1e-4 for report in reports)


class Written(list):
    """A writer and a stage that remember."""

    def write(self, stage, step, row):
        self.append((stage, step, row))
        return row

    def update(self, step, row):
        self[-1] += (step,)


def report(**values):
    return {name: jnp.float32(value) for name, value in ({"loss": 0.5, "tokens": 10.0} | values).items()}


def test_the_log_writes_each_step_at_once():
    written = Written()
    log = loop.StepLog("rl", written, written, health.Health(small.make_config(), "rl", print))
    for number in (1, 2, 3):
        log.write(number, report(loss=number, failed=0.0))
        assert [(stage, number, row["loss"], told) for stage, number, row, told in written] == [
            ("rl", n, float(n), n) for n in range(1, number + 1)
        ]
    for _, _, row, _ in written:
        assert row["seconds"] > 0 and "failed" not in row
        np.testing.assert_allclose(row["tokens_per_second"] * row["seconds"], 10.0)


def test_a_failed_scorer_ends_the_loop_before_anything_is_written():
    written = Written()
    log = loop.StepLog("rl", written, written, health.Health(small.make_config(), "rl", print))
    with pytest.raises(RuntimeError, match="rl step 7: the scorer raised"):
        log.write(7, report(failed=0.25))
    assert not written


@pytest.mark.parametrize(
    "step, every, last, expected",
    [(4, 2, 9, True), (5, 2, 9, False), (9, 2, 9, True), (4, 0, 9, False), (9, 0, 9, True)],
)
def test_due(step, every, last, expected):
    assert loop.due(step, every, last) is expected


def test_the_settings_of_a_run_are_those_that_traps_need():
    """The defaults: the learner's temperature is the sampler's, the KL is in the reward, T1's penalty."""
    from configs import base, tiny

    for module in (base, tiny):
        cfg = config.load(module.get_config()).rl
        assert cfg.learner_temperature == cfg.temperature == 1.2 or module is tiny
        assert cfg.learner_temperature == cfg.temperature
        assert (cfg.kl_site, cfg.penalty_site, cfg.penalty) == ("reward", "reward", -1.0)
    assert T == small.make_config().rl.max_new_tokens


def test_the_guard_of_the_loop_sees_a_transfer(monkeypatch):
    """What the unbroken run of these tests is held to (guarded.py): from `begin` on nothing is moved unasked."""

    class Signals:
        snapshots = False

    def train():
        rl.Saving(None, None, None, Signals()).begin(0, None)
        return jnp.sin(1.0)  # a number of the host's, moved to a device

    monkeypatch.setattr(rl, "train", train)
    with guarded.loop_of_rl(), pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
        rl.train()
    assert train() > 0.8
