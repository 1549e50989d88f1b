# SPDX-License-Identifier: Apache-2.0
"""Reads safetensors files in pieces; every header is checked before any data is used.

Where: before the prompts, and on export. Tensors are read by memory mapping, so that a slice costs only its own pages.
(The safetensors library checks the files too, and in tests those that are written.)
Source: https://github.com/huggingface/safetensors#format, and model.safetensors.index.json as transformers writes it.
Deliberately not here: which tensors a model has (tensor_table.py), where they go (load.py), writing
(safetensors_writing.py).
"""

from __future__ import annotations

import functools
import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from t1jax.config import ConfigError
from t1jax.host import bucket
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place

DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON = 16 << 20  # largest header or index, bytes; a shard of a 72B model has 100 kB
MAX_SIZE = 2**63 - 1  # largest axis, and largest file in bytes
MAX_AXES = 8
LISTED = 5  # names shown in an error
SHORT = reprlib.Repr()
SHORT.maxstring = 120  # shows real tensor names in full, but cuts hostile ones


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file that has not been read."""

    name: str
    file: Place
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file

    def view(self) -> np.ndarray:
        """The tensor as a read-only memory map. Drop it soon: pages that were read stay resident while it lives.

        From a bucket the whole tensor is read; the last few are kept.
        """
        if isinstance(self.file, Bucket):
            return _fetch(self.file, self.offset, self.dtype, self.shape)
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


@functools.lru_cache(maxsize=4)
def _fetch(file: Bucket, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a bucket."""
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer(file.read_bytes(offset, offset + size) if size else b"", dtype).reshape(shape)


def several(names: Iterable[str]) -> str:
    """The first few names and the number of others, for errors; safe for any name that a file may contain."""
    listed = sorted(names)
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(SHORT.repr(name) for name in listed[:LISTED]) + more


def open_tensors(folder: Place) -> dict[str, StoredTensor]:
    """The tensors of model.safetensors, or of the shards in its index, by name. Reads only headers.

    Raises:
      ConfigError: a file is missing, unexpected, damaged or outside the folder, or index and shards disagree.
    """
    weight_map = _read_index(folder / INDEX) if (folder / INDEX).exists() else None
    files = {SINGLE} if weight_map is None else set(weight_map.values())
    listed = f"{INDEX} names" if weight_map is not None else f"{SINGLE}, as there is no {INDEX}, is"
    present = {path.name for path in folder.glob("*.safetensors")}
    if missing := files - present:
        raise ConfigError(f"{folder} has no {several(missing)}; expected the files that {listed}; download it again")
    if extra := present - files:
        raise ConfigError(f"{folder} has {several(extra)} too; expected only what {listed}; move the others away")
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(files):
        for tensor in read_header(inside(folder, name)):
            if tensor.name in tensors:
                raise ConfigError(
                    f"{tensor.file} and {tensors[tensor.name].file.name} both hold {several([tensor.name])}; "
                    "expected each tensor once"
                )
            tensors[tensor.name] = tensor
    if weight_map is not None:
        _compare(folder, weight_map, tensors)
    return tensors


def _compare(folder: Place, weight_map: dict[str, str], tensors: dict[str, StoredTensor]) -> None:
    """ConfigError unless index and shards list the same tensors, in the same files."""
    where = folder / INDEX
    if missing := weight_map.keys() - tensors.keys():
        raise ConfigError(f"{where} names {several(missing)}, which no shard holds; download the folder again")
    if extra := tensors.keys() - weight_map.keys():
        raise ConfigError(f"{where} lacks {several(extra)}, which a shard holds; download the folder again")
    if moved := [name for name, file in weight_map.items() if tensors[name].file.name != file]:
        found = tensors[moved[0]].file.name
        raise ConfigError(f"{where} says {several(moved[:1])} is in {weight_map[moved[0]]}; found it in {found}")


def _read_index(path: Place) -> dict[str, str]:
    """The index's weight_map: tensor name -> name of a file in the same folder."""
    with _reading(path) as file:
        content = file.read(MAX_JSON + 1)
    if len(content) > MAX_JSON:
        raise ConfigError(f"{path} has more than {MAX_JSON} bytes; expected an index of at most that")
    weight_map = _json(content, f"{path}").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{path}: weight_map is {SHORT.repr(weight_map)}; expected an object tensor -> file")
    for name, file in weight_map.items():
        if not isinstance(file, str) or file in (".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise ConfigError(
                f"{path}: {several([name])} is in {SHORT.repr(file)}; expected the name of a file in this folder"
            )
        if not file.endswith(".safetensors"):
            raise ConfigError(f"{path}: {several([name])} is in {SHORT.repr(file)}; expected a *.safetensors file")
    return weight_map


def inside(folder: Place, name: str) -> Place:
    """The path of a file in `folder`. Links may only point into the folder, or to blobs of the Hugging Face cache.

    Raises:
      ConfigError: it is a link to somewhere else.
    """
    if isinstance(folder, Bucket):  # which has no links
        return folder / name
    whole, real = folder.resolve(), (folder / name).resolve()
    allowed = [whole]
    if whole.parent.name == "snapshots":  # CACHE/MODEL/snapshots/REVISION/file -> CACHE/MODEL/blobs/HASH
        model = whole.parent.parent
        allowed += [model / "blobs", model.parent / "blobs" / real.parent.name]  # -> CACHE/blobs/PREFIX/HASH
    if real.parent not in allowed:
        raise ConfigError(f"{folder / name} is a link to {real}; expected a file inside {folder}")
    return folder / name


def read_header(path: Place) -> list[StoredTensor]:
    """The tensors in a safetensors file's header, checked against the format and the file's size."""
    with bucket.told(path), _reading(path) as file:
        size = path.stat().st_size
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > size - 8:
            raise ConfigError(
                f"{path}: the header ends at byte {8 + length}, the file at {size}; expected a whole file; get it again"
            )
        if length > MAX_JSON:
            raise ConfigError(f"{path}: the header has {length} bytes; expected at most {MAX_JSON}")
        header = _json(file.read(length), f"{path}: the header")
    start = 8 + length
    header.pop("__metadata__", None)
    spans = []
    for name, entry in header.items():
        where = f"{path}: tensor {several([name])}"
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
                pass
            case _:
                raise ConfigError(f"{where} is {SHORT.repr(entry)}; expected dtype, shape and data_offsets")
        if dtype not in DTYPES:
            raise ConfigError(f"{where} has dtype {SHORT.repr(dtype)}; expected one of {', '.join(DTYPES)}")
        if len(shape) > MAX_AXES or not all(type(n) is int and 0 <= n <= MAX_SIZE for n in shape):
            raise ConfigError(
                f"{where} has shape {SHORT.repr(shape)}; expected whole numbers, none negative; at most {MAX_AXES}"
            )
        if not 0 <= begin <= end <= MAX_SIZE:
            raise ConfigError(f"{where} has data_offsets {SHORT.repr([begin, end])}; expected where it begins and ends")
        expected = math.prod(shape) * DTYPES[dtype].itemsize
        if end - begin != expected:
            raise ConfigError(
                f"{where} has {end - begin} bytes; expected {expected} for shape {SHORT.repr(shape)} of {dtype}"
            )
        spans.append((begin, end, StoredTensor(name, path, DTYPES[dtype], tuple(shape), start + begin)))
    reached = 0
    for begin, end, tensor in sorted(spans, key=lambda span: span[:2]):
        if begin != reached:
            raise ConfigError(
                f"{path}: tensor {several([tensor.name])} begins at data byte {begin}; expected {reached}, where the "
                f"tensor before it ends: they {'overlap' if begin < reached else 'leave a gap'}"
            )
        reached = end
    if start + reached != size:
        raise ConfigError(f"{path} has {size} bytes; expected {start + reached} by its header; get it again")
    if isinstance(path, Bucket):
        return [tensor for _, _, tensor in spans]
    try:
        with safe_open(path, framework="numpy"):  # whatever else the format's own library rejects
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: {error}; expected a safetensors file") from error
    return [tensor for _, _, tensor in spans]


def _reading(path: Place) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file that can be read") from error


def _json(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object without duplicate keys at any depth."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ConfigError(f"{what} names {several([twice])} twice; expected each key once")
        return keys

    try:
        found = json.loads(content, object_pairs_hook=unique)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} is not JSON: {str(error)[:200]}; expected a JSON object") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{what} is {SHORT.repr(found)}; expected a JSON object")
    return found
