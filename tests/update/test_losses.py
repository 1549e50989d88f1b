# SPDX-License-Identifier: Apache-2.0
"""Losses against float64 NumPy, finite differences, hand numbers and exact expectations over small categoricals."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from small import each_token

from configs import tiny
from t1jax import config
from t1jax.devices import sharding
from t1jax.types import Packed, Scores
from t1jax.update import losses
from t1jax.update.advantages import advantages, kl_of_token, scorable
from t1jax.update.logprobs import (
    logprob_and_entropy,
    logprob_and_entropy_gradient,
    predictors,
    token_logprobs_and_entropy,
)

NAN = float("nan")
B, T, D, V = 4, 5, 3, 7
CFG = dataclasses.replace(
    config.load(tiny.get_config()).rl,
    responses_per_prompt=2,
    entropy_coef=0.3,
    kl_coef=0.2,
    kl_clip=0.5,
    logprob_temperature=1.2,
)
SAMPLED = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], bool)
OUTCOME = np.array([1, 0, 0, 1], np.int8)
TOKENS = np.random.default_rng(1).integers(0, V, (B, T))


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, T, D)), rng.normal(size=(D, V)), rng.normal(size=(B, T)) - 2.0


# ---- the reference, in float64, written from the paper


def reference_stats(hidden, w, temperature):
    z = hidden @ w / temperature
    logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    own = np.take_along_axis(logp, TOKENS[..., None], -1)[..., 0]
    return own, -(np.exp(logp) * logp).sum(-1)


def reference_advantage(logprob, anchor, cfg, outcome):
    """A_i with R = 2: the other response of the pair is the baseline; no scorable sibling, no advantage."""
    k1 = np.where(SAMPLED, np.clip(logprob - anchor, -cfg.kl_clip, cfg.kl_clip), 0).sum(1)
    a = np.zeros(B)
    for i in range(B):
        j = i ^ 1
        if outcome[i] >= 0 and outcome[j] >= 0:
            a[i] = float(outcome[i]) - float(outcome[j]) - (cfg.kl_site == "reward") * cfg.kl_coef * (k1[i] - k1[j])
    return a


def reference_loss(hidden, w, anchor, advantage, cfg, outcome):
    logprob, entropy = reference_stats(hidden, w, cfg.logprob_temperature)
    total, responses, tokens = 0.0, 0, 0
    for i in range(B):
        if outcome[i] < 0:
            continue
        responses, tokens = responses + 1, tokens + SAMPLED[i].sum()
        for t in range(T):
            if SAMPLED[i, t]:
                total -= advantage[i] * logprob[i, t]
                if cfg.kl_site == "loss":
                    total += cfg.kl_coef * 0.5 * (logprob[i, t] - anchor[i, t]) ** 2
    n = responses if cfg.loss_normalisation == "response" else tokens
    return total / n - cfg.entropy_coef * entropy[SAMPLED].mean()


def whole_loss(hidden, w, anchor, cfg, outcome, chunks=2):
    """Ours, from hidden states to the loss."""
    sampled, tokens = jnp.array(SAMPLED), jnp.array(TOKENS, jnp.int32)
    logprob, entropy = token_logprobs_and_entropy(hidden, w, tokens, sampled, cfg.logprob_temperature, chunks)
    no = jnp.zeros((B,), bool)
    scores = Scores(jnp.array(outcome), no, no, no, no)
    kl = kl_of_token(logprob, anchor, sampled, cfg.kl_clip).sum(-1)
    counts = losses.loss_counts(sampled, scorable(scores), cfg.loss_normalisation)
    a = advantages(scores, kl, cfg)
    of_responses = (each_token(x, logprob) for x in (scorable(scores), a))
    return losses.policy_loss(logprob, entropy, anchor, sampled, *of_responses, counts, cfg)


def finite_difference(f, x, step=1e-5):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (f(up) - f(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("unscorable", [False, True])
@pytest.mark.parametrize("normalisation", ["response", "token"])
@pytest.mark.parametrize("kl_site", ["reward", "loss"])
def test_gradient_of_the_whole_loss_is_the_finite_difference(kl_site, normalisation, unscorable):
    cfg = dataclasses.replace(CFG, kl_site=kl_site, loss_normalisation=normalisation)
    outcome = np.where(np.arange(B) == 3, -1, OUTCOME).astype(np.int8) if unscorable else OUTCOME
    hidden, w, anchor = arrays()
    advantage = reference_advantage(reference_stats(hidden, w, 1.2)[0], anchor, cfg, outcome)
    expected = reference_loss(hidden, w, anchor, advantage, cfg, outcome)
    d_hidden = finite_difference(lambda x: reference_loss(x, w, anchor, advantage, cfg, outcome), hidden)
    d_w = finite_difference(lambda x: reference_loss(hidden, x, anchor, advantage, cfg, outcome), w)

    f = jax.jit(jax.value_and_grad(lambda h, w, a: whole_loss(h, w, a, cfg, outcome), (0, 1, 2)))
    got, (got_hidden, got_w, got_anchor) = f(*(jnp.array(x, jnp.float32) for x in (hidden, w, anchor)))
    assert abs(float(got) - expected) < 1e-6
    np.testing.assert_allclose(got_hidden, d_hidden, atol=2e-6)
    np.testing.assert_allclose(got_w, d_w, atol=2e-6)
    assert np.abs(d_w).max() > 1e-2 and not np.any(got_anchor)

    poison = jnp.where(SAMPLED, anchor, NAN)  # the same with NaN wherever nothing was sampled
    poisoned, (p_hidden, p_w, _) = f(jnp.where(SAMPLED[..., None], hidden, NAN), jnp.array(w, jnp.float32), poison)
    assert poisoned == got
    np.testing.assert_array_equal(p_hidden, got_hidden)
    np.testing.assert_array_equal(p_w, got_w)


# ---- log-probabilities and entropy


@pytest.mark.parametrize("temperature", [1.0, 1.2])
@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 9])
def test_values_do_not_depend_on_chunks(chunks, temperature):
    hidden, w, _ = arrays()
    got = token_logprobs_and_entropy(
        jnp.array(hidden), jnp.array(w), jnp.array(TOKENS), jnp.array(SAMPLED), temperature, chunks
    )
    for ours, expected in zip(got, reference_stats(hidden, w, temperature), strict=True):
        assert ours.shape == (B, T) and ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, np.where(SAMPLED, expected, 0.0), atol=2e-6)


def test_by_hand():
    """Logits 0, 0, log 2 at temperature 1: probabilities 1/4, 1/4, 1/2; entropy 1.5 log 2."""
    w = jnp.array([[0.0, 0.0, np.log(2.0)]])
    args = (jnp.ones((1, 2, 1)), w, jnp.array([[0, 2]]), jnp.ones((1, 2), bool), 1.0, 1)
    logprob, entropy = token_logprobs_and_entropy(*args)
    np.testing.assert_allclose(logprob, [[-2 * np.log(2), -np.log(2)]], atol=1e-6)
    np.testing.assert_allclose(entropy, [[1.5 * np.log(2)] * 2], atol=1e-6)


def test_padding_may_hold_anything():
    hidden, w, _ = arrays()
    poison = jnp.where(SAMPLED[..., None], hidden, NAN)
    tokens = jnp.where(SAMPLED, TOKENS, 10**6)

    def total(h, w):
        logprob, entropy = token_logprobs_and_entropy(h, w, tokens, jnp.array(SAMPLED), 1.2, 2)
        return (logprob + 0.5 * entropy).sum()

    f = jax.jit(jax.value_and_grad(total, (0, 1)))
    clean = f(jnp.where(SAMPLED[..., None], hidden, 0.0), jnp.array(w))
    got = f(poison, jnp.array(w))
    jax.tree.map(np.testing.assert_array_equal, got, clean)
    assert not np.any(got[1][0][~SAMPLED])


def test_nothing_counted_is_zero_with_zero_gradients():
    hidden, w, anchor = (jnp.full(x.shape, NAN) for x in arrays())
    w, none = jnp.ones_like(w), jnp.zeros((B, T), bool)

    def loss(h, w):
        stats = token_logprobs_and_entropy(h, w, jnp.array(TOKENS), none, 1.2, 2)
        counts = losses.loss_counts(none, jnp.zeros((B,), bool), "token")
        advantage = jnp.full(none.shape, NAN)
        return losses.policy_loss(*stats, anchor, none, none, advantage, counts, CFG)

    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, w)
    assert value == 0.0 and not any(np.any(g) for g in gradients)


def test_forbidden_tokens_weigh_nothing():
    """Scores of -inf: value and gradient equal those of the smaller vocabulary."""
    z = jnp.array([[[0.3, -jnp.inf, 1.0, -jnp.inf, -0.5]]])
    keep = np.array([0, 2, 4])
    own, entropy, lse = logprob_and_entropy(z, jnp.array([[2]]))
    small = logprob_and_entropy(z[..., keep], jnp.array([[1]]))
    np.testing.assert_allclose((own, entropy, lse), small, atol=1e-6)
    g, h = jnp.array([[0.7]]), jnp.array([[-0.4]])
    got = logprob_and_entropy_gradient(z, jnp.array([[2]]), lse, entropy, g, h)

    def pulled(z):
        own, entropy, _ = logprob_and_entropy(z, jnp.array([[1]]))
        return (g * own + h * entropy).sum()

    expected = jax.jit(jax.grad(pulled))
    np.testing.assert_allclose(got[..., keep], expected(z[..., keep]), atol=1e-6)
    assert not np.any(np.delete(got, keep, axis=-1))


def test_huge_scores_do_not_overflow():
    hidden = jnp.array([[[300.0], [-300.0]]])
    w = jnp.array([[1.0, -1.0, 0.0]])

    def f(h):
        return token_logprobs_and_entropy(h, w, jnp.array([[0, 0]]), jnp.ones((1, 2), bool), 1.0, 1)

    logprob, entropy = f(hidden)
    np.testing.assert_allclose(logprob, [[0.0, -600.0]], atol=1e-4)
    np.testing.assert_allclose(entropy, [[0.0, 0.0]], atol=1e-4)
    assert np.isfinite(jax.grad(lambda h: sum(x.sum() for x in f(h)))(hidden)).all()


def sizes(jaxpr):
    """The number of elements of every array that a program makes, loops and calls included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for sub in jaxprs_in_params(equation.params):
            yield from sizes(sub)


def test_the_logits_are_never_whole_in_memory():
    rows, length, width, vocab, chunks = 2, 8, 3, 50, 4
    f = jax.value_and_grad(
        lambda h, w: sum(
            x.sum()
            for x in token_logprobs_and_entropy(
                h, w, jnp.zeros((rows, length), jnp.int32), jnp.ones((rows, length), bool), 1.0, chunks
            )
        ),
        (0, 1),
    )
    jaxpr = jax.make_jaxpr(f)(jnp.ones((rows, length, width)), jnp.ones((width, vocab)))
    assert max(sizes(jaxpr.jaxpr)) == rows * length // chunks * vocab


def test_head_gradient_of_bfloat16_chunks_is_summed_in_float32():
    """Many chunks of equal small gradients: a bfloat16 sum would stand still after a few hundred."""
    length = 2048
    hidden = jnp.ones((1, length, 1), jnp.bfloat16)
    w = jnp.zeros((1, 2), jnp.bfloat16)
    args = (jnp.zeros((1, length), jnp.int32), jnp.ones((1, length), bool), 1.0, length)
    gradient = jax.grad(lambda w: token_logprobs_and_entropy(hidden, w, *args)[0].sum())(w)
    np.testing.assert_allclose(gradient.astype(jnp.float32), [[length / 2, -length / 2]], rtol=1e-2)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 2, 4)])
def test_a_split_batch_and_vocabulary_give_the_same(shape):
    rng = np.random.default_rng(0)
    hidden, w = rng.normal(size=(8, 6, 4)), rng.normal(size=(4, 16))
    tokens, counted = rng.integers(0, 16, (8, 6)), rng.random((8, 6)) < 0.7
    mesh = sharding.make_mesh(config.MeshConfig(*shape), jax.devices()[:8])
    layout = sharding.train_layout(mesh)

    def f(h, w, tokens, counted):
        def loss(h, w):
            a, b = token_logprobs_and_entropy(h, w, tokens, counted, 1.2, 3)
            return (a + 0.3 * b).sum()

        return jax.value_and_grad(loss, (0, 1))(h, w)

    args = [jnp.array(x) for x in (hidden.astype(np.float32), w.astype(np.float32), tokens, counted)]
    axes = [("batch", None, None), ("embed", "vocab"), ("batch", None), ("batch", None)]
    placed = [jax.device_put(x, layout.sharding(*a)) for x, a in zip(args, axes, strict=True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), jax.jit(f)(*placed), jax.jit(f)(*args))


# ---- the policy loss


def test_what_is_said_of_a_response_must_stand_beside_each_token():
    x, yes = jnp.zeros((2, 3)), jnp.ones((2, 3), bool)
    counts = losses.LossCounts(jnp.float32(1), jnp.float32(1))
    with pytest.raises(ValueError, match=r"got .*\(2, 1\).*: expected one shape"):
        losses.policy_loss(x, x, x, yes, yes[:, :1], x, counts, CFG)


def test_policy_loss_by_hand():
    logprob = jnp.array([[-1.0, -2.0], [-3.0, NAN], [-0.5, -0.5]])
    entropy = jnp.array([[0.5, 1.0], [2.5, NAN], [1.0, 0.0]])
    anchor = jnp.array([[-1.0, -1.0], [-2.5, NAN], [-9.0, -9.0]])
    sampled = jnp.array([[True, True], [True, False], [True, True]])
    valid = jnp.array([True, True, False])  # the third is unscorable: it adds to the entropy only
    advantage = jnp.array([0.5, -1.0, NAN])
    alpha = 0.3 * (0.5 + 1.0 + 2.5 + 1.0 + 0.0) / 5
    policy = -(0.5 * (-1.0 - 2.0) - 1.0 * -3.0)
    k2 = 0.2 * (0.5 * 1.0**2 + 0.5 * 0.5**2)
    for kl_site, normalisation, expected in [
        ("reward", "response", policy / 2 - alpha),
        ("reward", "token", policy / 3 - alpha),
        ("loss", "response", (policy + k2) / 2 - alpha),
        ("loss", "token", (policy + k2) / 3 - alpha),
    ]:
        cfg = dataclasses.replace(CFG, kl_site=kl_site, loss_normalisation=normalisation)
        counts = losses.loss_counts(sampled, valid, normalisation)
        f = jax.value_and_grad(losses.policy_loss, (0, 1))
        of_responses = (each_token(x, logprob) for x in (valid, advantage))
        got, (d_logprob, d_entropy) = f(logprob, entropy, anchor, sampled, *of_responses, counts, cfg)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        pull = (
            0.2 * (kl_site == "loss") * np.array([[0.0, -1.0], [-0.5, 0.0], [0.0, 0.0]])
        )  # beta (log pi - log pi_ref)
        slope = np.array([[-0.5, -0.5], [1.0, 0.0], [0.0, 0.0]]) + pull
        np.testing.assert_allclose(d_logprob, slope / (2 if normalisation == "response" else 3), atol=1e-6)
        np.testing.assert_allclose(d_entropy, np.where(sampled, -0.3 / 5, 0.0), atol=1e-6)


def test_ratio_cap_by_hand():
    """Token by token min(pi / mu, 2), on the policy term alone, and constant in its gradient."""
    logprob = jnp.array([[-1.0, -2.0], [-1.0, NAN]])
    sampler = jnp.log(jnp.array([[0.5, 0.1], [1.0, 1.0]])) + jnp.array([[-1.0, -2.0], [-1.0, 0.0]])  # ratios 2, 10; 1
    sampler = sampler.at[0, 0].set(-1.0 - jnp.log(0.5))  # 0.5
    sampled, valid = jnp.array([[True, True], [True, False]]), jnp.array([True, True])
    advantage, entropy = jnp.array([1.0, -3.0]), jnp.array([[0.5, 0.5], [1.0, NAN]])
    counts = losses.loss_counts(sampled, valid, "response")

    def run(cap):
        cfg = dataclasses.replace(CFG, ratio_cap=cap, kl_site="reward", entropy_coef=0.0)
        f = jax.value_and_grad(losses.policy_loss)
        of_responses = (each_token(x, logprob) for x in (valid, advantage))
        return f(logprob, entropy, logprob, sampled, *of_responses, counts, cfg, sampler)

    value, slope = run(2.0)  # weights 0.5, 2 (of 10), 1
    np.testing.assert_allclose(value, -(1.0 * (0.5 * -1.0 + 2.0 * -2.0) - 3.0 * -1.0) / 2, rtol=1e-5)
    np.testing.assert_allclose(slope, np.array([[-0.5, -2.0], [3.0, 0.0]]) / 2, rtol=1e-5)
    value, slope = run(0.0)
    np.testing.assert_allclose(slope, np.array([[-1.0, -1.0], [3.0, 0.0]]) / 2, rtol=1e-6)
    np.testing.assert_allclose(run(100.0)[1], np.array([[-0.5, -10.0], [3.0, 0.0]]) / 2, rtol=1e-5)


def test_a_mean_over_tokens_weighs_long_and_short_responses_alike():
    """3, 5, no and 1 tokens, of probability e^-1 each, advantages 1, 2, 3, 4: 1 + 2 + 4, over three responses."""
    sampled, valid = jnp.array(SAMPLED), jnp.array([True, True, True, False])
    counts = losses.loss_counts(sampled, valid, "response_mean")
    assert counts.objective == 3.0
    share_B = losses.shares(sampled, "response_mean")
    np.testing.assert_allclose(share_B, [1 / 3, 1 / 5, 1, 1], rtol=1e-6)
    assert losses.shares(sampled, "response") is losses.shares(sampled, "token") is None
    minus_one = -jnp.ones((B, T))
    each = (each_token(x, minus_one) for x in (valid, jnp.array([1.0, 2.0, 3.0, 4.0])))
    cfg = dataclasses.replace(CFG, entropy_coef=0.0)
    found = losses.policy_loss(
        minus_one, minus_one, minus_one, sampled, *each, counts, cfg, share=each_token(share_B, minus_one)
    )
    np.testing.assert_allclose(found, (1 + 2) / 3, rtol=1e-6)


def test_a_target_of_entropy_turns_the_bonus_off_above_it():
    entropy = jnp.where(jnp.array(SAMPLED), 0.4, NAN)
    for target, expected in ((0.0, None), (0.5, 0.3), (0.3, 0.0)):
        alpha = losses.entropy_weight(entropy, jnp.array(SAMPLED), dataclasses.replace(CFG, entropy_target=target))
        assert alpha is expected or float(alpha) == pytest.approx(expected)
    ones = jnp.ones((B, T))
    counts = losses.loss_counts(jnp.array(SAMPLED), jnp.ones(B, bool), "response")
    no = jnp.zeros((B, T))
    whole = [
        float(losses.policy_loss(no, ones, no, jnp.array(SAMPLED), no == 0, no, counts, CFG, alpha=alpha))
        for alpha in (None, jnp.float32(0.0), jnp.float32(2.0))
    ]
    np.testing.assert_allclose(whole, [-0.3, 0.0, -2.0], rtol=1e-6)


def test_loss_counts_by_hand():
    valid = jnp.array([True, True, False, True])
    counts = losses.loss_counts(jnp.array(SAMPLED), valid, "token")
    assert (counts.objective, counts.tokens) == (9.0, 9.0)  # 3 + 5 + 1; the unscorable third row is empty
    counts = losses.loss_counts(jnp.array(SAMPLED), jnp.array([False, True, True, True]), "token")
    assert (counts.objective, counts.tokens) == (6.0, 9.0)
    assert losses.loss_counts(jnp.array(SAMPLED), valid, "response").objective == 3.0


@pytest.mark.parametrize("normalisation", ["response", "token"])
def test_shares_of_micro_batches_add_up(normalisation):
    """Parts of unequal token counts, one of them empty, and an unscorable row: the sum is the whole's loss."""
    cfg = dataclasses.replace(CFG, kl_site="loss", loss_normalisation=normalisation)
    hidden, w, anchor = (jnp.array(x, jnp.float32) for x in arrays())
    sampled, valid = jnp.array(SAMPLED), jnp.array([True, True, True, False])
    advantage = jnp.array([0.7, -0.7, 0.2, NAN])
    counts = losses.loss_counts(sampled, valid, normalisation)

    def share(w, hidden, *rows):
        tokens, sampled, anchor, valid, advantage = rows
        stats = token_logprobs_and_entropy(hidden, w, tokens, sampled, 1.2, 2)
        of_responses = (each_token(x, anchor) for x in (valid, advantage))
        return losses.policy_loss(*stats, anchor, sampled, *of_responses, counts, cfg)

    f = jax.jit(jax.value_and_grad(share, (0, 1)))
    rows = (hidden, jnp.array(TOKENS), sampled, anchor, valid, advantage)
    value, (d_w, d_hidden) = f(w, *rows)
    for size in (1, 2):
        shares = [f(w, *(x[i : i + size] for x in rows)) for i in range(0, B, size)]
        np.testing.assert_allclose(sum(v for v, _ in shares), value, atol=1e-6)
        np.testing.assert_allclose(sum(g[0] for _, g in shares), d_w, atol=1e-6)
        np.testing.assert_allclose(np.concatenate([g[1] for _, g in shares]), d_hidden, atol=1e-6)


# ---- the KL term: expectations over every token of a small vocabulary

LOGITS = np.array([0.3, -1.0, 0.8, 0.0, -0.4])
ANCHOR = np.array([-0.5, 0.2, 0.1, 0.9, -1.2])


def expected_gradient(estimator):
    """E_{y ~ pi} of the gradient of estimator(log pi(y), log pi_ref(y)), by enumeration."""
    anchor = jax.nn.log_softmax(jnp.array(ANCHOR))
    jacobian = jax.jit(jax.jacobian(lambda z: estimator(jax.nn.log_softmax(z), anchor)))(
        jnp.array(LOGITS)
    )  # [y, logit]
    return jnp.einsum("yv,y->v", jacobian, jax.nn.softmax(jnp.array(LOGITS)))


def policy_kl_term(logprob, anchor):
    """The KL term of `policy_loss` for each token alone, beta = 1."""
    cfg = dataclasses.replace(CFG, kl_site="loss", kl_coef=1.0, entropy_coef=0.0)
    zero, yes = jnp.zeros(()), jnp.array(True)
    counts = losses.LossCounts(jnp.float32(1), jnp.float32(1))

    def term(p, q):
        return losses.policy_loss(p, zero, q, yes, yes, zero, counts, cfg)

    return jax.vmap(term)(logprob, anchor)


def test_the_kl_term_pulls_along_the_gradient_of_the_kl():
    q = jax.nn.log_softmax(jnp.array(ANCHOR))

    def kl(z):
        p = jax.nn.log_softmax(z)
        return (jnp.exp(p) * (p - q)).sum()

    def reverse_kl(z):
        return (jnp.exp(q) * (q - jax.nn.log_softmax(z))).sum()

    exact = jax.grad(kl)(jnp.array(LOGITS))
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(expected_gradient(policy_kl_term), exact, atol=1e-6)
    np.testing.assert_allclose(expected_gradient(lambda p, q: p - q), np.zeros(5), atol=1e-6)  # k1
    k3 = expected_gradient(lambda p, q: jnp.exp(q - p) - 1 - (q - p))
    np.testing.assert_allclose(k3, jax.grad(reverse_kl)(jnp.array(LOGITS)), atol=1e-6)
    assert np.abs(k3 - exact).max() > 0.05  # another divergence


def test_the_kl_term_of_a_text_is_each_tokens_with_the_text_before_it_held_fixed():
    rng = np.random.default_rng(0)
    theta = jnp.array(rng.normal(size=(4, 3)), jnp.float32)  # row 0: first token; row 1 + y: second token after y
    anchor = jax.nn.log_softmax(jnp.array(rng.normal(size=(4, 3)), jnp.float32))
    texts = list(itertools.product(range(3), range(3)))
    cfg = dataclasses.replace(CFG, kl_site="loss", kl_coef=1.0, entropy_coef=0.0)
    counts = losses.LossCounts(jnp.float32(1), jnp.float32(2))
    yes = jnp.ones((1, 2), bool)
    before = jax.nn.log_softmax(theta)

    def sampled_terms(theta):
        p, total = jax.nn.log_softmax(theta), 0.0
        for a, b in texts:
            own, ref = (jnp.stack([x[0, a], x[1 + a, b]])[None] for x in (p, anchor))
            chance = jnp.exp(before[0, a] + before[1 + a, b])
            total += chance * losses.policy_loss(own, 0 * own, ref, yes, yes, 0 * own, counts, cfg)
        return total

    def exact(theta):
        p = jax.nn.log_softmax(theta)
        kl = (jnp.exp(p) * (p - anchor)).sum(-1)
        return kl[0] + (jnp.exp(before[0]) * kl[1:]).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(sampled_terms))(theta), jax.jit(jax.grad(exact))(theta), atol=1e-6)


# ---- the shift and the cold start


def test_the_shift():
    x = jnp.arange(6.0).reshape(1, 3, 2) + 1
    np.testing.assert_array_equal(predictors(x), [[[0, 0], [1, 2], [3, 4]]])
    np.testing.assert_array_equal(predictors(jnp.array([[5, 6, 7]])), [[0, 5, 6]])


def test_sft_counts_targets_that_their_own_text_predicts():
    packed = Packed(
        tokens_BT=jnp.zeros((2, 6), jnp.int32),
        segment_BT=jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 2, 2, 0, 0]]),
        position_BT=jnp.zeros((2, 6), jnp.int32),
        target_BT=jnp.array([[0, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0]], bool),
    )
    # never: a row's first token, a text's first token (its predecessor is another text), padding
    expected = [[0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]]
    np.testing.assert_array_equal(losses.sft_counted(packed), np.array(expected, bool))


def test_sft_loss_by_hand_and_in_parts():
    logprob = jnp.array([[-1.0, -2.0, NAN], [-4.0, NAN, NAN]])
    counted = jnp.array([[True, True, False], [True, False, False]])
    count = counted.sum().astype(jnp.float32)
    f = jax.value_and_grad(lambda x, rows: losses.sft_loss(x[rows], counted[rows], count))
    value, gradient = f(logprob, slice(0, 2))
    np.testing.assert_allclose(value, 7 / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.where(counted, -1 / 3, 0.0), rtol=1e-6)
    parts = f(logprob, slice(0, 1)), f(logprob, slice(1, 2))
    np.testing.assert_allclose(parts[0][0] + parts[1][0], value, rtol=1e-6)
    assert losses.sft_loss(logprob, jnp.zeros_like(counted), jnp.float32(0)) == 0.0
