# SPDX-License-Identifier: Apache-2.0
"""The GPU's kernel for the ring, interpreted, against the plain form; and samples that do not depend on it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_sampler

from t1jax import config
from t1jax.devices import sharding
from t1jax.model import qwen, ring, ring_triton
from t1jax.rollouts import decode
from t1jax.rollouts.sampling import SamplingSettings

L, C, H = 2, 9, 16


@pytest.fixture
def interpreted(monkeypatch):
    """Without a GPU, and split over few programs, so that a lane is split and one program reads several chunks."""
    monkeypatch.setattr(ring_triton, "INTERPRET", True)
    monkeypatch.setattr(ring_triton, "PROGRAMS", 24)
    monkeypatch.setattr(ring_triton, "WIDE", 64)


def make_layout(shape=(1, 1, 1)):
    sizes = dict(zip(sharding.MESH_AXES, shape, strict=True))
    return sharding.decode_layout(sharding.make_mesh(config.MeshConfig(**sizes), jax.devices()[: int(np.prod(shape))]))


def arrays(layout, dtype, *, lanes=4, all_lanes=4, prompts=2, K=2, G=3, J=3, S=32, column=40):
    """What `ring.attend` takes: lanes of all lengths, none and the longest among them; ragged prompts; a full ring.

    The new keys and values are those that are in the ring already.
    """
    random, X = np.random.default_rng(column), layout.batch_shards
    length = random.integers(0, min(J * S - 1, column) + 1, size=lanes)
    length[0], length[-1] = 0, min(J * S - 1, column)
    valid = np.arange(C)[None] < random.integers(1, C + 1, size=prompts)[:, None]
    q = 2 * random.normal(size=(lanes, K * G, 1, H))
    k, v = (random.normal(size=(L, J, X, all_lanes // X, K, *last)) for last in ((H, S), (S, H)))
    prompt_k, prompt_v = random.normal(size=(2, prompts, K, C, H))
    q, k, v, prompt_k, prompt_v = (jnp.asarray(x, dtype) for x in (q, k, v, prompt_k, prompt_v))
    first = max(column - length.max(), 0) // S
    lengths = jnp.asarray(length, jnp.int32)
    reach = ring.Reach(jnp.int32(column), jnp.int32(first), lengths, jnp.asarray(valid), None, "triton")
    place = (1, column // S % J, slice(None), slice(lanes // X))
    new_k, new_v = (
        x.reshape(lanes, K, 1, H) for x in (k[(*place, ..., column % S)], v[(*place, ..., column % S, slice(None))])
    )
    return q, new_k, new_v, k, v, jnp.int32(1), prompt_k, prompt_v, reach


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 1, 1), {"column": 0}),
        ((1, 1, 1), {"column": 40}),  # in the second block, the third is empty
        ((1, 1, 1), {"column": 200, "all_lanes": 6}),  # the ring has gone round twice; two lanes are not in use
        ((1, 1, 1), {"column": 205, "S": 39, "J": 4}),  # blocks that no power of 2 divides
        ((1, 1, 1), {"column": 95, "prompts": 4, "K": 1, "G": 6, "J": 6, "S": 16}),
        ((2, 2, 2), {"column": 177, "lanes": 8, "all_lanes": 8, "prompts": 4, "J": 5, "S": 16}),
    ],
)
def test_the_kernel_agrees_with_the_plain_form(shape, sizes, dtype, interpreted):
    layout = make_layout(shape)
    given = arrays(layout, dtype, **sizes)
    run = jax.jit(functools.partial(ring.attend, layout))
    expected = np.asarray(run(*given[:-1], given[-1].replace(reader="loop"))[0], np.float32)
    found = np.asarray(run(*given)[0], np.float32)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-5 if dtype == "float32" else 0.01)


def test_it_reads_nothing_that_the_lane_does_not_attend(interpreted):
    """Other lanes' columns, blocks out of reach, other layers: NaN there changes nothing."""
    q, *new, k, v, layer, prompt_k, prompt_v, reach = arrays(make_layout(), "float32", column=40, J=4)
    reach = reach.replace(
        length_B=jnp.asarray([3, 0, 8, 20], jnp.int32)
    )  # lanes 0 to 2 end in block 1, of columns 32 to 63
    run = jax.jit(lambda *x: ring.attend(make_layout(), *x)[0])
    expected = run(q, *new, k, v, layer, prompt_k, prompt_v, reach)
    nan_k, nan_v = (x.at[0].set(jnp.nan).at[:, 2:].set(jnp.nan).at[:, 0, :, :3].set(jnp.nan) for x in (k, v))
    np.testing.assert_array_equal(run(q, *new, nan_k, nan_v, layer, prompt_k, prompt_v, reach), expected)
    assert np.isnan(run(q, *new, k.at[1, 1, 0, 3].set(jnp.nan), v, layer, prompt_k, prompt_v, reach)[3]).all()


@pytest.mark.parametrize(
    ("H", "S", "platform", "attention", "reader"),
    [
        (64, 512, "gpu", "auto", "triton"),
        (64, 512, "cpu", "auto", "loop"),
        (64, 512, "gpu", "xla", "loop"),
        (96, 512, "gpu", "auto", "loop"),
        (64, 40, "gpu", "auto", "triton"),
        (64, 15, "gpu", "auto", "loop"),
    ],
)
def test_other_rings_are_left_to_the_plain_form(H, S, platform, attention, reader, monkeypatch):
    monkeypatch.setattr(ring_triton, "INTERPRET", platform == "gpu")
    cfg = dataclasses.replace(small_sampler.make_model().cfg, head_dim=H, attention=attention)
    assert ring.reader(cfg, make_layout(), S) == reader


@pytest.mark.slow
def test_samples_do_not_depend_on_it(interpreted, monkeypatch):
    """Lanes start over, the ring goes round and the last lanes are compacted: the same tokens with and without it."""
    cfg = dataclasses.replace(small_sampler.make_model().cfg, head_dim=16)
    model = qwen.Transformer(cfg, make_layout())
    params = qwen.init_params(model, jax.random.key(0))
    prompts = small_sampler.make_prompts()

    def draw():
        rollout = decode.make_rollout(
            model, num_responses=6, lanes=3, max_new_tokens=40, window=16, stop_tokens=small_sampler.STOPS
        )
        settings = SamplingSettings(jnp.float32(1.0), 0, 1.0, 0.0)
        return jax.jit(lambda *x: rollout(*x, settings))(params, prompts, jax.random.key(1))

    found = draw()
    monkeypatch.setattr(ring_triton, "suits", lambda *_: False)
    expected = draw()
    length_B = expected.sampled_BT.sum(-1)
    assert length_B.min() < 16 < length_B.max() and length_B.sum() > 40 * len(length_B) // 4
    small_sampler.same(found, expected)
