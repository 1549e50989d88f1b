# SPDX-License-Identifier: Apache-2.0
"""Writes safetensors files as a stream of pieces after the header: the library needs a whole shard in memory.

Where: on export.
Deliberately not here: reading them (safetensors_files.py), names and shapes (tensor_table.py).
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t1jax.host import bucket, files
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place
from t1jax.weights.safetensors_files import DTYPES, INDEX, SINGLE


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write. `pieces()` yields its bytes in order, as contiguous arrays of any shape."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def shards(tensors: Sequence[NewTensor], max_bytes: int) -> list[list[NewTensor]]:
    """Splits tensors, in order, into shards of at most `max_bytes` of data; a larger tensor gets its own shard."""
    parts: list[list[NewTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if parts[-1] and filled + tensor.nbytes > max_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(tensor)
        filled += tensor.nbytes
    return parts


def write_tensors(folder: Place, tensors: Sequence[NewTensor], max_bytes: int) -> None:
    """Writes model.safetensors, or shards of at most `max_bytes` of data and their index.

    Holds one piece in memory at a time. Everything is on disk on return.

    Raises:
      OSError: the disk is full, or the folder cannot be written.
      ValueError: the pieces of a tensor do not add up to its shape.
    """
    parts = shards(tensors, max_bytes)
    names = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    if len(parts) == 1:
        names = [SINGLE]
    for name, part in zip(names, parts, strict=True):
        write_shard(folder / name, part)
    if len(parts) > 1:
        weight_map = {tensor.name: name for name, part in zip(names, parts, strict=True) for tensor in part}
        total = sum(tensor.nbytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        files.write_bytes(folder / INDEX, json.dumps(index, indent=2).encode() + b"\n")


def write_shard(path: Place, tensors: Sequence[NewTensor]) -> None:
    """Writes one safetensors file. Raises as `write_tensors`."""
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        span = [at, at + tensor.nbytes]
        header[tensor.name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the data
    with bucket.told(path), path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            written = 0
            for piece in tensor.pieces():
                written += file.write(piece.view(np.uint8).data)
            if written != tensor.nbytes:
                raise ValueError(f"{tensor.name} has {written} bytes; expected {tensor.nbytes} for {tensor.shape}")
        if not isinstance(path, Bucket):
            file.flush()
            os.fsync(file.fileno())
