# SPDX-License-Identifier: Apache-2.0
"""Masked sums and means: hand numbers, poison where the mask is False, parts that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t1jax.update.masking import Mean, masked, masked_sum

NAN, INF = float("nan"), float("inf")
X = jnp.array([[1.0, 2.0, NAN], [INF, 5.0, -INF]])
MASK = jnp.array([[True, True, False], [False, True, False]])


def test_sums_read_only_what_counts():
    assert masked_sum(X, MASK) == 8.0
    np.testing.assert_array_equal(masked_sum(X, MASK, axis=-1), [3.0, 5.0])
    np.testing.assert_array_equal(masked_sum(X, MASK, axis=0), [1.0, 7.0, 0.0])
    np.testing.assert_array_equal(masked(X, MASK), [[1.0, 2.0, 0.0], [0.0, 5.0, 0.0]])


def test_gradients_through_poison_are_exact():
    gradient = jax.grad(lambda x: (masked(x, MASK) ** 3).sum())(X)
    np.testing.assert_array_equal(gradient, [[3.0, 12.0, 0.0], [0.0, 75.0, 0.0]])
    gradient = jax.grad(lambda x: Mean.of(jnp.exp(x), MASK).value())(jnp.where(MASK, X, 0.0))
    np.testing.assert_allclose(gradient, np.where(MASK, np.exp(np.where(MASK, X, 0.0)), 0.0) / 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8, jnp.bool_])
def test_narrow_types_are_summed_in_float32(dtype):
    ones = jnp.ones((1000,), dtype)  # 1000 is beyond bfloat16's and int8's exact range
    total = masked_sum(ones, jnp.ones((1000,), bool))
    assert total == 1000.0 and total.dtype == jnp.float32


def test_parts_of_a_mean_add_up():
    whole = Mean.of(X, MASK)
    parts = Mean.of(X[:1], MASK[:1]) + Mean.of(X[1:], MASK[1:])
    assert whole.value() == parts.value() == np.float32(8 / 3)  # the mean of the parts' means would be 3.25
    assert parts.count == 3.0


def test_grouped_means_and_empty_groups():
    mean = Mean.of(X, jnp.array([[True, True, False], [False, False, False]]), axis=-1)
    np.testing.assert_array_equal(mean.value(), [1.5, NAN])
    np.testing.assert_array_equal(mean.value(empty=0.0), [1.5, 0.0])
    assert jax.grad(lambda total: Mean(total, jnp.float32(0)).value(empty=0.0))(1.0) == 0.0
    none = jnp.zeros_like(MASK)
    np.testing.assert_array_equal(jax.grad(lambda x: Mean.of(x, none).value(empty=0.0))(X), np.zeros((2, 3)))


def test_a_mean_is_a_pytree_that_passes_through_jit():
    assert jax.jit(lambda m: m + m)(Mean.of(X, MASK)).count == 6.0


@pytest.mark.parametrize("mask", [MASK[:1], MASK.astype(jnp.float32)])
def test_a_wrong_mask_is_refused(mask):
    with pytest.raises(ValueError, match=r"expected bool, the same shape"):
        masked_sum(X, mask)
