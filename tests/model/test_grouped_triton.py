# SPDX-License-Identifier: Apache-2.0
"""The GPU's kernels for experts, interpreted: against float64 sums of each expert's rows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from t1jax.model import grouped_triton

SIZES = {
    "uneven": (50, (7, 0, 20, 1, 0, 16)),  # the last 6 rows are of no expert here
    "all to one": (33, (33, 0)),
    "none": (64, (0, 0, 0)),
    "many rows": (600, (300, 1, 299)),
    "fewer rows than a tile has": (5, (0, 3, 1)),
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-4}  # products of bfloat16 are exact in float32


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(grouped_triton, "INTERPRET", True)


def arrays(kind, dtype, i=48, o=96):
    c, sizes = SIZES[kind]
    random = np.random.default_rng(c)
    x, w, y = (jnp.asarray(random.normal(size=shape), dtype) for shape in ((c, i), (len(sizes), i, o), (c, o)))
    return x, w, y, jnp.asarray(sizes, jnp.int32), np.cumsum((0, *sizes))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", SIZES)
def test_rows_times_their_experts(kind, dtype):
    x, w, _, sizes, ends = arrays(kind, dtype)
    found = grouped_triton.times(x, w, sizes)
    other = grouped_triton.times(x, w.swapaxes(1, 2), sizes, transposed=True)
    assert found.dtype == jnp.float32 and found.shape == other.shape == (len(x), w.shape[2])
    x, w = (np.asarray(a, np.float64) for a in (x, w))
    for e, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):
        for out in (found, other):
            np.testing.assert_allclose(out[begin:end], x[begin:end] @ w[e], atol=20 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", SIZES)
def test_gradients_of_experts(kind, dtype):
    x, _, y, sizes, ends = arrays(kind, dtype)
    found = grouped_triton.outer(x, y, sizes)
    assert found.dtype == jnp.float32
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    expected = [x[begin:end].T @ y[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]
    np.testing.assert_allclose(found, expected, atol=100 * TOLERANCE[dtype])


def test_rows_that_are_of_no_expert_are_not_read():
    """NaN there reaches nothing: neither products of others nor gradients."""
    x, w, y, sizes, ends = arrays("uneven", "float32")
    bad = x.at[ends[-1] :].set(jnp.nan)
    np.testing.assert_array_equal(
        grouped_triton.times(bad, w, sizes)[: ends[-1]], grouped_triton.times(x, w, sizes)[: ends[-1]]
    )
    np.testing.assert_array_equal(grouped_triton.outer(bad, y, sizes), grouped_triton.outer(x, y, sizes))


def test_which_sizes_tiles_can_be_made_of(monkeypatch):
    assert grouped_triton.suits("cpu", 32, 16) and not grouped_triton.suits("cpu", 32, 24)
    monkeypatch.setattr(grouped_triton, "INTERPRET", False)
    assert grouped_triton.suits("gpu", 2048, 768) and not grouped_triton.suits("cpu", 2048, 768)
