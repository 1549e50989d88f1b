# SPDX-License-Identifier: Apache-2.0
"""Which devices exchange in a collective, from the text of its instruction, in any of the ways that XLA writes it.

    replica_groups={{0,1},{2,3}}                                       each group
    replica_groups=[2,4]<=[4,2]T(1,0)                                  8 devices, numbered, transposed, cut in 2 rows
    replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}   those that differ along the named axes only
    source_target_pairs={{0,1},{1,0}}                                  each pair

Devices are numbered by their place in the mesh, row by row.
Source: xla/hlo/ir/replica_group.h (openxla.org/xla).
Deliberately not here: what is exchanged (hlo.py).
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

Groups = tuple[tuple[int, ...], ...]
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[0-9,]+\}(?:,\{[0-9,]+\})*)\}")
_NUMBERED = re.compile(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([0-9,]+)\](?:T\(([0-9,]+)\))?\))? \{([^}]*)\}")


def groups(text: str) -> Groups:
    """The groups of devices that exchange with each other; none: all devices do, or the text does not say."""
    if found := _LISTED.search(text):
        return _rows([_numbers(one) for one in found[1].strip("{}").split("},{")])
    if found := _NUMBERED.search(text):
        return _rows(_ids(found[2], found[3]).reshape(_numbers(found[1])))
    if found := _MESH.search(text):
        axes = dict(part.split("=") for part in found[1].split(","))
        sizes = [int(size) for size in axes.values()]
        ids = _ids(found[2] or str(math.prod(sizes)), found[3]).reshape(sizes)
        named = [list(axes).index(name.strip()) for name in found[4].split(",")]
        last = range(len(sizes) - len(named), len(sizes))
        return _rows(np.moveaxis(ids, named, last).reshape(-1, math.prod(sizes[axis] for axis in named)))
    return ()


def _ids(dims: str, transposed: str | None) -> Any:
    """0, 1, 2, ... in an array of these dimensions, transposed."""
    sizes = _numbers(dims)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(_numbers(transposed)) if transposed else ids


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _rows(array: Any) -> Groups:
    return tuple(tuple(int(device) for device in row) for row in array)
