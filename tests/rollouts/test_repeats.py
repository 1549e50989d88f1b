# SPDX-License-Identifier: Apache-2.0
"""Responses that repeat themselves: stopped exactly where the rule says, and only what the penalty flags."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from small_sampler import T, draw, make_prompts, same

from t1jax.rewards import penalties
from t1jax.rollouts import repeats

RULE = repeats.Rule(longest=4, length=10, times=3)


def first_stop(tokens: np.ndarray, rule: repeats.Rule = RULE) -> int:
    """After how many tokens the rule stops a text; 0: never."""
    state, step = repeats.start(1, rule), jax.jit(repeats.update)
    for n, token in enumerate(tokens, 1):
        state = step(state, jnp.int32([token]))
        if repeats.too_many(state, rule)[0]:
            return n
    return 0


def test_a_period_is_stopped_after_the_count_that_the_penalty_needs():
    """One character a token: stopped at the very token at which the penalty says yes, for every period."""
    for period in range(1, RULE.longest + 1):
        tokens = np.concatenate([[50, 51, 52], np.arange(100) % period])
        text = "".join(chr(97 + t) for t in tokens)
        stop = first_stop(tokens)
        assert penalties.repetitive(text[:stop], RULE.length, RULE.times)
        assert stop == 3 + (RULE.times - 1) * period + RULE.length
        assert not penalties.repetitive(text[: stop - 1], RULE.length, RULE.times)
    assert first_stop(np.arange(100) % (RULE.longest + 1)) == 0  # a longer period is not looked for


def test_what_is_stopped_is_flagged_whatever_a_token_spells():
    random = np.random.default_rng(0)
    stopped = 0
    for _ in range(60):
        words = ["".join(map(chr, random.integers(97, 123, n))) for n in random.integers(1, 6, 4)]
        tokens = random.integers(0, 4, 80)
        tokens[10:] = np.resize(tokens[10 : 10 + random.integers(1, 6)], 70)
        tokens[random.integers(0, 80)] = 0
        stop = first_stop(tokens)
        stopped += stop > 0
        assert not stop or penalties.repetitive("".join(words[t] for t in tokens[:stop]), RULE.length, RULE.times)
    assert 20 < stopped < 60  # or nothing would be tested


def test_the_sampler_cuts_a_repeating_response_short_and_changes_nothing_else():
    """Greedily drawn text goes round in circles. Lanes, and their moving together, make no difference."""
    rule, how = repeats.Rule(longest=3, length=4, times=2), {"R": 4, "length": 3 * T, "temperature": 1.0, "stops": (3,)}
    prompts = make_prompts(8)
    cuts = {"top_k": 2}
    free = draw(prompts, cuts=cuts, **how)
    stopped = draw(prompts, cuts=cuts, repeat_rule=rule, **how)
    for row, long in enumerate(free.sampled_BT.sum(-1)):
        cut = first_stop(free.tokens_BT[row, :long], rule)
        length = cut or long
        assert stopped.sampled_BT[row].sum() == length
        np.testing.assert_array_equal(stopped.tokens_BT[row, :length], free.tokens_BT[row, :length])
        assert stopped.stopped_B[row] == (free.stopped_B[row] and length == long)
    cut_short = stopped.sampled_BT.sum(-1) < free.sampled_BT.sum(-1)
    assert 2 < cut_short.sum() < len(cut_short)
    same(draw(prompts, cuts=cuts, repeat_rule=rule, lanes=1, **how), stopped)
    same(draw(prompts, cuts=cuts, repeat_rule=rule, lanes=2, mesh_shape=(2, 1, 1), **how), stopped, atol=1e-4)
