# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the arrays of an Orbax folder in pieces, so that no whole array is held in memory.

Where: before the prompts, and on export. The output is an ordinary Orbax PyTree, which
`ocp.StandardCheckpointer().restore` can read, in chunks of at most CHUNK bytes and one layer, so that a process that
restores a shard reads little else.
Deliberately not here: what the arrays mean (load.py), checkpoints of a run (checkpoint.py).
"""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from t1jax.config import ConfigError
from t1jax.host import bucket
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place
from t1jax.model.parameters import stacked

CHUNK = 8 << 20  # bytes of a chunk on disk, before compression: the cost of the smallest read
AHEAD = 2  # pieces being written while the next one is prepared
CACHE = 256 << 20  # bytes of decoded chunks that are cached: a chunk with several layers is read once per layer

Index = tuple[slice, ...]
KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class NewArray:
    """An array to write. `pieces(chunk)` yields (index, part) for all of it, in whole chunks of shape `chunk`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Callable[[tuple[int, ...]], Iterator[tuple[Index, np.ndarray]]]

    @property
    def size(self) -> int:
        """Number of elements, which Orbax reads."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StoredArray:
    """An array of an Orbax folder that has not been read."""

    name: str
    folder: Place
    store: Any  # a ts.TensorStore

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.store.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.store.dtype.numpy_dtype)

    def where(self, at: tuple[int, ...]) -> str:
        """The folder and the array's name, for error messages. `at`: which layer, and which of its experts."""
        return f"{self.folder}: {self.name}" + "".join(
            f", {what} {n}" for what, n in zip(("layer", "expert"), at, strict=False)
        )

    def read(self, index: Index) -> np.ndarray:
        """A slice of the array; reads only the chunks that contain it.

        Raises:
          ConfigError: the files are damaged.
        """
        try:
            return self.store[index].read().result()
        except ValueError as error:  # tensorstore raises it for every storage error
            bucket.raise_not_served(self.folder, error)
            raise _damaged(self.folder, self.name, error) from error


def open_arrays(folder: Place, below: str = "") -> dict[KeyPath, StoredArray]:
    """The arrays of an Orbax folder by key path; with `below`, those under this key, relative to it. Reads no data.

    Raises:
      ConfigError: this is not an Orbax folder, or it is damaged.
    """
    try:
        tree = ocp.StandardCheckpointHandler().metadata(epath.Path(os.fspath(folder.absolute()))).tree
    except Exception as error:  # Orbax raises all kinds of errors for a damaged folder
        bucket.raise_not_served(folder, error)
        raise _damaged(folder, "its list of arrays", error) from error
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE}})
    base: Any = {"driver": "file", "path": f"{folder.absolute()}/"}
    if isinstance(folder, Bucket):
        base = {"driver": "gcs", "bucket": folder.bucket, "path": f"{folder.key}/"}
    opened = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = tuple(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys)
        if (below and path[0] != below) or leaf is None:
            continue
        name = ".".join(path)
        spec = {"driver": "zarr", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
        try:
            store = ts.open(spec, open=True, read=True, context=context).result()
        except ValueError as error:
            bucket.raise_not_served(folder, error)
            raise _damaged(folder, name, error) from error
        opened[path[1:] if below else path] = StoredArray(name, folder, store)
    return opened


def write_arrays(folder: Place, arrays: Mapping[KeyPath, NewArray]) -> None:
    """Writes arrays as an Orbax PyTree to a new folder, one after another. Everything is on disk on return.

    Raises:
      OSError: the disk is full, or the folder cannot be written.
    """
    tree: dict[str, Any] = {}
    for (*parents, last), array in arrays.items():
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = array

    registry = ocp.type_handlers.create_type_handler_registry(
        (NewArray, _Streaming()),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # Orbax warns without a handler for jax.Array
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        args = ocp.args.PyTreeSave(tree, save_args=save_args(tree))
        with bucket.told(folder):
            checkpointer.save(os.fspath(folder.absolute()), args=args)


def save_args(tree: Any) -> Any:
    """Orbax arguments to save each array in chunks of at most CHUNK bytes. Chunks of arrays under "layers" have a
    single layer, and a single expert, so that reading one layer does not read the others."""

    def one(keys: Any, _: Any) -> ocp.SaveArgs:
        path = [str(getattr(key, "key", "")) for key in keys]
        below = path[path.index("layers") :] if "layers" in path else [""]
        return ocp.SaveArgs(shard_axes=tuple(range(stacked(tuple(below)))), chunk_byte_size=CHUNK)

    return jax.tree_util.tree_map_with_path(one, tree)


class _Streaming(ocp.type_handlers.NumpyHandler):
    """Writes NewArrays as Orbax writes NumPy arrays, but in pieces, one array at a time, and in this thread."""

    async def serialize(
        self, values: Sequence[NewArray], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        for value, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
            await self._background_serialize([value], [info], [arg])
        return []  # nothing is left to wait for

    async def _open_and_write(self, value: NewArray, tspec: dict[str, Any], ts_context: ts.Context) -> None:
        """A hook of Orbax; `tspec` says where the array goes and how it is chunked."""
        store: Any
        try:
            store = ts.open(ts.Spec(tspec), create=True, open=True, context=ts_context).result()
        except ValueError as error:
            raise _os_error(error) from error
        under_way: deque[Any] = deque()
        try:
            for index, piece in value.pieces(tuple(store.chunk_layout.write_chunk.shape)):
                under_way.append(store[index].write(piece, can_reference_source_data_indefinitely=True))
                if len(under_way) > AHEAD:
                    _wait(under_way.popleft())
            while under_way:
                _wait(under_way.popleft())
        finally:
            for write in under_way:  # after an error: finish all writes before it is raised
                write.exception()


def _wait(write: Any) -> None:
    """Blocks until the piece is on disk. Not awaited, so that Ctrl-C is raised here and not in the event loop."""
    try:
        write.result()
    except ValueError as error:
        raise _os_error(error) from error


def _os_error(error: ValueError) -> OSError:
    """The operating system's error, extracted from tensorstore's long message."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(error))


def _damaged(folder: Place, what: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(f"{folder}: cannot read {what}: {type(error).__name__}: {reason}; expected a whole Orbax folder")
