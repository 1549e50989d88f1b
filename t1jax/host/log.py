# SPDX-License-Identifier: Apache-2.0
"""Files of lines that grow: a file, or in a bucket, where nothing can be appended to, parts of it.

A part is an object PATH-000000, PATH-000001, ..., put whole at each `sync`, so that what a reader joins are whole
lines. Lines are dropped part by part; doing that again after a kill ends the same.
Deliberately not here: what the lines say (metrics.py, evaluation/journal.py).
"""

from __future__ import annotations

import os
from typing import Any

from t1jax.host import files
from t1jax.host.place import Bucket, Place

DIGITS = "[0-9]" * 6


class Log:
    """Adds lines to the file at `path`. One process at a time."""

    def __init__(self, path: Place) -> None:
        self._path = path
        self._file: Any = None
        self._waiting = b""  # of a bucket: what the next part will hold
        self._next = 0
        if isinstance(path, Bucket):
            self._next = max((int(part.name[-6:]) for part in parts(path)), default=-1) + 1
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
            files.write_bytes(self._path.with_name(f"{self._path.name}-{self._next:06d}"), self._waiting)
            self._waiting, self._next = b"", self._next + 1

    def close(self) -> None:
        """Writes what is still in memory."""
        if self._file is not None:
            self._file.close()
        else:
            self.sync()


def parts(path: Place) -> list[Place]:
    """The files that the lines at `path` are in, in order; none where there are no lines yet."""
    if isinstance(path, Bucket):
        return sorted(path.parent.glob(f"{path.name}-{DIGITS}"))
    return [path] if path.exists() else []


def read(path: Place) -> bytes:
    """All lines at `path`, joined."""
    return b"".join(part.read_bytes() for part in parts(path))


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
