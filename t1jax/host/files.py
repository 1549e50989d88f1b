# SPDX-License-Identifier: Apache-2.0
"""Atomic file writes, and conversion of values to JSON.

A reader never sees a partial file: the bytes are written to a temporary file beside the target, synced to disk, and
renamed. A process killed in between leaves the old file unchanged. An object in a bucket is put whole.
Deliberately not here: what the files say (metrics.py, run_page.py), checkpoints (checkpoint.py).
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from t1jax.host import place
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place


def write_bytes(path: str | Place, content: bytes) -> Place:
    """Replaces `path` with `content`, atomically; makes the folder if need be."""
    path = place.of(path, "path")
    if isinstance(path, Bucket):
        path.write_bytes(content)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def sweep(folder: Place) -> None:
    """Removes what killed writers left beside their targets, in `folder` and below. Nobody may be writing there."""
    if isinstance(folder, Bucket):  # nothing is left half-written there
        return
    for path in folder.rglob(".*.[0-9]*.tmp"):
        path.unlink(missing_ok=True)


def shrink(folder: Place, most: int) -> None:
    """Deletes the oldest files in a local `folder` until the others take at most `most` bytes."""
    if isinstance(folder, Bucket):
        return
    newest = sorted(folder.glob("*"), key=lambda path: path.lstat().st_mtime, reverse=True)
    for path in newest:
        most -= path.lstat().st_size
        if most < 0 and path.is_file():
            path.unlink(missing_ok=True)


def sizes(folder: Place, pattern: str) -> dict[Place, int]:
    """Bytes of each file in `folder` and below whose name matches."""
    if isinstance(folder, Bucket):
        return {path: size for path, size in folder.sizes().items() if fnmatch.fnmatchcase(path.name, pattern)}
    return {path: path.stat().st_size for path in folder.rglob(pattern)}


def write_text(path: str | Place, text: str) -> Place:
    """Replaces `path` with `text` in UTF-8, atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Place, tree: Any) -> Place:
    """Replaces `path` with `tree` as indented JSON in ASCII (inert on a terminal), atomically; see `json_ready`."""
    return write_text(path, json.dumps(json_ready(tree), indent=2, allow_nan=False) + "\n")


def json_ready(tree: Any) -> Any:
    """`tree` made of plain dicts, lists, strings, numbers, booleans and None. NaN and infinities become None.

    Takes NumPy and JAX values; a float32 keeps its own shortest form (0.1, not 0.10000000149011612).
    """
    if tree is None or isinstance(tree, str | bool | int):
        return tree
    if isinstance(tree, float):
        return float(tree) if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {str(key): json_ready(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple | set | frozenset):
        return [json_ready(value) for value in tree]
    if isinstance(tree, os.PathLike):
        return os.fspath(tree)
    array = np.asarray(tree)
    if array.dtype == object:
        raise TypeError(f"got a {type(tree).__name__}, expected something that JSON can hold")
    if array.ndim > 0:
        return [json_ready(value) for value in array]
    if array.dtype.kind in "biuSU":
        return array.item()
    number = float(array)
    if not math.isfinite(number):
        return None
    return number if array.dtype == np.float64 else float(str(array.astype(np.float32)))
