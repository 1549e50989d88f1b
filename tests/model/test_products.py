# SPDX-License-Identifier: Apache-2.0
"""Products with weights on a mesh, and their gradients, against one device; and how the residual stream is split."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t1jax import config
from t1jax.devices import sharding
from t1jax.model import products
from t1jax.model.qwen import FROM_HEADS, INTO_HEADS

B, D, N, K, H, F = 4, 8, 8, 4, 2, 16
SHAPES = [(D, N, H), (D, K, H), (D, K, H), (N, H, D), (D, F), (D, F), (F, D)]


def layout_of(shape):
    mesh = sharding.make_mesh(config.MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    return sharding.train_layout(mesh)


def outcome(shape, T, dtype):
    """A layer's products in a row, and the gradients of their sum of squares by the stream and by all weights."""
    layout, random = layout_of(shape), np.random.default_rng(0)
    x, *weights = (jnp.asarray(random.normal(size=size), jnp.float32) for size in ((B, T, D), *SHAPES))

    def loss(x, weights):
        along = products.stream(layout, T)
        x = layout.constrain(x, "batch", along, None)
        q, k, v = products.products(layout, INTO_HEADS, x.astype(dtype), *weights[:3])
        heads = (q * jnp.repeat(k + v, N // K, axis=2)).astype(dtype)
        (o,) = products.products(layout, FROM_HEADS, heads, weights[3])
        y = layout.constrain(x + o, "batch", along, None)
        out = y + products.gated(layout, (y / 8).astype(dtype), *weights[4:])
        return (out**2).mean(), out

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, out), grads = gradient(x, weights)
    return jax.tree.map(np.asarray, (out, *jax.tree.leaves(grads)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("T", [8, 6])  # positions that divide by tensor = 4, and that do not
@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 2, 4), (2, 2, 2)])
def test_a_mesh_changes_no_number(shape, T, dtype, tolerance):
    for found, expected in zip(outcome(shape, T, dtype), outcome((1, 1, 1), T, dtype), strict=True):
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_the_stream_is_split_where_positions_divide_and_never_for_decoding():
    layout = layout_of((1, 2, 4))
    assert products.stream(layout, 8) == "stream" and layout.spec("stream")[0] == "tensor"
    assert products.stream(layout, 6) == "length" and layout.spec("length")[0] is None
    decode = sharding.decode_layout(layout.mesh)
    assert decode.parts("stream") == 1
