# SPDX-License-Identifier: Apache-2.0
"""Advantages against numbers worked out by hand and against the equations written as loops."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import kin, tiny
from t1jax import config
from t1jax.rewards import penalties
from t1jax.types import Scores
from t1jax.update import advantages as adv

NAN = float("nan")
CFG = dataclasses.replace(config.load(tiny.get_config()).rl, responses_per_prompt=4, kl_coef=0.1, penalty=-1.0)


def make_scores(outcome, overlong=(), repetition=(), garbled=(), perplexed=()):
    flags = [np.isin(np.arange(len(outcome)), rows) for rows in (overlong, repetition, garbled, perplexed)]
    return Scores(jnp.array(outcome, jnp.int8), *map(jnp.array, flags))


def loop_leave_one_out(x_PR, valid_PR):
    """xbar_i = x_i - mean_{j != i} x_j, literally."""
    out = np.zeros(np.shape(x_PR))
    for p, row in enumerate(np.asarray(x_PR, np.float64)):
        for i in range(len(row)):
            others = [row[j] for j in range(len(row)) if j != i and valid_PR[p][j]]
            if valid_PR[p][i] and others:
                out[p, i] = row[i] - np.mean(others)
    return out


def test_penalised_reward():
    reward = jnp.array([1.0, 0.25, 1.0, -3.0, 0.0])
    penalised = jnp.array([False, False, True, True, False])
    np.testing.assert_array_equal(adv.penalised_reward(reward, penalised, -1.0), [1.0, 0.25, -1.0, -1.0, 0.0])
    assert adv.penalised_reward(reward, penalised, -1).dtype == jnp.float32


def test_each_of_the_four_rules_penalises():
    scores = make_scores([1, 1, 1, 1, 1], overlong=[0], repetition=[1], garbled=[2], perplexed=[3])
    np.testing.assert_array_equal(adv.penalised(scores), [True, True, True, True, False])


def test_the_perplexity_of_a_response_by_hand():
    """Two tokens of probability 1/2 and 1/8: a perplexity of 4. What is behind the response does not count."""
    logprob = jnp.log(jnp.array([[1 / 2, 1 / 8, 1e-9], [1.0, 1.0, 1.0], [0.1, 0.1, 0.1]], jnp.float32))
    sampled = jnp.array([[True, True, False], [False] * 3, [True] * 3])
    np.testing.assert_allclose(np.exp(adv.surprise(logprob, sampled)), [4.0, 1.0, 10.0], rtol=1e-6)
    for most, expected in ((0.0, [False] * 3), (3.9, [True, False, True]), (4.1, [False, False, True])):
        cfg = dataclasses.replace(CFG, max_perplexity=most)
        np.testing.assert_array_equal(adv.perplexed(logprob, sampled, cfg), expected)
    broken = jnp.where(sampled, logprob, jnp.nan)
    np.testing.assert_array_equal(
        adv.perplexed(broken, sampled, dataclasses.replace(CFG, max_perplexity=3.9))[1], False
    )


def test_leave_one_out_by_hand():
    x = jnp.array([[1.0, 0.0, 0.0, 1.0], [3.0, NAN, 0.0, 6.0], [5.0, NAN, NAN, NAN], [NAN] * 4])
    valid = jnp.array([[True] * 4, [True, False, True, True], [True, False, False, False], [False] * 4])
    expected = [[2 / 3, -2 / 3, -2 / 3, 2 / 3], [0.0, 0.0, -4.5, 4.5], [0.0] * 4, [0.0] * 4]
    np.testing.assert_allclose(adv.leave_one_out(x, valid), expected, atol=1e-6)


def test_leave_one_out_equals_the_loop():
    rng = np.random.default_rng(0)
    x, valid = rng.normal(size=(6, 5)), rng.random((6, 5)) < 0.7
    got = adv.leave_one_out(jnp.where(valid, jnp.array(x, jnp.float32), NAN), jnp.array(valid))
    np.testing.assert_allclose(got, loop_leave_one_out(x, valid), atol=1e-6)


def test_kl_of_token_by_hand():
    logprob = jnp.array([[-1.0, -2.0, NAN], [-0.1, -3.0, -1.0], [NAN, NAN, NAN]])
    anchor = jnp.array([[-1.25, -1.9, 0.0], [-2.1, -1.8, NAN], [0.0, NAN, NAN]])
    sampled = jnp.array([[True, True, False], [True, True, False], [False, False, False]])
    got = adv.kl_of_token(logprob, anchor, sampled, 0.5)
    np.testing.assert_allclose(got, [[0.25, -0.1, 0], [0.5, -0.5, 0], [0, 0, 0]], atol=1e-6)
    got = adv.kl_of_token(logprob, anchor, sampled, 1.5)
    np.testing.assert_allclose(got, [[0.25, -0.1, 0], [1.5, -1.2, 0], [0, 0, 0]], atol=1e-6)
    got = adv.kl_of_token(logprob[:, 0], anchor[:, 0], sampled[:, 0], float("inf"))
    np.testing.assert_allclose(got, [0.25, 2.0, 0.0], atol=1e-6)


def test_advantage_as_in_the_paper():
    """Group 0: right, wrong, wrong and overlong, right; group 1: right, unscorable, wrong, wrong."""
    scores = make_scores([1, 0, 0, 1, 1, -1, 0, 0], overlong=[2])
    kl = jnp.array([1.0, 2.0, 3.0, 6.0, 1.0, NAN, 3.0, 5.0])
    rbar = [1 - 0 / 3, 0 - 1 / 3, -1 - 2 / 3, 1 - 0 / 3, 1.0, 0.0, -0.5, -0.5]  # r' = 1, 0, -1, 1 | 1, -, 0, 0
    kbar = [1 - 11 / 3, 2 - 10 / 3, 3 - 9 / 3, 6 - 6 / 3, 1 - 4.0, 0.0, 3 - 3.0, 5 - 2.0]
    got = jax.jit(lambda s, k: adv.advantages(s, k, CFG))(scores, kl)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.array(rbar) - 0.1 * np.array(kbar), atol=1e-6)


def test_kl_site_loss_leaves_the_kl_out():
    scores = make_scores([1, 0, 0, 1])
    cfg = dataclasses.replace(CFG, kl_site="loss")
    got = adv.advantages(scores, jnp.full((4,), NAN), cfg)
    np.testing.assert_allclose(got, [2 / 3, -2 / 3, -2 / 3, 2 / 3], atol=1e-6)


def test_penalty_site_advantage_replaces_after_a_raw_baseline():
    scores = make_scores([1, 0, 1, 1, -1, 0, 0, 1], repetition=[2, 4])
    cfg = dataclasses.replace(CFG, penalty_site="advantage", kl_site="loss", penalty=-0.7)
    got = adv.advantages(scores, jnp.zeros((8,)), cfg)
    raw = [1 - 2 / 3, 0 - 1.0, -0.7, 1 - 2 / 3]  # the baseline sees three right answers, not two and a penalty
    np.testing.assert_allclose(got, [*raw, 0.0, -0.5, -0.5, 1.0], atol=1e-6)


def test_the_ancestors_advantages_by_hand():
    """Right, wrong, wrong, right but cut off: 1 - 0, 0 - 1/3 twice, the penalty. The floor is minus the largest."""
    scores = make_scores([1, 0, 0, 1, 1, 1, 1, 0], overlong=[3])
    floor = dataclasses.replace(config.load(kin.get_config()).rl, responses_per_prompt=4)
    cfg = dataclasses.replace(floor, advantage_floor=False)
    kl = jnp.full(8, NAN)  # that of a response is not read
    np.testing.assert_allclose(
        adv.advantages(scores, kl, cfg), [1, -1 / 3, -1 / 3, -1, 1 / 3, 1 / 3, 1 / 3, -1], atol=1e-6
    )
    expected = [1, -1 / 3, -1 / 3, -1, 1 / 3, 1 / 3, 1 / 3, -1 / 3]
    np.testing.assert_allclose(adv.advantages(scores, kl, floor), expected, atol=1e-6)
    assert not penalties.garbled("\ufffd\u6f22" * 9, floor.garbled_share)  # its rules know no garbled text


def test_the_kl_of_a_token_is_taken_off_beside_it_without_a_gradient():
    advantage, kl = jnp.array([1.0, 1.0, -1.0]), jnp.array([0.5, -0.25, 0.0])
    for site, expected in (("token", [0.95, 1.025, -1.0]), ("reward", advantage), ("loss", advantage)):
        cfg = dataclasses.replace(CFG, kl_site=site)
        np.testing.assert_allclose(adv.token_advantages(advantage, kl, cfg), expected, rtol=1e-6)
    gradient = jax.grad(lambda kl: adv.token_advantages(advantage, kl, dataclasses.replace(CFG, kl_site="token")).sum())
    np.testing.assert_array_equal(gradient(kl), 0.0)


@pytest.mark.parametrize("penalty_site", ["reward", "advantage", "wrong"])
@pytest.mark.parametrize("kl_site", ["reward", "loss"])
def test_unscorable_rows_touch_nobody(penalty_site, kl_site):
    """Whatever the unscorable row's KL and flags are, it gets 0 and its siblings what they get without it."""
    cfg = dataclasses.replace(CFG, penalty_site=penalty_site, kl_site=kl_site)
    kl = jnp.array([1.0, 2.0, NAN, 4.0])
    got = adv.advantages(make_scores([1, 0, -1, 0], overlong=[2, 3]), kl, cfg)
    three = dataclasses.replace(cfg, responses_per_prompt=3)
    without = adv.advantages(make_scores([1, 0, 0], overlong=[2]), jnp.array([1.0, 2.0, 4.0]), three)
    np.testing.assert_allclose(got, [without[0], without[1], 0.0, without[2]], atol=1e-6)


def test_a_batch_without_scorable_rows_is_zero():
    got = adv.advantages(make_scores([-1] * 4), jnp.full((4,), NAN), CFG)
    np.testing.assert_array_equal(got, np.zeros(4))


def test_no_gradient_flows_through_the_advantage():
    scores = make_scores([1, 0, 0, 1])
    gradient = jax.grad(lambda kl: (adv.advantages(scores, kl, CFG) * jnp.arange(4.0)).sum())(jnp.arange(4.0))
    np.testing.assert_array_equal(gradient, np.zeros(4))


def test_mixed_groups_look_at_raw_correctness():
    scores = make_scores([1, 0, 0, 0, 0, 0, 0, 0, 1, 1, -1, 1, 1, -1, 0, -1], overlong=[4])
    np.testing.assert_array_equal(adv.mixed_groups(scores, 4), [True, False, False, True])


def test_kept_groups_are_mixed_ones_first_by_hand():
    """Groups: all wrong, mixed, nothing to judge, mixed by one unscorable less, all right but penalised, mixed."""
    outcome = [0, 0, 0, 0, 1, 0, 0, 0, -1, -1, -1, -1, 1, 0, -1, -1, 1, 1, 1, 1, 0, 0, 1, 1]
    scores = jax.tree.map(np.asarray, make_scores(outcome, overlong=[16]))
    kept = [adv.kept(scores, 4, count).reshape(6, 4).all(-1).nonzero()[0].tolist() for count in range(7)]
    assert kept == [[], [1], [1, 3], [1, 3, 5], [0, 1, 3, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]


def test_kept_groups_of_every_case_of_five():
    """All 32 ways in which five groups can be mixed or not, and all counts: no unmixed one before a mixed one."""
    for mixed in itertools.product([0, 1], repeat=5):
        scores = jax.tree.map(np.asarray, make_scores([one for first in mixed for one in (first, 0)]))
        order = sorted(range(5), key=lambda group: (not mixed[group], group))
        for count in range(6):
            expected = np.repeat(np.isin(range(5), order[:count]), 2)
            np.testing.assert_array_equal(adv.kept(scores, 2, count), expected)


def test_groups_with_different_rewards_are_mixed_on_the_host_as_on_devices():
    rewards = np.array([0.5, 0.5, 0.25, 0.5, 0.0, 0.0], np.float32)
    flags = [np.zeros(6, bool)] * 4
    for outcome in ([2] * 6, [2, -1, 2, 2, 2, 2], [2, 2, 2, -1, -1, -1]):
        scores = Scores(np.array(outcome, np.int8), *flags, rewards)
        np.testing.assert_array_equal(adv.mixed_groups(scores, 2, np), adv.mixed_groups(scores, 2))
    kept = adv.kept(Scores(np.full(6, 2, np.int8), *flags, rewards), 2, 1)
    assert kept.tolist() == [False, False, True, True, False, False]


def test_baselines_by_hand():
    x = jnp.array([[1.0, 0.0, 0.0, 1.0], [3.0, NAN, 0.0, 6.0], [2.0, 2.0, 2.0, 2.0], [5.0, NAN, NAN, NAN]])
    valid = jnp.array([[True] * 4, [True, False, True, True], [True] * 4, [True, False, False, False]])
    np.testing.assert_array_equal(adv.less_baseline(x, valid, "leave_one_out"), adv.leave_one_out(x, valid))
    means = [[0.5, -0.5, -0.5, 0.5], [0.0, 0.0, -3.0, 3.0], [0.0] * 4, [0.0] * 4]
    np.testing.assert_allclose(adv.less_baseline(x, valid, "group_mean"), means, atol=1e-6)
    std = np.array([[np.sqrt(1 / 3)], [3.0], [0.0], [0.0]]) + 1e-4
    np.testing.assert_allclose(adv.less_baseline(x, valid, "group_mean_std"), np.array(means) / std, atol=1e-5)


def test_the_advantage_takes_the_baseline_of_the_config():
    scores = make_scores([1, 0, 0, 1])
    by = {
        name: np.array(adv.advantages(scores, jnp.zeros(4), dataclasses.replace(CFG, baseline=name)))
        for name in ("leave_one_out", "group_mean", "group_mean_std")
    }
    np.testing.assert_allclose(by["leave_one_out"], [2 / 3, -2 / 3, -2 / 3, 2 / 3], atol=1e-6)
    np.testing.assert_allclose(by["group_mean"], [0.5, -0.5, -0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(by["group_mean_std"], np.array([0.5, -0.5, -0.5, 0.5]) / np.sqrt(1 / 3), rtol=1e-3)


@pytest.mark.parametrize("site", ["reward", "advantage", "wrong"])
def test_what_does_not_teach_is_what_has_no_advantage(site):
    """With entropy or KL, all teach."""
    cfg = dataclasses.replace(CFG, kl_coef=0.0, entropy_coef=0.0, penalty_site=site)
    P, R = 8, cfg.responses_per_prompt
    B = P * R
    shares = []
    for seed in range(100):
        random = np.random.default_rng(seed)
        rare = random.random(4)[:, None] * 0.4
        outcome = random.choice([-1, 0, 0, 0, 1], B) if seed % 2 else random.choice([-1, 1], B)
        flags = random.random((4, B)) < rare**2
        scores = Scores(jnp.int8(outcome), *map(jnp.asarray, flags))
        advantage = np.asarray(adv.advantages(scores, jnp.zeros(B), cfg))
        teaches = adv.teaches(Scores(outcome, *flags), cfg)
        assert (advantage[~teaches] == 0).all()
        own_group = np.repeat((np.abs(advantage).reshape(P, R) > 1e-6).any(-1), R)
        np.testing.assert_array_equal(teaches, teaches & own_group)
        shares.append(teaches.mean())
        for knob in ("kl_coef", "entropy_coef"):
            assert adv.teaches(Scores(outcome, *flags), dataclasses.replace(cfg, **{knob: 1e-3})).all()
    assert min(shares) < 0.3 and max(shares) > 0.7


def test_the_variance_of_penalties_equals_the_loop():
    rng = np.random.default_rng(3)
    outcome = rng.integers(-1, 2, 40)
    scores = make_scores(outcome, overlong=np.flatnonzero(rng.random(40) < 0.3))
    total = between = 0.0
    for group in np.arange(40).reshape(-1, 4):
        kept = [i for i in group if outcome[i] >= 0]
        reward = {i: -1.0 if scores.overlong_B[i] else float(outcome[i] == 1) for i in kept}
        for i in kept:
            mean = np.mean(list(reward.values()))
            alike = np.mean([reward[j] for j in kept if scores.overlong_B[j] == scores.overlong_B[i]])
            total, between = total + (reward[i] - mean) ** 2, between + (alike - mean) ** 2
    assert 0.1 < between / total < 0.95
    np.testing.assert_allclose(adv.penalty_variance(scores, CFG), between / total, rtol=1e-5)


@pytest.mark.parametrize(
    ("outcome", "overlong", "share"),
    [([1, 0, 1, 0], [], 0.0), ([0, 0, 0, 0], [1, 2], 1.0), ([1, 1, 1, 1], [], 0.0), ([-1] * 4, [0], 0.0)],
)
def test_the_variance_of_penalties_by_hand(outcome, overlong, share):
    assert adv.penalty_variance(make_scores(outcome, overlong=overlong), CFG) == share
