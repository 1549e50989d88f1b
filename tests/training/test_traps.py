# SPDX-License-Identifier: Apache-2.0
"""The seven traps into which public trainers of this method fell, each shown harmful and shown avoided.

Traps 1, 4 and 5 are tested here on the functions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from configs import tiny
from t1jax import config
from t1jax.rollouts.sampling import SamplingSettings, sample
from t1jax.types import Scores
from t1jax.update import advantages, losses, optim
from t1jax.update.logprobs import token_logprobs_and_entropy

CFG = dataclasses.replace(config.load(tiny.get_config()).rl, responses_per_prompt=4)


def make_scores(outcome, overlong=()):
    no = jnp.zeros((len(outcome),), bool)
    return Scores(
        jnp.array(outcome, jnp.int8), jnp.isin(jnp.arange(len(outcome)), jnp.array(overlong, int)), no, no, no
    )


def test_1_the_learner_speaks_at_the_temperature_of_the_sampler():
    """The ratio learner / sampler is 1 within 1e-4 at every token; at temperature 1 it is not."""
    rng = np.random.default_rng(0)
    rows, length, width, vocab = 16, 4, 8, 50
    hidden = jnp.asarray(rng.normal(size=(rows, length, width)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(width, vocab)), jnp.float32)
    draw = jax.jit(lambda h, u: sample(h @ w, u, SamplingSettings(jnp.float32(CFG.temperature))))
    tokens, logprob, entropy = draw(hidden.reshape(-1, width), jnp.asarray(rng.random(rows * length), jnp.float32))

    def ratio(temperature):
        counted = jnp.ones((rows, length), bool)
        args = (hidden, w, tokens.reshape(rows, length), counted, temperature, 2)
        learner, learner_entropy = token_logprobs_and_entropy(*args)
        return jnp.exp(learner.reshape(-1) - logprob), learner_entropy.reshape(-1) - entropy

    assert CFG.temperature == CFG.learner_temperature == 1.2
    ratios, entropy_gap = ratio(CFG.learner_temperature)
    assert np.abs(ratios - 1).max() < 1e-4 and np.abs(entropy_gap).max() < 1e-4
    wrong, wrong_entropy = ratio(1.0)
    assert np.abs(wrong - 1).max() > 0.1 and np.abs(wrong_entropy).max() > 0.1


def test_2_the_kl_in_the_loss_pulls_and_k1_would_not():
    """Plain gradient descent on the expected KL term brings the policy to the anchor; on k1 it stays where it is."""
    start, anchor = jnp.array([2.0, 0.0, -1.0]), jax.nn.log_softmax(jnp.array([-1.0, 0.5, 1.0]))
    cfg = dataclasses.replace(CFG, kl_site="loss", kl_coef=1.0, entropy_coef=0.0)
    counts = losses.LossCounts(jnp.float32(1), jnp.float32(1))

    def ours(own, ref):
        zero, yes = jnp.zeros(()), jnp.array(True)
        return losses.policy_loss(own, zero, ref, yes, yes, zero, counts, cfg)

    def descend(term):
        def expected(z):  # tokens are drawn from the policy as it is; only the term has a gradient
            chance = jax.lax.stop_gradient(jax.nn.softmax(z))
            return (chance * jax.vmap(term)(jax.nn.log_softmax(z), anchor)).sum()

        return jax.lax.fori_loop(0, 200, lambda _, z: z - 0.5 * jax.grad(expected)(z), start)

    end = jax.nn.log_softmax(jax.jit(lambda: descend(ours))())
    np.testing.assert_allclose(end, anchor, atol=1e-3)
    stuck = jax.jit(lambda: descend(lambda own, ref: own - ref))()
    np.testing.assert_allclose(stuck, start, atol=1e-4)


def test_3_an_anchor_in_bfloat16_vanishes_and_ours_follows():
    decay, steps, change = 0.992, 300, 1e-6
    params = {"w": jnp.linspace(0.5, 1.5, 50)}
    offset, reference = optim.start_anchor(params), np.asarray(params["w"], np.float64)
    rounded = params["w"].astype(jnp.bfloat16)
    first = np.asarray(rounded, np.float64)
    for _ in range(steps):
        new = {"w": params["w"] + jnp.float32(change)}
        offset, params = optim.update_anchor(offset, params, new, decay), new
        rounded = (decay * rounded + (1 - decay) * new["w"].astype(jnp.bfloat16)).astype(jnp.bfloat16)
        reference = decay * reference + (1 - decay) * np.asarray(new["w"], np.float64)
    moved = reference - np.linspace(0.5, 1.5, 50)
    np.testing.assert_allclose(optim.anchor_params(offset, params)["w"], reference, rtol=1e-6)
    assert moved.min() > 1e-4
    assert (
        np.abs(np.asarray(rounded, np.float64) - first - moved).max() > 0.9 * moved.min()
    )  # missed, somewhere, nearly all


def test_4_an_anchor_goes_on_from_what_was_saved():
    """Function level: (params, offset) through bytes and back; one re-pointed at the parameters goes elsewhere."""
    decay = 0.9

    def run(params, offset, steps):
        for i in steps:
            new = {"w": params["w"] + jnp.float32(0.01 * (i + 1))}
            offset, params = optim.update_anchor(offset, params, new, decay), new
        return params, offset

    begin = {"w": jnp.array([1.0, -2.0])}
    straight = run(begin, optim.start_anchor(begin), range(10))
    half = run(begin, optim.start_anchor(begin), range(5))
    saved = [{"w": np.frombuffer(np.asarray(x["w"]).tobytes(), np.float32)} for x in half]
    resumed = run(*({"w": jnp.array(x["w"])} for x in saved), range(5, 10))
    np.testing.assert_array_equal(optim.anchor_params(resumed[1], resumed[0])["w"], optim.anchor_params(*straight)["w"])
    again = run(half[0], optim.start_anchor(half[0]), range(5, 10))
    assert np.abs(optim.anchor_params(*again)["w"] - optim.anchor_params(*straight)["w"]).min() > 0.01


def test_5_masks_are_carried_and_never_guessed_from_tokens():
    """The stop token is also the pad id 0: the sampled one counts, ids beyond the mask do not, whatever they are."""
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(3, 6)), jnp.float32)
    tokens = jnp.array([[4, 0, 3, 0, 0], [2, 0, 0, 0, 0]])  # row 0: a 0 in the middle, then one that ends it
    sampled = jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
    scorable, advantage = jnp.ones((2,), bool), jnp.array([1.0, -0.5])

    def loss(w, tokens):
        logprob, entropy = token_logprobs_and_entropy(hidden, w, tokens, sampled, 1.2, 1)
        counts = losses.loss_counts(sampled, scorable, "token")
        kl = advantages.kl_of_token(logprob, logprob - 1.0, sampled, 0.5).sum(-1)
        of_responses = (small.each_token(x, logprob) for x in (scorable, advantage))
        value = losses.policy_loss(logprob, entropy, logprob, sampled, *of_responses, counts, CFG)
        return value, (logprob, counts, kl)

    f = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logprob, counts, kl)), gradient = f(w, tokens)
    assert counts.tokens == 6.0  # by `tokens != pad` there would be 3
    np.testing.assert_array_equal(kl, [4 * 0.5, 2 * 0.5])
    np.testing.assert_array_equal(logprob != 0, sampled)
    (other, _), other_gradient = f(w, jnp.where(sampled, tokens, 5))
    assert other == value
    np.testing.assert_array_equal(other_gradient, gradient)
    (moved, _), _ = f(w, tokens.at[1, 1].set(1))  # the end of row 1 is a token like another: it is learnt
    assert moved != value


def test_6_groups_are_judged_on_raw_correctness():
    """A group of wrong answers, one of them cut off, differs in penalised reward but has nothing right in it."""
    scores = make_scores([0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1], overlong=[1, 9])
    penalised = advantages.penalised_reward(advantages.raw_reward(scores), advantages.penalised(scores), -1.0).reshape(
        3, 4
    )
    by_reward = np.asarray(penalised).std(axis=1) > 0
    np.testing.assert_array_equal(by_reward, [True, True, True])  # what the trap would keep
    np.testing.assert_array_equal(advantages.mixed_groups(scores, 4), [False, True, False])


@pytest.mark.parametrize("kl_site", ["reward", "loss"])
@pytest.mark.parametrize("normalisation", ["response", "token"])
def test_7_an_unscorable_response_is_not_a_wrong_one(normalisation, kl_site):
    """It changes nobody's advantage, and neither loss nor gradient, except through the entropy of its tokens."""
    cfg = dataclasses.replace(CFG, kl_site=kl_site, loss_normalisation=normalisation, entropy_coef=0.0, kl_coef=0.1)
    rng = np.random.default_rng(0)
    logprob, anchor = (jnp.asarray(rng.normal(size=(4, 3)) - 2, jnp.float32) for _ in range(2))
    sampled = jnp.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]], bool)

    def run(rows, outcome):
        own_cfg = dataclasses.replace(cfg, responses_per_prompt=len(rows))
        scores = make_scores(outcome)
        scorable = advantages.scorable(scores)
        counts = losses.loss_counts(sampled[rows], scorable, normalisation)
        kl = advantages.kl_of_token(logprob[rows], anchor[rows], sampled[rows], cfg.kl_clip).sum(-1)
        advantage = advantages.advantages(scores, kl, own_cfg)
        f = jax.value_and_grad(losses.policy_loss)
        zero = jnp.zeros((len(rows), 3))
        of_responses = (small.each_token(x, zero) for x in (scorable, advantage))
        value, gradient = f(logprob[rows], zero, anchor[rows], sampled[rows], *of_responses, counts, own_cfg)
        return advantage, value, gradient

    everyone, scored = np.arange(4), np.array([0, 1, 3])
    advantage, value, gradient = run(everyone, [1, 0, -1, 0])
    without = run(scored, [1, 0, 0])
    np.testing.assert_allclose(advantage[scored], without[0], atol=1e-6)
    np.testing.assert_allclose(value, without[1], atol=1e-6)
    np.testing.assert_allclose(gradient[scored], without[2], atol=1e-6)
    assert advantage[2] == 0 and not np.any(gradient[2])
    as_wrong = run(everyone, [1, 0, 0, 0])
    assert np.abs(as_wrong[0] - advantage).max() > 0.1
