# SPDX-License-Identifier: Apache-2.0
"""Every call that knows there may be several processes.

Each process reads its own rows of a batch; a global array is made of them. Process 0 alone writes files.
Deliberately not here: starting the processes, shardings (sharding.py).
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from t1jax.sharding import Layout


def is_main() -> bool:
    """Whether this process writes metrics, reports and messages."""
    return jax.process_index() == 0


def share() -> dict[str, int]:
    """Which part of each batch this process reads: the arguments that the streams of data.py take."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def global_batch(rows: Any, layout: Layout) -> Any:
    """A pytree of this process's rows (NumPy, first axis rows) as global arrays split over the batch axes."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(layout.sharding("batch"), x), rows)


def to_host(tree: Any) -> Any:
    """A pytree of global arrays as NumPy, whole on every process."""
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def shared_batch(rows: Any, layout: Layout) -> Any:
    """A pytree of rows that every process holds whole (NumPy), as global arrays split over the batch axes."""

    def one(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(x.shape, layout.sharding("batch"), lambda index: x[index])

    return jax.tree.map(one, rows)


def least(value: int) -> int:
    """The least of all processes' values, below 2**63. Gathered as bytes: JAX makes 32 bits of an int64."""
    return int(to_host(np.array([value], np.int64).view(np.uint8)).view(np.int64).min())


def greatest(value: int) -> int:
    """The greatest of all processes' values, below 2**31."""
    return value if jax.process_count() == 1 else int(np.max(to_host(np.array([value], np.int32))))


def barrier(name: str) -> None:
    """Waits until every process is here."""
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
