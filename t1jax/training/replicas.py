# SPDX-License-Identifier: Apache-2.0
"""Devices that must hold the same do hold the same: compared by digests, before the first step of a start.

Where several devices hold the same part of an array (the batch over `tensor`, parameters over `data`), a program takes
for granted that their bytes are equal. Processes that hand in different rows break that without any error. So each
device adds up the bits of what it holds, and one exchange of these sums tells every process who differs from whom.
Deliberately not here: what is handed in (multihost.py), what a wrong batch does to later numbers (health.py).
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from t1jax.devices import multihost
from t1jax.host.stopping import EXIT_FAILED, Stopped

BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes of an element
ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0x6C62272F)  # a dimension each: large, odd


def refuse_different(mesh: Mesh, **trees: Any) -> None:
    """Compares what the devices of `mesh` hold of global arrays. All processes make the call and get the same answer.

    Args:
      trees: pytrees of arrays sharded over `mesh`, by the name that a message gives them.

    Raises:
      Stopped: devices differ where they must not; names the array and the processes.
    """
    if mesh.size == 1:
        return
    named = [(name + jax.tree_util.keystr(path), x) for name, tree in trees.items() for path, x in _leaves(tree)]
    specs = [x.sharding.spec for _, x in named]
    digests = multihost.to_host(_digests(mesh, *specs)(*(x for _, x in named)))
    for (name, x), of_devices in zip(named, digests.T, strict=True):
        holders: dict[Any, dict[int, jax.Device]] = defaultdict(dict)  # part of the array -> digest -> a holder
        where = x.sharding.devices_indices_map(x.shape)
        for device, digest in zip(mesh.devices.flat, of_devices, strict=True):
            part = tuple(each.indices(size)[:2] for each, size in zip(where[device], x.shape, strict=True))
            holders[part].setdefault(int(digest), device)
        for part, found in holders.items():
            if len(found) > 1:
                raise Stopped(_message(name, x.shape, part, list(found.values())), EXIT_FAILED)


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


@lru_cache(maxsize=8)
def _digests(mesh: Mesh, *specs: PartitionSpec) -> Any:
    """(arrays with these specs) -> uint32[devices, arrays], in the order of `mesh.devices.flat`."""

    def local(*parts: jax.Array) -> jax.Array:
        return jnp.stack([_digest(x) for x in parts])[None]

    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(mesh.axis_names), check_vma=False)
    )


def _digest(x: jax.Array) -> jax.Array:
    """uint32[] that depends on every bit of `x` and on where it stands: one pass, nothing beside it in memory."""
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    bits = jax.lax.bitcast_convert_type(x, BITS[x.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.uint32(0)
    for axis, odd in zip(range(x.ndim), ODD, strict=False):
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(odd)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


def _message(name: str, shape: tuple[int, ...], part: Any, holders: list[jax.Device]) -> str:
    where = f"[{', '.join(f'{begin}:{end}' for begin, end in part)}]"
    who = " and ".join(f"device {device.id} of process {device.process_index}" for device in holders)
    return (
        f"{name}, of shape {list(shape)}: {who} hold different {where}; expected the same bytes. Nothing was trained "
        "on them: give all processes the same command, files and versions, and start again; if it comes back, a device "
        "or its memory is at fault"
    )
