# SPDX-License-Identifier: Apache-2.0
"""Every function that depends on the number of processes.

Every process builds the whole batch, and each of its devices takes the rows of its shard. So processes that hold the
same shard, because a tensor group spans them, supply the same rows, whatever the order of devices in the mesh. Only
process 0 writes files.
Deliberately not here: starting the processes, shardings (sharding.py), whether replicas agree (replicas.py).
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from t1jax.devices.sharding import Layout

SHOWN = 4  # shards that a line names
LONGEST = 240  # bytes of what a process tells the others
Feeders = tuple[tuple[int, ...], ...]  # of each shard of the batch, in the order of the rows: processes


def is_main() -> bool:
    """Whether this process writes metrics, reports and messages."""
    return jax.process_index() == 0


def global_batch(rows: Any, layout: Layout) -> Any:
    """A pytree of all rows of a batch (NumPy, the same on every process) as global arrays split over the batch axes."""

    def one(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(x.shape, layout.sharding("batch"), lambda index: x[index])

    return jax.tree.map(one, rows)


def feeders(layout: Layout, process_of: Callable[[Any], int] = lambda device: device.process_index) -> Feeders:
    """Which processes feed each shard of the batch: those that have a device which holds it."""
    found = defaultdict[int, set[int]](set)
    held: Mapping[Any, Any] = layout.sharding("batch").devices_indices_map((layout.batch_shards,))
    for device, (rows,) in held.items():
        found[rows.start or 0].add(process_of(device))
    return tuple(tuple(sorted(found[shard])) for shard in sorted(found))


def askers(layout: Layout, process_of: Callable[[Any], int] = lambda device: device.process_index) -> np.ndarray:
    """int32[data, fsdp]: of each shard of the batch the place along `tensor` of the device that asks the host about it.

    The first whose process has been given the fewest shards: a tensor group may span processes, and in rings of a slice
    the first devices of all groups may be on a few machines.
    """
    devices = layout.mesh.devices
    found, given = np.zeros(devices.shape[:2], np.int32), defaultdict[int, int](int)
    for shard in np.ndindex(found.shape):
        processes = [process_of(device) for device in devices[shard]]
        found[shard] = min(range(len(processes)), key=lambda place: given[processes[place]])
        given[processes[found[shard]]] += 1
    return found


def describe(fed: Feeders) -> str:
    """`feeders` in words: a line."""
    count = len({process for shard in fed for process in shard})
    most = max(map(len, fed))
    who = f"{len(fed)} shard{'s' * (len(fed) > 1)} of the batch, {count} process{'es' * (count > 1)}"
    if count == 1:
        return who
    listed = [f"{shard} from {' '.join(map(str, processes))}" for shard, processes in enumerate(fed[:SHOWN])]
    more = f" and so on to {len(fed) - 1}" if len(fed) > SHOWN else ""
    same = f"; a shard is fed by up to {most} processes, the same rows from each" if most > 1 else ""
    return f"{who}{same}: {', '.join(listed)}{more}"


def to_host(tree: Any) -> Any:
    """A pytree of global arrays as NumPy, whole on every process."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def divided(ask: Callable[[slice], Sequence[float]], count: int, kind: type = np.int32) -> list[Any]:
    """What `ask` says of each of `count` things; over all processes each is asked about once.

    Args:
      ask: given a slice of them, answers for those. All processes make the call, with the same things.
      kind: of the answers: int32, uint32 or float32.
    """
    if not count:
        return []
    processes = jax.process_count()
    mine: Any = np.zeros(-(-count // processes), kind)
    answers: Any = np.asarray(ask(slice(jax.process_index(), count, processes)), kind)
    mine[: len(answers)] = answers
    return to_host(mine).reshape(processes, -1).T.ravel()[:count].tolist()


def different(values: Mapping[str, Any]) -> list[str]:
    """The names of JSON values that are not the same on all processes, which give the same names."""
    mine = np.array([zlib.crc32(json.dumps(value, sort_keys=True).encode()) for value in values.values()], np.uint32)
    all_of_them = to_host(mine).reshape(jax.process_count(), -1)
    return [name for name, same in zip(values, (all_of_them == mine).all(0), strict=True) if not same]


def least(value: int) -> int:
    """The least of all processes' values, below 2**63. Gathered as bytes: JAX makes 32 bits of an int64."""
    return int(to_host(np.array([value], np.int64).view(np.uint8)).view(np.int64).min())


def greatest(value: int) -> int:
    """The greatest of all processes' values, below 2**31."""
    return value if jax.process_count() == 1 else int(np.max(to_host(np.array([value], np.int32))))


def agreed(why: str) -> str:
    """What went wrong on this process or others, "" where nothing did: the same on every process, which all ask.

    Args:
      why: what went wrong here, of which LONGEST bytes are told; "": nothing.
    """
    if jax.process_count() == 1:
        return why
    mine = np.zeros(LONGEST, np.uint8)
    content = np.frombuffer(why.encode()[:LONGEST], np.uint8)
    mine[: len(content)] = content
    said = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in to_host(mine).reshape(-1, LONGEST)]
    return "; ".join(f"process {index}: {words}" for index, words in enumerate(said) if words)


def barrier(name: str) -> None:
    """Waits until every process is here."""
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
