# SPDX-License-Identifier: Apache-2.0
"""Random streams: reproducible, fresh for every name and step, and blind to the layout of the batch."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t1jax.rollouts import rng


def uniforms(problems, num_responses, position=0, seed=0):
    """float[P, R], as the sampler draws them."""
    keys = rng.row_keys(rng.key_for(jax.random.key(seed), "rollout", 3), jnp.asarray(problems), num_responses)
    return np.asarray(rng.row_uniforms(keys, position)).reshape(len(problems), num_responses)


def test_streams_differ_by_root_name_and_step():
    keys = [
        tuple(np.asarray(jax.random.key_data(rng.key_for(jax.random.key(seed), name, step))))
        for seed, name, step in product((0, 1), ("rollout", "data"), (0, 1, 2))
    ]
    assert len(set(keys)) == len(keys)


def test_a_stream_is_the_same_for_a_traced_step_and_in_every_process():
    key = rng.key_for(jax.random.key(0), "rollout", 7)
    traced = jax.jit(lambda step: rng.key_for(jax.random.key(0), "rollout", step))(7)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(traced))
    # written down once: Python's own hash() would differ from process to process
    np.testing.assert_array_equal(jax.random.key_data(key), [1187823272, 316993317])


def test_a_rows_numbers_do_not_depend_on_the_batch():
    together = uniforms([5, 9, 2, 7], num_responses=4)
    np.testing.assert_array_equal(uniforms([2], num_responses=4), together[2:3])
    np.testing.assert_array_equal(uniforms([5, 9, 2, 7], num_responses=2), together[:, :2])
    np.testing.assert_array_equal(uniforms([7, 2, 9, 5], num_responses=4), together[::-1])


def test_a_repeated_problem_gets_its_own_numbers():
    twice = uniforms([5, 9, 5], num_responses=4)
    assert not (twice[0] == twice[2]).any()
    np.testing.assert_array_equal(twice[:2], uniforms([5, 9], num_responses=4))


def test_numbers_differ_by_problem_response_and_position_and_are_uniform():
    values = np.stack([uniforms(range(16), num_responses=8, position=t) for t in range(32)])
    assert len(np.unique(values)) > 0.999 * values.size
    assert values.min() >= 0 and values.max() < 1
    counts, _ = np.histogram(values, bins=16, range=(0, 1))
    expected = values.size / 16
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # 99.9 % quantile of chi-squared, 15 degrees of freedom
    for axis in range(3):  # neighbours in position, problem and response are uncorrelated
        a, b = np.delete(values, 0, axis).ravel(), np.delete(values, -1, axis).ravel()
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size)


@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_numbers_are_the_same_on_many_devices(shape):
    mesh = jax.make_mesh(shape, ("a", "b")[: len(shape)], axis_types=(jax.sharding.AxisType.Auto,) * len(shape))
    rows = jax.sharding.NamedSharding(mesh, jax.P(mesh.axis_names))

    @jax.jit
    def draw(problem_P):
        return jax.lax.with_sharding_constraint(
            rng.row_uniforms(rng.row_keys(jax.random.key(0), problem_P, 4), 3), rows
        )

    many = draw(jax.device_put(jnp.arange(8), rows))
    assert len(many.sharding.device_set) == 8
    np.testing.assert_array_equal(many, rng.row_uniforms(rng.row_keys(jax.random.key(0), jnp.arange(8), 4), 3))
