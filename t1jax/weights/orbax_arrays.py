# SPDX-License-Identifier: Apache-2.0
"""Arrays of an Orbax folder, read and written a piece at a time: neither way holds a whole array in memory.

Where: WEIGHTS -> prompts -> rollouts -> ... -> report -> WEIGHTS. What is written here is an ordinary Orbax PyTree
(`ocp.StandardCheckpointer().restore` reads it), in chunks of at most CHUNK bytes and one layer, so that a process that
restores a shard reads little else.
Deliberately not here: what the arrays mean (weights/load.py), checkpoints of a run (checkpoint.py).
"""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from t1jax.config import ConfigError

CHUNK = 8 << 20  # bytes of a chunk on disk, before compression: what the smallest read costs
AHEAD = 2  # pieces that are being written while the next one is made
CACHE = 256 << 20  # bytes of chunks kept decoded: chunks that hold several layers are asked for once a layer

Index = tuple[slice, ...]
KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class NewArray:
    """An array to be written: `pieces(chunk)` gives its parts, whole in chunks of that shape, each part once."""

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Callable[[tuple[int, ...]], Iterator[tuple[Index, np.ndarray]]]

    @property
    def size(self) -> int:
        """Elements; Orbax asks for it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class StoredArray:
    """An array of an Orbax folder, not read yet."""

    name: str
    folder: Path
    store: Any  # a ts.TensorStore

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.store.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.store.dtype.numpy_dtype)

    def where(self, layer: int | None) -> str:
        """The folder and the name, for errors."""
        return f"{self.folder}: {self.name}" + ("" if layer is None else f", layer {layer}")

    def read(self, index: Index) -> np.ndarray:
        """A part of the array; only the chunks that hold it are read.

        Raises:
          ConfigError: the files are damaged.
        """
        try:
            return self.store[index].read().result()
        except ValueError as error:  # tensorstore's for everything that storage can do wrong
            raise _damaged(self.folder, self.name, error) from error


def open_arrays(folder: Path, below: str = "") -> dict[KeyPath, StoredArray]:
    """The arrays of an Orbax folder by key path; with `below`, those under this key, without it. No data is read.

    Raises:
      ConfigError: the folder is no such thing or damaged.
    """
    try:
        tree = ocp.StandardCheckpointHandler().metadata(folder.absolute()).tree
    except Exception as error:  # a damaged folder makes Orbax raise anything; all of it means the same
        raise _damaged(folder, "its list of arrays", error) from error
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE}})
    base = {"driver": "file", "path": f"{folder.absolute()}/"}
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
            raise _damaged(folder, name, error) from error
        opened[path[1:] if below else path] = StoredArray(name, folder, store)
    return opened


def write_arrays(folder: Path, arrays: Mapping[KeyPath, NewArray]) -> None:
    """Writes the arrays as an Orbax PyTree in a new folder, one after the other; all is on disk on return.

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
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # it warns where the latter is missing
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        args = ocp.args.PyTreeSave(tree, save_args=save_args(tree))
        checkpointer.save(folder.absolute(), args=args)


def save_args(tree: Any) -> Any:
    """Orbax's arguments that save each array of the tree in chunks of at most CHUNK bytes and, of what is stacked below
    "layers", of one layer: whoever reads a layer does not read the others."""

    def one(keys: Any, _: Any) -> ocp.SaveArgs:
        stacked = any(getattr(key, "key", None) == "layers" for key in keys)
        return ocp.SaveArgs(shard_axes=(0,) if stacked else (), chunk_byte_size=CHUNK)

    return jax.tree_util.tree_map_with_path(one, tree)


class _Streaming(ocp.type_handlers.NumpyHandler):
    """Writes NewArrays as Orbax writes np.ndarrays, but piece by piece and one array at a time, in this thread."""

    async def serialize(
        self, values: Sequence[NewArray], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        for value, info, arg in zip(values, infos, args or [ocp.SaveArgs()] * len(values), strict=True):
            await self._background_serialize([value], [info], [arg])
        return []  # nothing is left to wait for

    async def _open_and_write(self, value: NewArray, tspec: dict[str, Any], ts_context: ts.Context) -> None:
        """Orbax's hook, called with where and in what chunks the array belongs."""
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
            for write in under_way:  # after an error: nobody writes here any more when it is told
                write.exception()


def _wait(write: Any) -> None:
    """Until it is on disk. (Not awaited: Ctrl-C is then raised here, and not in the event loop.)"""
    try:
        write.result()
    except ValueError as error:
        raise _os_error(error) from error


def _os_error(error: ValueError) -> OSError:
    """What the system said, out of tensorstore's long text."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(error))


def _damaged(folder: Path, what: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(f"{folder}: cannot read {what}: {type(error).__name__}: {reason}; expected a whole Orbax folder")
