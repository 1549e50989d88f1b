# SPDX-License-Identifier: Apache-2.0
"""Lanes that take one response after the other, and move together at the end: no sample changes, no key travels."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_sampler import ONE, T, V, draw, make_params, make_prompts, same, sampler

from t1jax.rollouts import decode
from t1jax.rollouts import lanes as lane
from t1jax.rollouts.sampling import SamplingSettings


@pytest.mark.parametrize(
    ("mesh_shape", "how"),
    [
        (ONE, {"lanes": 1}),
        (ONE, {"lanes": 2, "window": 3}),
        pytest.param(ONE, {"lanes": 4, "window": 1}, marks=pytest.mark.slow),
        pytest.param(ONE, {"lanes": 2, "stops": ()}, marks=pytest.mark.slow),
        (ONE, {"lanes": 2, "temperature": 0.0, "stops": tuple(range(0, V, 3))}),
        ((2, 2, 2), {"lanes": 2, "window": 3}),
        pytest.param((8, 1, 1), {"lanes": 4}, marks=pytest.mark.slow),
    ],
)
def test_the_lanes_change_no_sample(mesh_shape, how):
    """Responses one after another in a lane, against all at once, though prompts finish at different times."""
    prompts = make_prompts(8)
    few = {name: how[name] for name in ("stops", "temperature") if name in how}
    alone = draw(prompts, R=8, **few)
    same(draw(prompts, R=8, mesh_shape=mesh_shape, **how), alone, atol=1e-4)
    lengths = alone.sampled_BT.sum(-1)
    assert how.get("stops") == () or lengths.min() < lengths.max() == T  # short ones and overlong ones


def test_a_ban_follows_a_lane_into_its_next_response():
    prompts = make_prompts(8)
    token = int(np.bincount(draw(prompts).tokens_BT[:, 0]).argmax())
    forbid = decode.Forbid(jnp.int32(token), jnp.asarray(np.arange(V) % 2 == 0))
    banned = draw(prompts, forbid=forbid)
    assert (banned.tokens_BT != draw(prompts).tokens_BT).any()
    same(draw(prompts, forbid=forbid, lanes=1), banned)


@pytest.mark.parametrize("mesh_shape", [ONE, (2, 2, 1)])
def test_moving_live_lanes_together_changes_no_sample(mesh_shape, monkeypatch):
    """Down to one lane a shard: what the others have drawn and what they go on with arrives at the right response."""
    prompts = make_prompts(8)
    stops = (3, 11, 20, 5, 7)
    how = {"R": 4, "length": 24, "window": 5, "stops": stops}
    monkeypatch.setattr(lane, "FEW", 10**9)
    assert lane.tiers(32, ragged=False) == []
    still = draw(prompts, **how)
    monkeypatch.setattr(lane, "FEW", 1)
    assert lane.tiers(32, ragged=False) == [8, 2, 1]
    for lanes in (4, 2):
        same(draw(prompts, mesh_shape=mesh_shape, lanes=lanes, **how), still, atol=1e-4)
    lengths = still.sampled_BT.sum(-1)
    assert (lengths > 2 * np.median(lengths)).sum() > 2  # some go on long after most have ended


def test_the_cache_has_room_for_lanes_and_not_for_responses():
    def cache_shapes(**how):
        args = (make_params(), make_prompts(), jax.random.key(0), SamplingSettings(jnp.float32(1.2)))
        text = sampler(R=8, length=20, window=10, **how).lower(*args).as_text()
        return set(re.findall(r"tensor<(2x2x1x\d+x2x10x8)xf32>", text))  # L, J, X, M, K, S, H

    assert cache_shapes(lanes=2) == {"2x2x1x8x2x10x8"}
    assert "2x2x1x32x2x10x8" in cache_shapes()


def test_nothing_but_numbers_of_live_lanes_crosses_shards_in_the_token_loop():
    """Eight shards of the batch: what their loops tell each other is one number, never a lane's."""
    mesh = (8, 1, 1)
    args = (make_params(mesh), make_prompts(8), jax.random.key(0), SamplingSettings(jnp.float32(1.2)))
    text = sampler(mesh, R=16, lanes=4, length=24, window=16).lower(*args).compile().as_text()
    sent = re.findall(r"= (\S+) (?:all-gather|all-reduce|collective-permute|all-to-all)\(", text)
    assert {"s32[]", "pred[]"} <= set(sent)
    assert all(np.prod([int(n) for n in re.findall(r"\d+", x.split("{")[0][3:])]) <= 8 for x in sent), sent
