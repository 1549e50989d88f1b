# SPDX-License-Identifier: Apache-2.0
"""The folder that a conversion writes: it is there whole or not at all, local or in a bucket.

Deliberately not here: what is written (conversion.py).
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t1jax.config import ConfigError
from t1jax.host import files
from t1jax.host.bucket import Bucket, Unreachable
from t1jax.host.place import Place
from t1jax.weights import steps

MB = 10**6


@contextmanager
def folder(dst: Place, size: int) -> Iterator[Place]:
    """Yields a temporary folder that becomes `dst` on success, and is deleted on an error.

    Raises:
      ConfigError: `dst` exists and is not empty, `size` bytes do not fit on the disk, or writing failed.
    """
    if isinstance(dst, Bucket):
        with _marked(dst) as marked:
            yield marked
        return
    dst = dst.resolve()
    beside = dst.with_name(f".{dst.name}.{os.getpid()}.tmp")
    try:
        if dst.exists() and not dst.is_dir():
            raise ConfigError(f"{dst} is a file; expected a folder that does not exist yet or is empty")
        if dst.exists() and any(dst.iterdir()):
            raise ConfigError(f"{dst} is not empty; expected a folder that does not exist yet or is empty")
        if not dst.parent.is_dir():
            raise ConfigError(f"{dst.parent} is not a folder; expected one for {dst.name}; create it")
        if (free := shutil.disk_usage(dst.parent).free) < size:
            raise ConfigError(f"{dst.parent} has {free // MB} MB of free space; expected at least {size // MB} MB")
        _sweep(dst)
        beside.mkdir()
        yield beside
        os.replace(beside, dst)
        _sync(dst.parent)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise ConfigError(f"{error.filename or dst}: {reason}; nothing was written to {dst}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sweep(dst: Path) -> None:
    """Removes what conversions to `dst` left whose process was killed."""
    for left in dst.parent.glob(f".{glob.escape(dst.name)}.[0-9]*.tmp"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _marked(dst: Bucket) -> Iterator[Bucket]:
    """Yields `dst`, in a bucket, which counts as a folder of weights from the end on; is emptied on an error.

    Raises:
      ConfigError: `dst` holds something else than what an interrupted conversion left.
      Unreachable: the bucket does not serve it now.
    """
    mark = dst / steps.UNFINISHED
    if not mark.exists() and next(dst.iterdir(), None) is not None:
        raise ConfigError(f"{dst} is not empty; expected a folder that does not exist yet or is empty")
    dst.rmtree()
    files.write_text(mark, "t1jax.convert is writing here, or was interrupted: the same command begins anew\n")
    try:
        yield dst
        mark.unlink()
    except BaseException:
        with suppress(Unreachable):  # the mark stays, and the next conversion begins anew
            dst.rmtree()
        raise


def _sync(path: Place) -> None:
    """Flushes the file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
