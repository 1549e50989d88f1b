# SPDX-License-Identifier: Apache-2.0
"""The sampler against the full forward, and everything that must not change a sample."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2
from small_sampler import STOPS, C, T, V, draw, make_model, make_params, make_prompts, same, sampler

from t1jax.model import qwen
from t1jax.rollouts import decode, rng
from t1jax.rollouts.sampling import SamplingSettings
from t1jax.types import Prompts


def full_logits(prompts: Prompts, tokens_BT: np.ndarray) -> np.ndarray:
    """float64[B, T, V] logits that predict each response token, from one forward without a cache."""
    R = len(tokens_BT) // len(prompts.tokens_PC)
    lengths = np.repeat(prompts.valid_PC.sum(-1), R)
    rows = [np.concatenate([prompts.tokens_PC[b // R, :n], tokens_BT[b]]) for b, n in enumerate(lengths)]
    width = prompts.tokens_PC.shape[1] + tokens_BT.shape[1]
    tokens = np.stack([np.pad(row, (0, width - len(row))) for row in rows]).astype(np.int32)
    position = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)

    @jax.jit
    def run(params):
        hidden, _ = qwen.forward(make_model(), params, tokens, position, segment_BT=np.ones_like(tokens))
        return qwen.logits(make_model(), params, hidden)

    predicting = lengths[:, None] - 1 + np.arange(tokens_BT.shape[1])[None]
    return np.take_along_axis(np.asarray(run(make_params()), np.float64), predicting[:, :, None], axis=1)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.2, 0.0])
def test_cached_decode_equals_the_full_forward(temperature):
    prompts = make_prompts()
    rollouts = draw(prompts, temperature, window=3)
    sampled = rollouts.sampled_BT
    logp = log_softmax(full_logits(prompts, rollouts.tokens_BT) / (temperature or 1.0))
    expected = np.take_along_axis(logp, rollouts.tokens_BT[:, :, None], axis=-1)[:, :, 0]
    entropy = -(np.exp(logp) * logp).sum(-1)
    np.testing.assert_allclose(rollouts.logprob_BT[sampled], expected[sampled], atol=1e-4)
    np.testing.assert_allclose(rollouts.entropy_BT[sampled], entropy[sampled], atol=1e-4)
    if temperature > 0:
        assert 0 < sampled[:, -1].sum() < len(sampled)  # long and short responses among them
    assert entropy[sampled].std() > 0.1  # predictions that differ, or the test could not tell positions apart
    if temperature == 0:
        np.testing.assert_array_equal(rollouts.tokens_BT[sampled], logp.argmax(-1)[sampled])


def test_bfloat16_decode_is_close_to_float32():
    prompts = make_prompts()
    rollouts = draw(prompts, dtype="bfloat16")
    logp = log_softmax(full_logits(prompts, rollouts.tokens_BT) / 1.2)
    expected = np.take_along_axis(logp, rollouts.tokens_BT[:, :, None], axis=-1)[:, :, 0]
    error = np.abs(rollouts.logprob_BT - expected)[rollouts.sampled_BT]
    assert error.mean() < 0.05


def test_frequencies_follow_the_softmax_at_the_temperature():
    """The first token of 8,192 responses; the second after the most frequent first."""
    prompts = make_prompts(1)
    tokens = draw(prompts, R=8192, length=2, stops=()).tokens_BT
    favourite = np.bincount(tokens[:, 0]).argmax()
    logits = full_logits(prompts, np.array([[favourite, 0]]))[0]
    for t, drawn in enumerate((tokens[:, 0], tokens[tokens[:, 0] == favourite, 1])):
        for temperature, fits in ((1.2, True), (1.0, False)):
            expected = len(drawn) * np.exp(log_softmax(logits[t] / temperature))
            group = np.where(expected < 10, V, np.arange(V))  # tokens too rare to count one by one go together
            expected = np.bincount(group, expected, minlength=V + 1)
            counts = np.bincount(group[drawn], minlength=V + 1)
            some = expected > 0
            p = chi2.sf(((counts - expected)[some] ** 2 / expected[some]).sum(), some.sum() - 1)
            assert (p > 1e-3) == fits, (t, temperature, p)


def test_masks_tokens_and_stop_reason_agree():
    rollouts = draw(window=3)
    is_stop = np.isin(rollouts.tokens_BT, STOPS) & rollouts.sampled_BT
    lengths = rollouts.sampled_BT.sum(-1)
    np.testing.assert_array_equal(rollouts.sampled_BT, np.arange(T)[None] < lengths[:, None])
    np.testing.assert_array_equal(rollouts.stopped_B, is_stop.any(-1))
    assert (lengths[~rollouts.stopped_B] == T).all()
    assert (is_stop.sum(-1) <= 1).all()  # the stop token is the last of its row
    assert is_stop[rollouts.stopped_B, lengths[rollouts.stopped_B] - 1].all()
    assert 0 < rollouts.stopped_B.sum() < len(lengths)
    for x_BT in (rollouts.tokens_BT, rollouts.logprob_BT, rollouts.entropy_BT):
        assert (x_BT[~rollouts.sampled_BT] == 0).all()
    assert (rollouts.logprob_BT[rollouts.sampled_BT] < 0).all()


def test_a_stop_token_first_is_a_response_of_one_token():
    free = draw(stops=())
    assert not free.stopped_B.any() and free.sampled_BT.all()
    first_B = free.tokens_BT[:, 0]
    stops = tuple(np.unique(first_B)[::2].tolist())
    rollouts = draw(stops=stops)
    at_once_B = np.isin(first_B, stops)
    assert 0 < at_once_B.sum() < len(at_once_B)
    np.testing.assert_array_equal(rollouts.sampled_BT.sum(-1) == 1, at_once_B)
    np.testing.assert_array_equal(rollouts.tokens_BT[:, 0], first_B)
    assert rollouts.stopped_B[at_once_B].all() and (rollouts.logprob_BT[at_once_B, 0] < 0).all()


def test_a_sample_does_not_depend_on_the_batch():
    """A prompt alone, in another order, and with fewer siblings."""
    prompts = make_prompts()
    together = draw(prompts)
    by_prompt = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), together)
    alone = draw(jax.tree.map(lambda x: x[2:3], prompts))
    same(alone, jax.tree.map(lambda x: x[2], by_prompt))
    order = np.array([2, 0, 3, 1])
    shuffled = draw(jax.tree.map(lambda x: x[order], prompts))
    same(shuffled, jax.tree.map(lambda x: x[order].reshape(16, *x.shape[2:]), by_prompt))
    same(draw(prompts, R=2), jax.tree.map(lambda x: x[:, :2].reshape(8, *x.shape[2:]), by_prompt))
    assert len(np.unique(together.tokens_BT, axis=0)) > 12  # and siblings differ; a few stop alike at once


@pytest.mark.parametrize("mesh_shape", [(2, 2, 2), (8, 1, 1), (1, 4, 2)])
def test_a_sample_does_not_depend_on_the_devices(mesh_shape):
    prompts = make_prompts(8)
    same(draw(prompts, mesh_shape=mesh_shape), draw(prompts), atol=1e-4)


@pytest.mark.parametrize("window", [3, T])  # a ring of three blocks, and of one
def test_the_window_changes_no_sample(window):
    same(draw(window=window), draw(window=100))


def test_padding_is_never_read():
    prompts = make_prompts()
    for filling in (0, -1, 10**6):
        padded = prompts.replace(tokens_PC=np.where(prompts.valid_PC, prompts.tokens_PC, np.int32(filling)))
        jax.tree.map(np.testing.assert_array_equal, draw(padded), draw(prompts))
    same(draw(make_prompts(length=C + 5)), draw(prompts))


@pytest.mark.parametrize("cuts", [{"top_k": 1}, {"top_p": 1e-6}])
def test_the_strictest_cut_is_greedy(cuts):
    np.testing.assert_array_equal(draw(cuts=cuts).tokens_BT, draw(temperature=0.0).tokens_BT)


def test_min_p_drops_the_unlikely_and_leaves_logprobs_uncut():
    prompts = make_prompts()
    rollouts = draw(prompts, cuts={"min_p": 0.2})
    logp = log_softmax(full_logits(prompts, rollouts.tokens_BT) / 1.2)
    drawn = np.take_along_axis(logp, rollouts.tokens_BT[:, :, None], axis=-1)[:, :, 0]
    sampled = rollouts.sampled_BT
    assert (drawn - logp.max(-1) >= np.log(0.2) - 1e-4)[sampled].all()
    np.testing.assert_allclose(rollouts.logprob_BT[sampled], drawn[sampled], atol=1e-4)
    free = draw(prompts)
    assert (free.tokens_BT != rollouts.tokens_BT).any()


def test_every_step_draws_afresh_and_the_same_step_the_same():
    root = jax.random.key(0)

    def at(step):
        settings = SamplingSettings(jnp.float32(1.2))
        key = rng.key_for(root, "rollout", step)
        return np.asarray(sampler()(make_params(), make_prompts(), key, settings).tokens_BT)

    first, second = at(0), at(1)
    np.testing.assert_array_equal(at(0), first)
    assert (first != second).any(-1).mean() > 0.9


def test_forbid_allows_a_token_only_after_the_right_one():
    prompts = make_prompts(8)
    token = int(np.bincount(draw(prompts, stops=()).tokens_BT.ravel()).argmax())
    after = np.random.default_rng(0).random(V) < 0.4

    def forbidding(token):
        return draw(prompts, stops=(), forbid=decode.Forbid(jnp.int32(token), jnp.asarray(after)))

    rollouts = forbidding(token)
    last = prompts.tokens_PC[np.arange(8), prompts.valid_PC.sum(-1) - 1]
    previous = np.concatenate([np.repeat(last, 4)[:, None], rollouts.tokens_BT[:, :-1]], axis=1)
    drawn = rollouts.tokens_BT == token
    assert drawn.any() and after[previous[drawn]].all()
    assert drawn[:, 0].any() or not after[last].any()
    compiled = sampler(stops=())._cache_size()
    free = forbidding(-1)
    assert sampler(stops=())._cache_size() == compiled  # a ban is data, not a new program
    jax.tree.map(np.testing.assert_array_equal, free, draw(prompts, stops=()))
    assert (free.tokens_BT != rollouts.tokens_BT).any()


def test_the_host_hears_once_a_window_and_the_loop_ends_with_the_last_row():
    heard: list[tuple[int, int]] = []

    def listen(done: int, live: int) -> None:
        heard.append((done, live))

    def run(**how):
        heard.clear()
        rollouts = draw(on_progress=listen, **how)
        jax.effects_barrier()
        return rollouts

    run(window=2, stops=())
    assert heard == [(2, 16), (4, 16), (6, 16), (8, 0)]
    run(window=2, stops=(), lanes=2)  # two lanes a prompt, four responses each: 8 at a time
    assert heard == [(0, 8), (0, 8), (0, 8), (8, 8), (8, 8), (8, 8), (8, 8), (16, 0)]
    stops = tuple(v for v in range(V) if v % 3)
    rollouts = run(window=2, stops=stops)
    same(rollouts, draw(stops=stops))
    longest = rollouts.sampled_BT.sum(-1).max()
    assert longest < T
    live = [rollouts.sampled_BT[:, n].sum() for n in range(T)]
    assert heard == [(n, live[n]) for n in range(2, longest, 2)] + [(longest, 0)]


def test_the_host_hears_the_tokens():
    heard: list[tuple[np.ndarray, int]] = []
    rollouts = draw(R=1, stops=(), on_tokens=lambda tokens, done: heard.append((tokens[:, :done].copy(), done)))
    jax.effects_barrier()
    assert sorted(done for _, done in heard) == [4, 8]
    for tokens, done in heard:
        np.testing.assert_array_equal(tokens, rollouts.tokens_BT[:, :done])


@pytest.mark.parametrize(("on_progress", "window"), [(None, 16), (print, 16), (None, 24)])
def test_the_token_loop_does_not_copy_the_cache(on_progress, window):
    """In the compiled loops nothing makes an array as large as the cache but a write of a column in place."""
    args = (make_params(), make_prompts(), jax.random.key(0), SamplingSettings(jnp.float32(1.2)))
    text = sampler(length=24, window=window, on_progress=on_progress).lower(*args).compile().as_text()
    computations = {c.split(" ")[0].removeprefix("%"): c for c in re.split(r"\n(?=(?:ENTRY )?%\S+ \()", text)}
    loops = [computations[name] for name in set(re.findall(r"body=%([\w.-]+)", text))]
    fusions = [computations[name] for loop in loops for name in re.findall(r"calls=%([\w.-]+)", loop)]
    cache = r"%(\S+) = f32\[2,2,1,16,2,(?:8,12|12,8)\]\S* (\S+)\("  # in at least two blocks
    makers = [found for c in loops + fusions for found in re.findall(cache, c)]
    writes = sum(operation == "dynamic-update-slice" for _, operation in makers)
    assert writes == 6  # keys and values: of all lanes, of few, and moving
    for name, operation in makers:
        in_place = operation == "dynamic-update-slice" or "dynamic-update-slice_fusion" in name
        assert in_place or operation in ("parameter", "get-tuple-element"), (name, operation)


@pytest.mark.parametrize("cuts", [{}, {"top_k": 5, "top_p": 0.9, "min_p": 0.1}])
def test_nothing_sorts_the_vocabulary(cuts):
    """The one sort of the program is of the lanes, when live ones move together."""
    settings = SamplingSettings(jnp.float32(1.2), **cuts)
    args = (make_params(), make_prompts(), jax.random.key(0), settings)
    text = sampler().lower(*args).compile().as_text()
    assert set(re.findall(r"= (.*?) (?:sort|custom-call)\(", text)) == {"(pred[1,16]{1,0}, s32[1,16]{1,0})"}
    assert f"[16,{V}]" in text


@pytest.mark.parametrize("knob", ["num_responses", "max_new_tokens", "window"])
def test_a_size_below_one_is_named(knob):
    sizes = {"num_responses": 4, "max_new_tokens": 4, "window": 4, knob: 0}
    with pytest.raises(ValueError, match=f"{knob} = 0"):
        decode.make_rollout(make_model(), stop_tokens=(), **sizes)


def test_lanes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="lanes = 3: expected a divisor of num_responses = 4"):
        decode.make_rollout(make_model(), num_responses=4, max_new_tokens=4, window=4, stop_tokens=(), lanes=3)
