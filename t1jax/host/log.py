# SPDX-License-Identifier: Apache-2.0
"""Files of lines that grow: a file, or in a bucket, where nothing can be appended to, parts of it.

A part is an object PATH-000000, PATH-000001, ..., put whole at each `sync`, so that what a reader joins are whole
lines. Lines are dropped part by part; doing that again after a kill ends the same.
Deliberately not here: what the lines say (metrics.py, evaluation/journal.py).
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from typing import Any

from t1jax.host import bucket, files
from t1jax.host.bucket import Bucket
from t1jax.host.place import Place

DIGITS = "[0-9]" * 6


class Log:
    """Adds lines to the file at `path`. One process at a time."""

    def __init__(self, path: Place) -> None:
        self._path = path
        self._file: Any = None
        self._waiting = b""  # of a bucket: what the next part will hold
        self._next = 0
        if isinstance(path, Bucket):
            self._next = max((int(part.name[-6:]) for part in parts(path) if part != path), default=-1) + 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")

    def write(self, lines: bytes) -> None:
        """Adds whole lines; local readers see them when this returns."""
        if self._file is None:
            self._waiting += lines
        else:
            self._file.write(lines)
            self._file.flush()

    def sync(self) -> None:
        """Returns when all lines are on the disk, or in the bucket.

        Raises:
          Unreachable: they could not be put there; they are kept for the next call.
        """
        if self._file is not None:
            os.fsync(self._file.fileno())
        elif self._waiting:
            lines = self._waiting  # others may come meanwhile: checkpoint.grace_seconds saves from a thread of its own
            files.write_bytes(self._path.with_name(f"{self._path.name}-{self._next:06d}"), lines)
            self._waiting, self._next = self._waiting[len(lines) :], self._next + 1

    def close(self) -> None:
        """Writes what is still in memory."""
        if self._file is not None:
            self._file.close()
        else:
            self.sync()


def parts(path: Place) -> list[Place]:
    """The files that the lines at `path` are in, in order; none where there are no lines yet.

    In a bucket the first may be an object put whole, such as a file of a local run that was copied there.
    """
    if isinstance(path, Bucket):
        near = sorted(path.parent.iterdir())
        return [each for each in near if each == path or fnmatch.fnmatchcase(each.name, f"{path.name}-{DIGITS}")]
    return [path] if path.exists() else []


def exists(path: Place) -> bool:
    """Whether anything was written at `path`."""
    return bool(parts(path))


def read(path: Place) -> bytes:
    """All that stands at `path`; of a bucket many parts at a time."""
    found = parts(path)
    if not isinstance(path, Bucket) or not found:
        return b"".join(part.read_bytes() for part in found)
    with bucket.told(path):
        contents = bucket.storage().cat([os.fspath(part) for part in found])
    return b"".join(contents[name] for name in sorted(contents))


def lines(path: Place) -> Iterator[bytes]:
    """The lines at `path`, one after another; the last may be torn."""
    for part in parts(path):
        with bucket.told(part), part.open("rb") as file:
            yield from file


def find(folder: Place, pattern: str) -> list[Place]:
    """The paths in `folder`, as for `read`, that match."""
    found = {*folder.glob(pattern)}
    if isinstance(folder, Bucket):
        found |= {part.with_name(part.name[:-7]) for part in folder.glob(f"{pattern}-{DIGITS}")}
    return sorted(found)


def cut(path: Place, size: int) -> None:
    """Drops what follows the first `size` bytes."""
    if not isinstance(path, Bucket):
        os.truncate(path, size)
        return
    contents = [(part, part.read_bytes()) for part in parts(path)]
    ends = [sum(len(content) for _, content in contents[: i + 1]) for i in range(len(contents))]
    for (part, content), end in reversed(list(zip(contents, ends, strict=True))):  # a kill leaves no gap
        keep(part, content, content[: max(0, len(content) - max(0, end - size))])


def keep(part: Place, content: bytes, kept: bytes) -> None:
    """`part`, which holds `content`, is to hold `kept`; a part of a bucket that would be empty goes."""
    if isinstance(part, Bucket) and not kept:
        part.unlink(missing_ok=True)
    elif kept != content:
        files.write_bytes(part, kept)
