# SPDX-License-Identifier: Apache-2.0
"""Sampling against float64 NumPy: distribution, log-probability, entropy, cuts, bans and the corners of rounding."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy.stats import chi2

from t1jax.devices import sharding
from t1jax.rollouts import sampling
from t1jax.rollouts.sampling import SamplingSettings

sample = jax.jit(sampling.sample)
LAST = np.float32(1) - np.float32(2**-24)  # the largest float32 below 1


def settings(temperature=1.2, **cuts):
    return SamplingSettings(temperature=jnp.float32(temperature), **cuts)


def random_logits(rows, vocabulary, seed=0, scale=3.0):
    return scale * np.random.default_rng(seed).standard_normal((rows, vocabulary)).astype(np.float32)


def softmax(logits, temperature=1.0):
    z = np.asarray(logits, np.float64) / temperature
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def draws(logits_V, how, count=100_000, seed=0, banned_V=None):
    """Counts of each token in `count` draws."""
    uniform = jax.random.uniform(jax.random.key(seed), (count,))
    banned = None if banned_V is None else jnp.broadcast_to(banned_V, (count, len(logits_V)))
    token, _, _ = sample(jnp.broadcast_to(logits_V, (count, len(logits_V))), uniform, how, banned)
    return np.bincount(token, minlength=len(logits_V))


def chi_squared_p(counts, probability):
    """Chance of a misfit at least this large; tokens expected fewer than 10 times are taken together."""
    expected = probability * counts.sum()
    rare = expected < 10
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    return chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("vocabulary", [40, 1100])  # one block; three blocks, the last one padded
def test_frequencies_follow_the_softmax_at_the_temperature(temperature, vocabulary):
    logits = random_logits(1, vocabulary)[0]
    counts = draws(logits, settings(temperature), count=100_000 if vocabulary == 40 else 20_000)
    assert chi_squared_p(counts, softmax(logits, temperature)) > 1e-3
    assert chi_squared_p(counts, softmax(logits, temperature + 0.1)) < 1e-6  # the test can tell temperatures apart


def test_logprob_and_entropy_are_exact_and_of_the_uncut_distribution():
    logits = random_logits(64, 1100)
    uniform = jax.random.uniform(jax.random.key(0), (64,))
    banned = jnp.asarray(np.random.default_rng(1).random(logits.shape) < 0.3)
    p = softmax(logits, 1.2)
    for how in (settings(), settings(top_k=5), settings(top_p=0.5), settings(min_p=0.1)):
        token, logprob, entropy = sample(logits, uniform, how, banned)
        np.testing.assert_allclose(logprob, np.log(p[np.arange(64), token]), atol=2e-6)
        np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(-1), atol=5e-6)


def test_greedy_takes_the_likeliest_with_its_logprob_at_temperature_one():
    logits = random_logits(64, 40)
    token, logprob, entropy = sample(logits, jnp.full(64, 0.9), settings(0.0))
    p = softmax(logits)
    np.testing.assert_array_equal(token, logits.argmax(-1))
    np.testing.assert_allclose(logprob, np.log(p.max(-1)), atol=2e-6)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(-1), atol=5e-6)


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
@pytest.mark.parametrize("uniform", [0.0, 0.5, LAST])
def test_the_strictest_cut_is_greedy(cut, uniform):
    logits = random_logits(64, 1100)
    token, _, _ = sample(logits, jnp.full(64, uniform), settings(**cut))
    np.testing.assert_array_equal(token, logits.argmax(-1))


def nucleus(p, mass):
    """The likeliest tokens up to and with the one that reaches `mass`."""
    order = np.argsort(-p)
    count = np.searchsorted(np.cumsum(p[order]), mass) + 1
    return np.isin(np.arange(len(p)), order[:count])


def test_cuts_keep_exactly_the_right_tokens_and_renormalise():
    logits = random_logits(1, 60, scale=1.5)[0]
    p = softmax(logits, 1.2)
    top7 = p >= np.sort(p)[-7]
    renormalised = np.where(top7, p, 0) / p[top7].sum()
    cases = [
        ({"top_k": 7}, top7),
        ({"top_p": 0.8}, nucleus(p, 0.8)),
        ({"min_p": 0.2}, p >= 0.2 * p.max()),
        ({"top_k": 7, "top_p": 0.8}, nucleus(renormalised, 0.8)),  # top-p counts the mass that top-k left
        ({"top_k": 60}, np.ones(60, bool)),
    ]
    for cut, kept in cases:
        counts = draws(logits, settings(**cut))
        np.testing.assert_array_equal(counts > 0, kept, err_msg=str(cut))
        assert chi_squared_p(counts, np.where(kept, p, 0) / p[kept].sum()) > 1e-3, cut


def test_ties_at_the_edge_of_a_cut_are_kept():
    logits = np.float32([0, 2, 1, 2, 1, -1])
    assert (draws(logits, settings(top_k=3)) > 0).tolist() == [False, True, True, True, True, False]


def test_banned_tokens_are_never_drawn_and_the_rest_renormalised():
    logits = random_logits(1, 40)[0]
    banned = np.zeros(40, bool)
    banned[[logits.argmax(), 3, 39]] = True
    p = np.where(banned, 0, softmax(logits, 1.2))
    counts = draws(logits, settings(), banned_V=banned)
    assert counts[banned].sum() == 0
    assert chi_squared_p(counts, p / p.sum()) > 1e-3
    token, _, _ = sample(logits[None], jnp.zeros(1), settings(0.0), jnp.asarray(banned)[None])
    assert token == p.argmax()


def test_a_token_without_probability_is_never_drawn():
    rows = 200
    logits = random_logits(rows, 1100)
    possible = np.random.default_rng(2).random(logits.shape) < 0.01
    possible[:, 700] = True
    logits = np.where(possible, logits, -np.inf).astype(np.float32)
    for uniform in (0.0, 0.25, 0.5, 0.75, LAST):
        token, logprob, entropy = sample(logits, jnp.full(rows, uniform), settings())
        assert possible[np.arange(rows), token].all()
        assert np.isfinite(logprob).all() and np.isfinite(entropy).all()


def test_rounding_of_the_running_sum_never_picks_an_entry_without_mass():
    """Summed in parallel, a running sum can rise by rounding where the mass is 0. Point exactly at such places."""
    random = np.random.default_rng(0)
    mass = np.exp(random.normal(0, 3, (500, 512))) * (random.random((500, 512)) < 0.5)
    mass = mass.astype(np.float32)
    running = np.asarray(jnp.cumsum(mass, axis=-1))
    row, before = np.nonzero((np.diff(running) > 0) & (mass[:, 1:] == 0))
    entry, rest = sampling._pick(jnp.asarray(mass[row]), jnp.asarray(running[row, before]))
    assert (mass[row, entry] > 0).all()
    assert (rest >= 0).all()


def test_a_vocabulary_of_152k_is_drawn_accurately():
    logits = random_logits(8, 152_064, scale=2.0)
    uniform = np.linspace(0, LAST, 8, dtype=np.float32)
    token, logprob, entropy = sample(logits, uniform, settings())
    p = softmax(logits, 1.2)
    upper = np.cumsum(p, axis=-1)[np.arange(8), token]
    drawn = p[np.arange(8), token]
    assert (uniform <= upper + 1e-6).all() and (uniform >= upper - drawn - 1e-6).all()
    np.testing.assert_allclose(logprob, np.log(drawn), atol=5e-6)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(-1), atol=2e-5)


def test_temperature_is_data_not_a_new_program():
    compiled = jax.jit(lambda *inputs: sampling.sample(*inputs))
    for temperature in (0.0, 1.0, 1.2):
        compiled(random_logits(4, 40), jnp.zeros(4), settings(temperature))
    assert compiled._cache_size() == 1


@pytest.mark.parametrize("cut", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 2.0}])
def test_a_cut_out_of_range_is_named(cut):
    (name, value), *_ = cut.items()
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        sample(random_logits(4, 40), jnp.zeros(4), settings(**cut))


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 2, 2)])
@pytest.mark.parametrize("vocabulary", [2048, 2056, 4 * 601])  # parts of whole blocks, and of none
@pytest.mark.parametrize("likely", [1.0, 0.01])  # tokens that have any mass
def test_a_vocabulary_in_parts_gives_the_same_token_for_the_same_number(shape, vocabulary, likely):
    layout = sharding.decode_layout(small.make_mesh(shape))
    random = np.random.default_rng(vocabulary)
    logits = random_logits(256, vocabulary)
    logits[random.random(logits.shape) > likely] = -np.inf
    logits[np.arange(256), random.integers(vocabulary, size=256)] = 2.0
    uniform = random.random(256, np.float32)
    uniform[:8], uniform[8:16] = 0, LAST
    split = [jax.device_put(x, layout.sharding(*axes))
             for x, axes in ((logits, ("batch", "vocab")), (uniform, ("batch",)))]  # fmt: skip
    mass = np.exp(logits)
    of_parts = jax.jit(partial(sampling._draw_split, layout))(jax.device_put(mass, split[0].sharding), split[1])
    np.testing.assert_array_equal(of_parts, jax.jit(sampling._draw)(mass, uniform))

    program = jax.jit(lambda *arrays: sampling.sample(*arrays, settings(), None, layout)).lower(*split).compile()
    token, logprob, entropy = program(*split)
    expected = sample(logits, uniform, settings())
    same = np.asarray(token == expected[0])
    assert same[16:].all() and same.mean() > 0.95  # 0 and LAST meet a rounding of exp, which may be a part's own
    np.testing.assert_allclose(logprob[same], expected[1][same], atol=1e-5)
    np.testing.assert_allclose(entropy, expected[2], rtol=1e-4, atol=1e-5)
    rows = 256 // layout.batch_shards
    exchanged = re.findall(
        r"\w\[([\d,]+)\]\S* (all-gather|all-reduce|collective-permute)(?:-start)?\(", program.as_text()
    )
    largest = max(np.prod([int(n) for n in dims.split(",")]) for dims, _ in exchanged)
    assert largest <= rows * sampling.BLOCK  # of each row no more than the block that goes on in the next part
    assert "all-gather" not in {kind for _, kind in exchanged}
