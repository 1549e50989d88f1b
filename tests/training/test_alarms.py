# SPDX-License-Identifier: Apache-2.0
"""What several rows show: reward without accuracy, penalties as the whole signal, groups with nothing to compare."""

from __future__ import annotations

import numpy as np
import pytest
import small
from scipy import stats
from small import ONE, P, R

from t1jax.rewards.score import HostScores
from t1jax.training import alarms, health

COLLAPSED = {  # a run of a real model whose limit was as long as an answer: short wrong answers paid
    "reward": (-0.14, -0.12, -0.13, -0.08, -0.06, -0.03, -0.02, 0.0, 0.0),
    "accuracy": (0.086, 0.078, 0.082, 0.06, 0.043, 0.031, 0.016, 0.004, 0.0),
    "mixed_groups": (0.5, 0.5, 0.44, 0.38, 0.25, 0.25, 0.12, 0.06, 0.0),
    "penalty_variance": (0.7, 0.68, 0.72, 0.7, 0.66, 0.6, 0.7, 0.8, 0.0),
    "overlong": (0.23, 0.2, 0.21, 0.14, 0.1, 0.06, 0.04, 0.0, 0.0),
}
HEALTHY = {
    "reward": (0.2, 0.24, 0.19, 0.27, 0.31, 0.29, 0.36, 0.41, 0.44),
    "accuracy": (0.3, 0.33, 0.3, 0.36, 0.4, 0.38, 0.44, 0.48, 0.5),
    "mixed_groups": (0.9,) * 9,
    "penalty_variance": (0.2,) * 9,
    "overlong": (0.1,) * 9,
}


def rows(columns):
    """A row a step, with what a healthy step has in other columns."""
    count = len(columns["reward"])
    other = {"entropy": 0.3, "kl_anchor": 1.0, "response_length": 50.0, "unscorable": 0.0, "skipped": 0.0}
    still = {"repetition": 0.0, "garbled": 0.0, "logprob_gap": 1e-6, "packed_positions": 0.8}
    return [other | still | {name: values[i] for name, values in columns.items()} for i in range(count)]


def said(columns):
    """What health says of these rows."""
    notes: list[str] = []
    watch = health.Health(small.make_config(), "rl", notes.append)
    for number, row in enumerate(rows(columns), 1):
        watch.look(number, row)
    return notes


def test_a_run_that_learns_to_be_right_sets_off_nothing():
    assert said(HEALTHY) == []


def test_a_collapse_is_told_within_nine_steps_once_and_with_the_knob():
    hacked, unmixed = (
        [note for note in said(COLLAPSED) if words in note] for words in ("the reward rose", "penalties are")
    )
    assert len(hacked) == len(unmixed) == 1
    assert hacked[0].startswith("WARNING: rl step 8: over the last 8 steps the reward rose, -0.140 to 0.000, while ")
    assert "accuracy fell, 8.6% to 0.4%" in hacked[0] and "raise rl.max_new_tokens to several times" in hacked[0]
    assert unmixed[0].startswith("WARNING: rl step 8: ") and "70% of the reward's variance" in unmixed[0]


@pytest.mark.parametrize(
    ("name", "knob"),
    [("repetition", "rl.repeat_count"), ("garbled", "rl.garbled_share"), ("perplexed", "rl.max_perplexity, or lower")],
)
def test_the_knob_is_that_of_the_penalty_that_hits_most(name, knob):
    (note,) = said(HEALTHY | {"penalty_variance": (0.8,) * 9, "repetition": (0.0,) * 9, name: (0.4,) * 9})
    assert knob in note and "40% of the responses are" in note


@pytest.mark.parametrize(("accuracy", "knob"), [(0.97, "harder problems"), (0.01, "easier problems")])
def test_groups_of_one_kind_are_told_with_the_way_out(accuracy, knob):
    (note,) = said(HEALTHY | {"accuracy": (accuracy,) * 9, "mixed_groups": (0.05,) * 9})
    assert f"as {accuracy:.0%} are right" in note and knob in note


def test_groups_that_overdraw_kept_are_what_counts():
    few = {"accuracy": (0.01,) * 9, "mixed_groups": (0.05,) * 9}
    assert said(HEALTHY | few | {"mixed_groups_kept": (0.2,) * 9}) == []
    (note,) = said(HEALTHY | few | {"mixed_groups_kept": (0.08,) * 9})
    assert "8% of the groups that rl.overdraw kept had both right and wrong responses, as 1% are right" in note


def test_another_term_that_rises_instead_of_accuracy_is_named():
    rising = tuple(0.1 * i for i in range(9))
    told = [note for note in said(COLLAPSED | {"mean_reward": rising}) if "the reward rose" in note]
    assert len(told) == 1 and "another term of reward.function rises" in told[0] and "max_new_tokens" not in told[0]


def test_an_update_of_padding_is_told_with_the_knob():
    """A real run: responses of 8 tokens, parts with room for 32 of 128 positions each; 1,600 of 4,096 held a text."""
    assert said(HEALTHY | {"packed_positions": (0.5,) * 9}) == []
    (note,) = said(HEALTHY | {"packed_positions": (0.39,) * 9})
    assert "39% of the positions" in note and "rl.micro_batches" in note
    few = said(HEALTHY | {"packed_positions": (0.1,) * 9, "mixed_groups": (0.02,) * 9})
    assert len(few) == 1 and "groups had both" in few[0]  # there is little to compute: smaller parts would not help


def test_one_alarm_speaks_again_only_after_it_was_silent():
    shares = (0.6,) * 10 + (0.0,) * 10 + (0.6,) * 10
    still = {name: values[:1] * 30 for name, values in HEALTHY.items()}
    assert len(said(still | {"penalty_variance": shares})) == 2


def test_a_resumed_run_goes_on_looking_where_it_was_and_tells_nothing_twice():
    """Broken off after step 5: the window of eight is full at step 8 all the same, and only then something is told."""
    for broken, expected in ((5, 1), (8, 0)):
        notes: list[str] = []
        watch = health.Health(small.make_config(), "rl", notes.append)
        done = [{**row, "stage": "rl", "step": i} for i, row in enumerate(rows(COLLAPSED)[:broken], 1)]
        watch.recall([{"stage": "sft", "step": 9, "loss": 1.0}, *done])
        assert notes == []
        for number, row in enumerate(rows(COLLAPSED)[broken:], broken + 1):
            watch.look(number, row)
        assert sum("the reward rose" in note for note in notes) == expected


def test_skipped_steps_and_steps_without_figures_are_not_looked_at():
    watch = alarms.Alarms(pytest.fail)
    for number, row in enumerate(rows(COLLAPSED), 1):
        watch.look(number, row | {"skipped": 1.0})
        watch.look(number, row | {"accuracy": None})


def test_a_trend_is_that_of_a_regression():
    values = np.random.default_rng(0).normal(size=8)
    fit = stats.linregress(np.arange(8), values)
    assert alarms.trend(values) == pytest.approx(fit.slope / fit.stderr)
    assert alarms.trend([1.0] * 8) == 0.0 and alarms.trend([3.0, 2.0, 1.0]) == -np.inf


def test_noise_sets_off_the_trend_rarely():
    rng = np.random.default_rng(1)
    fired = sum(
        alarms.hacked([{"reward": a, "accuracy": b, **still} for a, b in rng.normal(size=(8, 2))]) is not None
        for still in [dict.fromkeys(("overlong", "repetition", "garbled"), 0.0)] * 2000
    )
    assert fired <= 10  # 2000 / 45^2 / 2: one is expected


def test_live_steps_that_trade_accuracy_for_fewer_penalties_are_told():
    """The compiled step's own reports, of responses that are judged to be ever less right and ever less overlong."""
    one = small.fused(ONE)
    notes: list[str] = []
    watch = health.Health(one.setup.cfg, "rl", notes.append)
    state = one.start()
    order = (np.arange(P * R) % R) * P + np.arange(P * R) // R  # so that every group has some of each kind
    for number in range(8):
        right, overlong = order < 8 - number, order >= 8 + 3 * number
        no = np.zeros(P * R, bool)
        with small.scoring(one.scorer, lambda *_, r=right, o=overlong, no=no: HostScores(r.astype(np.int8), o, no, no)):
            state, (report,) = one.run(state, [number])
        watch.look(number + 1, {name: float(value) for name, value in report.items()})
    assert any("step 8: over the last 8 steps the reward rose" in note for note in notes)
    assert any("of the reward's variance within groups" in note for note in notes)
