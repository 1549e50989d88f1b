# SPDX-License-Identifier: Apache-2.0
"""Layouts: what is split over what, and what is refused with the name of the parameter."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from flax import linen as nn
from jax.sharding import PartitionSpec

from t1jax import config
from t1jax.devices import sharding
from t1jax.model import qwen

MESH = small.make_mesh((2, 2, 2))


def test_the_devices_of_a_cpu_are_the_hosts():
    assert sharding.are_host(jax.devices()) and sharding.train_layout(MESH).on_cpu
    assert not sharding.are_host([types.SimpleNamespace(platform="tpu")])


def test_training_splits_weights_and_decoding_keeps_them_still():
    """q is [layers, embed, q_heads, head_dim]: over fsdp and tensor in training, tensor alone in the token loop."""
    axes = ("layers", "embed", "q_heads", "head_dim")
    assert sharding.train_layout(MESH).spec(*axes) == PartitionSpec(None, "fsdp", "tensor", None)
    assert sharding.decode_layout(MESH).spec(*axes) == PartitionSpec(None, None, "tensor", None)
    for layout in (sharding.train_layout(MESH), sharding.decode_layout(MESH)):
        assert layout.spec("batch", None) == PartitionSpec(("data", "fsdp"), None)
        assert layout.batch_shards == 4
    model = qwen.Transformer(small.make_config().model, sharding.decode_layout(MESH))
    assert not [s for s in jax.tree.leaves(qwen.shardings(model)) if "fsdp" in str(s.spec)]


def test_layouts_are_values():
    """Equal and hashable, so that a module that carries one is the same module."""
    assert sharding.train_layout(MESH) == sharding.train_layout(small.make_mesh((2, 2, 2)))
    assert hash(sharding.train_layout(MESH)) == hash(sharding.train_layout(small.make_mesh((2, 2, 2))))
    assert sharding.train_layout(MESH) != sharding.decode_layout(MESH)


def test_an_unknown_axis_is_named():
    with pytest.raises(ValueError, match=r"unknown logical axis 'rows' in \('rows', 'embed'\); known: .*kv_heads"):
        sharding.train_layout(MESH).spec("rows", "embed")


def test_two_axes_that_want_the_same_devices_are_named():
    with pytest.raises(ValueError, match="'batch' and 'embed' of .* both want mesh axis 'fsdp'"):
        sharding.train_layout(MESH).spec("batch", "embed")


def test_constrain_wants_a_name_for_every_dimension():
    with pytest.raises(ValueError, match=r"got 1 logical axes \('batch',\) for an array of shape \(4, 2\)"):
        sharding.train_layout(MESH).constrain(jnp.zeros((4, 2)), "batch")


def test_constrain_holds_inside_a_program():
    layout = sharding.train_layout(MESH)
    out = jax.jit(lambda x: layout.constrain(x + 1, "batch", "mlp"))(jnp.zeros((8, 4)))
    assert out.sharding.is_equivalent_to(layout.sharding("batch", "mlp"), 2)


def test_a_mesh_takes_what_is_left():
    mesh = sharding.make_mesh(config.MeshConfig(2, -1, 2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert list(mesh.devices.flat) == jax.devices()
    assert sharding.make_mesh(config.MeshConfig(1, -1, 1), jax.devices()[:3]).shape["fsdp"] == 3
    with pytest.raises(config.ConfigError, match=r"mesh\.data, mesh\.fsdp, mesh\.tensor are 3, -1, 1"):
        sharding.make_mesh(config.MeshConfig(3, -1, 1))


def test_a_parameter_that_does_not_divide_is_named():
    box = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((6, 3), jnp.float32), ("mlp", "embed"))
    with pytest.raises(ValueError, match=r"parameter \['layers'\]\['down'\] of shape \(6, 3\) .*does not divide"):
        sharding.param_shardings({"layers": {"down": box}}, sharding.train_layout(MESH))


def test_parameters_are_born_split():
    """No device ever holds more than its share, and the pieces are those of one device."""
    cfg = small.make_config().model
    split, whole = (
        qwen.init_params(qwen.Transformer(cfg, sharding.train_layout(mesh)), jax.random.key(0))
        for mesh in (MESH, small.make_mesh((1, 1, 1)))
    )
    jax.tree.map(np.testing.assert_array_equal, small.to_numpy(split), small.to_numpy(whole))
    for name in ("q", "k", "v", "o", "gate", "up", "down"):
        weight = split["layers"][name]
        assert weight.addressable_shards[0].data.size == weight.size // 4, name
    assert split["embedding"].addressable_shards[0].data.shape == (32, 16)


def test_what_mirrors_parameters_lies_like_them_however_it_is_wrapped():
    layout = sharding.train_layout(MESH)
    shardings = {"layers": {"q": layout.sharding("layers", "embed", "q_heads", None)}, "norm": layout.sharding("embed")}
    whole = layout.sharding()
    weights = {"layers": {"q": jnp.zeros((1, 2, 2, 1))}, "norm": jnp.zeros(2)}
    tree = ({"count": jnp.zeros(()), "mu": weights}, [weights], {"norm": jnp.zeros(())}, {"q": jnp.zeros((1, 2, 2, 1))})
    found = sharding.like_params(tree, shardings, whole)
    assert found == ({"count": whole, "mu": shardings}, [shardings], {"norm": whole}, {"q": whole})
