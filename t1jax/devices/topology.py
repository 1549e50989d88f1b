# SPDX-License-Identifier: Apache-2.0
"""Where each device stands in the mesh: neighbours along an axis near each other, slices of TPUs apart on `data`.

A TPU slice is a box of chips, each linked to the next along x, y and z; long enough a side, the last is linked to the
first. A ring along an axis of the mesh should go over few links. Slices, and they alone, are joined by the data-centre
network, which is 10 to 100 times slower than the links: only `data` may cross it.

Axes of the array: data, fsdp, tensor.
Source: jax.experimental.mesh_utils (create_device_mesh and create_hybrid_device_mesh); which sides are rings:
jax-ml.github.io/scaling-book/tpus.
Deliberately not here: the sharding rules (sharding.py), the processes (multihost.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from t1jax.config import ConfigError

Wrap = tuple[bool, bool, bool]  # whether the last chip along x, y, z is linked to the first
SliceOf = Callable[[Any], int]
FLAT = ("TPU v5 lite", "TPU v5e", "TPU v6 lite", "TPU v6e")  # kinds of device whose slices are cut from a 16 x 16 torus


def arrange(shape: tuple[int, int, int], devices: Sequence[Any], slices: int, slice_of: SliceOf | None = None) -> Any:
    """The devices as an array [data, fsdp, tensor] of `shape`.

    On CPUs and GPUs in the order given. On TPUs in rings, by mesh_utils, which may split a side of the slice between
    axes; it knows rings for some shapes only, so where the order given has fewer hops in all, that is kept. Of several
    slices each is arranged by itself, and they follow one another along `data`.

    Args:
      shape: (data, fsdp, tensor); its product is the number of devices.
      slices: mesh.slices; 0: as many as `slice_of` tells apart.
      slice_of: the number of a device's slice; None: what the device says (`told_slice`).

    Raises:
      ConfigError: there are not `slices` slices, they differ in size, fsdp or tensor would span them, or the TPUs of
        one are no whole box.
    """
    found = split(devices, slices, slice_of)
    data, fsdp, tensor = shape
    count = len(found)
    if data % count:
        raise ConfigError(
            f"mesh.data is {data} on {count} slices of {len(found[0])} devices, so mesh.fsdp = {fsdp} or mesh.tensor = "
            f"{tensor} would span slices; expected a multiple of {count}, as only data may cross the network between "
            f"them: set mesh.data={count}, and mesh.fsdp=-1 for the rest of a slice"
        )
    return np.concatenate([_ring((data // count, fsdp, tensor), one) for one in found])


def split(devices: Sequence[Any], slices: int, slice_of: SliceOf | None = None) -> list[list[Any]]:
    """The devices of each slice, slices by number, devices in the order given.

    Raises:
      ConfigError: there are not `slices` slices (0: any number will do), or they differ in size.
    """
    groups = defaultdict[int, list[Any]](list)
    for device in devices:
        groups[slice_of(device) if slice_of else told_slice(device, slices)].append(device)
    found = [groups[key] for key in sorted(groups)]
    if slices not in (0, len(found)):
        raise ConfigError(
            f"mesh.slices is {slices}, but the {len(devices)} devices are of {len(found)} "
            f"slice{'s' * (len(found) > 1)}, by their slice_index; expected {len(found)}, or 0 to go by that"
        )
    if len({len(one) for one in found}) > 1:
        sizes = ", ".join(f"slice {key}: {len(groups[key])}" for key in sorted(groups))
        raise ConfigError(f"the slices have different numbers of devices ({sizes}); expected the same of each")
    return found


def told_slice(device: Any, slices: int = 0) -> int:
    """The number of the slice that a device says it is of.

    A GPU or CPU says that of its machine, and axes of the mesh may span machines; it counts only if mesh.slices asks
    for several.
    """
    if device.platform != "tpu" and slices <= 1:
        return 0
    return int(getattr(device, "slice_index", None) or 0)


def _ring(shape: tuple[int, int, int], devices: Sequence[Any]) -> Any:
    """The devices of one slice as an array of `shape`."""
    given = np.asarray(devices).reshape(shape)
    if devices[0].platform != "tpu":
        return given
    try:
        ring = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except AssertionError as error:
        raise ConfigError(
            f"the {len(devices)} TPU devices are no whole box of chips ({' '.join(str(error).split())[:160]}); "
            "expected every chip of a slice, a device each: unset what hides some, such as TPU_VISIBLE_CHIPS"
        ) from error
    wrap = wraps(devices)
    return min(ring, given, key=lambda array: sum(x or 0.0 for x in hops(array, wrap)))


def wraps(devices: Sequence[Any]) -> Wrap:
    """Along which sides of a TPU slice the last chip is linked to the first.

    Of v5e and v6e along sides of 16, the whole torus that slices are cut from. Of other kinds along all, if every
    side is a multiple of 4: they are made of cubes, which switches join to a torus.
    """
    at = np.array([device.coords for device in devices])
    sides = at.max(0) - at.min(0) + 1
    flat = devices[0].device_kind in FLAT
    x, y, z = ((bool(side == 16) if flat else bool((sides % 4 == 0).all())) for side in sides)
    return x, y, z


def hops(array: Any, wrap: Wrap | None = None) -> tuple[float | None, float | None, float | None]:
    """Links between neighbours along each axis, on average, the last beside the first; None: no axis, or no links.

    Two devices on one chip are 0 hops apart. Neighbours in different slices, along `data`, are left out.

    Args:
      array: [data, fsdp, tensor] devices.
      wrap: sides of a slice that are rings; None: by `wraps`. Twisted tori count as plain ones.
    """
    flat = array.ravel()
    if flat[0].platform != "tpu":
        return None, None, None
    wrap = wraps(flat) if wrap is None else wrap
    least = np.min([device.coords for device in flat], axis=0)
    at = np.array([device.coords for device in flat]).reshape(*array.shape, 3) - least
    part = np.array([told_slice(device) for device in flat]).reshape(array.shape)
    sides = np.where(wrap, at.max((0, 1, 2)) + 1, 1 << 30)
    found: list[float | None] = []
    for axis, size in enumerate(array.shape):
        apart = np.abs(at - np.roll(at, -1, axis))
        links = np.minimum(apart, sides - apart).sum(-1)[part == np.roll(part, -1, axis)]
        found.append(float(links.mean()) if size > 1 and links.size else None)
    data, fsdp, tensor = found
    return data, fsdp, tensor
