# SPDX-License-Identifier: Apache-2.0
"""The kernel that reads each lane's own blocks, interpreted, against the loop of XLA over the blocks of all lanes."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_sampler
from small_sampler import make_params, make_prompts

from t1jax import config
from t1jax.devices import sharding
from t1jax.model import ragged, ring
from t1jax.rollouts import decode
from t1jax.rollouts.sampling import SamplingSettings

P, M, G, J, S, L, C = 2, 3, 2, 3, 4, 2, 5  # two prompts a shard, three lanes each


def layout_of(shape=(1, 1, 1)):
    mesh = sharding.make_mesh(config.MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    return sharding.decode_layout(mesh)


def case(layout, K, dtype, column, seed=0, H=16):
    """Arguments of `ring.attend` but the last: queries, a full ring, prompts; and the lengths of lanes, some idle."""
    random = np.random.default_rng(seed)
    X = layout.batch_shards
    B = X * P * M

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape), dtype)

    k, v = normal(L, J, X, P * M, K, H, S), normal(L, J, X, P * M, K, *ragged.folded(S, H))
    length_B = random.integers(0, min(column, J * S - 1) + 1, B)
    length_B[:4] = [0, min(column, J * S - 1), ragged.IDLE, min(column, 1)]
    length_B[B // 2] = ragged.IDLE
    valid_PC = np.arange(C)[None] < 1 + np.arange(X * P)[:, None] % C
    prompt = normal(X * P, K, C, H), normal(X * P, K, C, H)
    new = normal(B, K, 1, H), normal(B, K, 1, H)
    return (normal(B, K * G, 1, H), *new, k, v, jnp.int32(1), *prompt), jnp.int32(length_B), jnp.asarray(valid_PC)


def reach(column, length_B, valid_PC, lanes=None):
    first = jnp.maximum(column - length_B.max(), 0) // S
    return ring.Reach(column, first, length_B, valid_PC, lanes, "loop" if lanes is None else "ragged")


def poisoned(k, v, column, length_B):
    """The ring with NaN wherever the kernel is not to look: idle lanes, blocks without a column of the lane."""
    k, v = np.array(k, np.float32), np.array(v, np.float32)
    lanes = k.shape[3]
    for b, length in enumerate(np.asarray(length_B)):
        own = set() if length == ragged.IDLE else {j % J for j in range((column - length) // S, column // S + 1)}
        for j in set(range(J)) - own:
            k[:, j, b // lanes, b % lanes] = v[:, j, b // lanes, b % lanes] = np.nan
    return k, v


@pytest.mark.parametrize(
    ("K", "H", "dtype", "shape", "at_once"),
    [
        (1, 128, "float32", (1, 1, 1), 1),
        (2, 64, "float32", (2, 1, 2), 4),
        (8, 16, "float32", (1, 1, 1), 2),
        (1, 16, "bfloat16", (1, 2, 1), 4),
        (2, 64, "bfloat16", (1, 1, 1), 2),
        (8, 16, "bfloat16", (1, 1, 4), 4),
    ],
)
def test_it_is_what_xla_says_and_reads_no_other_block(K, H, dtype, shape, at_once, monkeypatch):
    """Heads of 16 and 64 have values of four and of two columns in a row."""
    monkeypatch.setattr(ragged, "AT_ONCE", at_once)
    layout = layout_of(shape)

    @partial(jax.jit, static_argnums=0)
    def attended(kernel, arguments, column, length_B, valid_PC):
        lanes = ragged.order(layout, length_B) if kernel else None
        return ring.attend(layout, *arguments, reach(column, length_B, valid_PC, lanes))

    for column in (0, 3, 7, 11, 12, 30):  # in the ring's first round and later, at both ends of a block
        arguments, length_B, valid_PC = case(layout, K, dtype, column, seed=column, H=H)
        expected, *rings = attended(False, arguments, jnp.int32(column), length_B, valid_PC)
        q, new_k, new_v, k, v, *rest = arguments
        poison_k, poison_v = (jnp.asarray(x, dtype) for x in poisoned(k, v, column, length_B))
        given = (q, new_k, new_v, poison_k, poison_v, *rest)
        found, *after = attended(True, given, jnp.int32(column), length_B, valid_PC)
        found, live = np.asarray(found, np.float32), np.asarray(length_B) != ragged.IDLE
        np.testing.assert_allclose(found[live], np.asarray(expected, np.float32)[live], atol=1e-5)
        assert not found[~live].any() and live.any() and not live.all()
        lanes = live.reshape(layout.batch_shards, -1)
        for one, other in zip(after, rings, strict=True):  # written where it is to be, and nowhere else
            one, other = (np.moveaxis(np.asarray(x, np.float32), (2, 3), (0, 1))[lanes] for x in (one, other))
            np.testing.assert_array_equal(np.where(np.isnan(one), other, one), other)


def test_no_lane_is_live():
    layout = layout_of()
    arguments, length_B, valid_PC = case(layout, 2, "float32", 5)
    length_B = jnp.full_like(length_B, ragged.IDLE)
    out, *_ = ring.attend(layout, *arguments, reach(jnp.int32(5), length_B, valid_PC, ragged.order(layout, length_B)))
    assert not np.asarray(out).any()


@pytest.mark.parametrize(("mesh_shape", "dtype"), [((1, 1, 1), "float32"), ((2, 1, 2), "bfloat16")])
def test_samples_are_the_same(mesh_shape, dtype, monkeypatch):
    """Through refills, idle lanes, compaction and a ring that goes round, each lane with the others' columns in it."""
    how = {"R": 32, "lanes": 16, "length": 12, "window": 4}
    prompts = make_prompts()
    expected = small_sampler.draw(prompts, mesh_shape=mesh_shape, dtype=dtype, **how)
    monkeypatch.setattr(ragged, "suits", lambda *_: True)
    rollout = jax.jit(
        decode.make_rollout(
            small_sampler.make_model(mesh_shape, dtype),
            num_responses=how["R"],
            lanes=how["lanes"],
            max_new_tokens=how["length"],
            window=how["window"],
            stop_tokens=small_sampler.STOPS,
        )
    )
    settings = SamplingSettings(jnp.float32(1.2))
    lowered = rollout.lower(make_params(mesh_shape), prompts, jax.random.key(0), settings)
    found = jax.tree.map(np.asarray, lowered.compile()(make_params(mesh_shape), prompts, jax.random.key(0), settings))
    small_sampler.same(found, expected)
    lengths = expected.sampled_BT.sum(-1)
    assert lengths.max() == how["length"] and lengths.min() < 3


def test_it_is_chosen_on_a_tpu_for_shapes_that_it_can_hold():
    class Tpu:
        platform = "tpu"

    class Mesh:
        devices = np.array([Tpu()])

    class Layout:
        mesh = Mesh

        @staticmethod
        def parts(axis):
            return {"kv_heads": 2}[axis]

    cfg = dataclasses.replace(
        small_sampler.make_model().cfg, attention="auto", num_kv_heads=8, head_dim=128, compute_dtype="bfloat16"
    )
    assert ring.reader(cfg, Layout, 512) == "ragged" != ring.reader(cfg, layout_of(), 512)  # the platform is cpu
    assert ring.reader(dataclasses.replace(cfg, head_dim=64), Layout, 512) == "ragged"
    others = [({"attention": "xla"}, 512), ({"head_dim": 96}, 512), ({}, 500), ({}, 4096)]  # more than VMEM is to hold
    for changes, columns in others:
        assert ring.reader(dataclasses.replace(cfg, **changes), Layout, columns) == "loop"


def test_narrow_heads_fill_rows_of_vmem():
    assert [ragged.folded(512, H) for H in (128, 64, 32, 256)] == [(512, 128), (256, 128), (128, 128), (512, 256)]
    assert ragged.folded(512, 96) == (512, 96) and ragged.folded(6, 64) == (3, 128)
