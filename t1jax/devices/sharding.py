# SPDX-License-Identifier: Apache-2.0
"""Where every array lives: the mesh, the rules from logical axes to mesh axes, and sharding constraints.

Parameters and activations have named dimensions (`embed`, `q_heads`, `batch`, ...). A `Layout` is a mesh with a table
from these logical axes to mesh axes: `data` (replicas), `fsdp` (shards of parameters, optimiser and anchor) and
`tensor` (shards of heads, MLP and vocabulary, and of the positions of the residual stream). Training and decoding use
the same weights under two tables: TRAIN_RULES shards weights over `fsdp` and `tensor`; DECODE_RULES replicates them
over `fsdp`, so that no weight moves inside the token loop; they are gathered once per step. An unknown axis, two axes
on one mesh axis, or an indivisible size raises.

Deliberately not here: the order of devices in the mesh (topology.py), anything about several processes (multihost.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t1jax.checks import mesh_shape
from t1jax.config import ConfigError, MeshConfig
from t1jax.devices import topology

MESH_AXES = ("data", "fsdp", "tensor")

TRAIN_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("batch", ("data", "fsdp")),
    ("length", ()),
    ("stream", ("tensor",)),
    ("layers", ()),
    ("vocab", ("tensor",)),
    ("embed", ("fsdp",)),
    ("q_heads", ("tensor",)),
    ("kv_heads", ("tensor",)),
    ("kv_heads_whole", ()),  # of weights, where they do not divide (model/heads.py)
    ("head_dim", ()),
    ("mlp", ("tensor",)),
    ("experts", ("tensor",)),
    ("experts_whole", ()),  # of the router
    ("expert_mlp", ()),  # a device holds its experts whole
)
DECODE_RULES = tuple((name, () if name in ("embed", "stream") else axes) for name, axes in TRAIN_RULES)


@dataclass(frozen=True)
class Layout:
    """A mesh and a table from logical axes to mesh axes. Hashable, so that modules can hold it."""

    mesh: Mesh
    rules: tuple[tuple[str, tuple[str, ...]], ...]

    def spec(self, *axes: str | None) -> PartitionSpec:
        """The PartitionSpec of an array whose dimensions have these logical names (None: not split)."""
        table = dict(self.rules)
        used: dict[str, str] = {}
        parts: list[Any] = []
        for axis in axes:
            if axis is not None and axis not in table:
                raise ValueError(f"unknown logical axis {axis!r} in {axes}; known: {', '.join(table)}")
            mesh_axes = table[axis] if axis is not None else ()
            for mesh_axis in mesh_axes:
                if mesh_axis in used:
                    raise ValueError(
                        f"logical axes {used[mesh_axis]!r} and {axis!r} of {axes} both want mesh axis {mesh_axis!r}"
                    )
                used[mesh_axis] = str(axis)
            parts.append(mesh_axes if len(mesh_axes) > 1 else (mesh_axes[0] if mesh_axes else None))
        return PartitionSpec(*parts)

    def sharding(self, *axes: str | None) -> NamedSharding:
        """The NamedSharding of an array whose dimensions have these logical names."""
        return NamedSharding(self.mesh, self.spec(*axes))

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """`x`, held to the layout inside a compiled program. One name, or None, per dimension."""
        if len(axes) != x.ndim:
            raise ValueError(f"got {len(axes)} logical axes {axes} for an array of shape {x.shape}")
        return jax.lax.with_sharding_constraint(x, self.sharding(*axes))

    def parts(self, *axes: str | None) -> int:
        """Over how many shards an array with these logical axes is split."""
        named = jax.tree.leaves(tuple(self.spec(*axes)))
        return int(np.prod([self.mesh.shape[name] for name in named]))

    @property
    def batch_shards(self) -> int:
        """Over how many shards rows are split."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def on_cpu(self) -> bool:
        """Whether the mesh's devices are the host's own."""
        return are_host(self.mesh.devices.flat)


def are_host(devices: Iterable[Any]) -> bool:
    """Whether devices are the host's processors, whose memory is that of the process: all are, or none."""
    return bool(next(iter(devices)).platform == "cpu")


def fitting(mesh: MeshConfig, num_devices: int) -> tuple[MeshConfig, str]:
    """(a run's `mesh`, "") if it is one of so many devices; else one that is, and what to say of it.

    The other one keeps as much of the tensor axis as divides the devices.
    """
    try:
        mesh_shape(mesh, num_devices)
    except ConfigError:
        tensor = math.gcd(max(mesh.tensor, 1), num_devices)
        fsdp = num_devices // tensor
        took = f"mesh.data 1, mesh.fsdp {fsdp}, mesh.tensor {tensor}"
        return MeshConfig(1, fsdp, tensor), f"the run's mesh is not one of {num_devices} devices: taking {took}"
    return mesh, ""


def make_mesh(
    cfg: MeshConfig, devices: Sequence[jax.Device] | None = None, slice_of: topology.SliceOf | None = None
) -> Mesh:
    """A mesh (data, fsdp, tensor) over `devices` (default: all), in the order of topology.py.

    At most one size may be -1: it takes what is left.

    Args:
      slice_of: the number of a device's slice; None: what the device says.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices, or slices do not fit them.
    """
    devices = list(jax.devices() if devices is None else devices)
    array = topology.arrange(mesh_shape(cfg, len(devices)), devices, cfg.slices, slice_of)
    return Mesh(array, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def train_layout(mesh: Mesh) -> Layout:
    """Weights sharded over `fsdp` and `tensor`."""
    return Layout(mesh, TRAIN_RULES)


def decode_layout(mesh: Mesh) -> Layout:
    """Weights stationary: sharded over `tensor` alone."""
    return Layout(mesh, DECODE_RULES)


def param_shardings(boxed: Any, layout: Layout) -> Any:
    """The NamedSharding of each parameter, from the logical axes that its box carries.

    Args:
      boxed: parameters or their shapes as Flax returns them from `init`, in `nn.LogicallyPartitioned` boxes.
      layout: the rules to apply.

    Raises:
      ValueError: a dimension does not divide; names the parameter.
    """

    def one(path: Any, box: nn.LogicallyPartitioned) -> NamedSharding:
        sharding = layout.sharding(*box.names)
        try:
            sharding.shard_shape(box.value.shape)
        except ValueError as error:
            raise ValueError(
                f"parameter {jax.tree_util.keystr(path)} of shape {box.value.shape} with axes {box.names} does not "
                f"divide over mesh {dict(layout.mesh.shape)}"
            ) from error
        return sharding

    return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def like_params(tree: Any, shardings: Any, otherwise: NamedSharding) -> Any:
    """The sharding of each leaf of `tree`: that of the parameter whose path its own path ends with, else `otherwise`.

    An optimiser's state holds trees that mirror the parameters; this finds them whatever they are wrapped in.
    """
    known = {tuple(map(str, path)): s for path, s in jax.tree_util.tree_leaves_with_path(shardings)}

    def one(path: Any, leaf: Any) -> NamedSharding:
        keys = tuple(map(str, path))
        found = next((known[keys[i:]] for i in range(len(keys)) if keys[i:] in known), None)
        return found if found is not None and leaf.ndim == len(found.spec) else otherwise

    return jax.tree_util.tree_map_with_path(one, tree)
