# SPDX-License-Identifier: Apache-2.0
"""A path in a bucket of Google Cloud Storage, with the methods of pathlib.Path that t1jax uses, by gcsfs.

An object is written whole or not at all; nothing is renamed or appended to. Requests are repeated with growing pauses
for up to about four minutes; then they raise Unreachable. Orbax reads and writes by gcsfs too, with the settings of
`storage`, and by tensorstore.
Deliberately not here: which paths are in a bucket (place.py), writing files (files.py), files that grow (log.py), locks
(lock.py).
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, Any

from t1jax.config import ConfigError

SCHEME = "gs://"
CONNECT, SILENCE = 10.0, 30.0  # seconds to reach the server, and that it may say nothing during a request
LONGEST = 200  # characters of a reason
REFUSED = re.compile("Forbidden|PERMISSION_DENIED|UNAUTHENTICATED")  # by gcsfs, tensorstore
# What tensorstore, which reads and writes arrays, says of a server that does not serve: none of it is damage.
NOT_SERVED = re.compile(
    "UNAVAILABLE|PERMISSION_DENIED|UNAUTHENTICATED|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED"
)


class Unreachable(Exception):
    """A bucket, or the hub, that cannot be read or written now: the server did not answer as it should.

    No OSError: what handles a file that is missing, damaged or full must not take this for it.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path, self.why = path, why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


class Refused(Unreachable):
    """A bucket that this account may not read or write."""


class Bucket(PurePosixPath):
    """An object, or a folder of objects, of Google Cloud Storage: gs://bucket/a/b.

    Raises:
      Unreachable: from every method that asks the server.
    """

    def __str__(self) -> str:
        return SCHEME + "/".join(self.parts[1:])

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"Bucket({str(self)!r})"

    @property
    def parents(self) -> Sequence[Bucket]:
        """The folders that it is in, up to the bucket itself."""
        return [path for path in super().parents if len(path.parts) > 1]

    @property
    def bucket(self) -> str:
        """The name of its bucket."""
        return self.parts[1]

    @property
    def key(self) -> str:
        """Its name in the bucket."""
        return "/".join(self.parts[2:])

    def absolute(self) -> Bucket:
        return self

    def resolve(self) -> Bucket:
        return self

    def exists(self) -> bool:
        return self._info() is not None

    def is_file(self) -> bool:
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        return (self._info() or {}).get("type") == "directory"

    def stat(self) -> SimpleNamespace:
        """st_size: bytes of the object; st_mtime: when it was put, Unix time; FileNotFoundError where there is none."""
        with told(self):
            info = storage().info(str(self))
            when = info.get("updated")  # of a folder there is none
            put = datetime.fromisoformat(when).timestamp() if when else 0.0
            return SimpleNamespace(st_size=info["size"], st_mtime=put)

    def iterdir(self) -> Iterator[Bucket]:
        """What is directly below; nothing where there is no such folder."""
        try:
            with told(self):
                found = storage().ls(str(self), detail=False)
        except FileNotFoundError:
            return
        for name in found:
            if (path := Bucket(SCHEME + name)) != self:  # a folder may have an object of its own
                yield path

    def sizes(self) -> dict[Bucket, int]:
        """Bytes of each object below, by few requests."""
        with told(self):
            found = storage().find(str(self), detail=True)
        return {Bucket(SCHEME + name): int(info["size"]) for name, info in found.items()}

    def glob(self, pattern: str) -> Iterator[Bucket]:
        """What matches below this folder, a level for each part of `pattern`: gcsfs would list all that is below."""
        first, _, rest = pattern.partition("/")
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else (path,)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders come with the objects in them."""

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The object, to be read, or written whole when it is closed (`wb`)."""
        with told(self):
            return storage().open(str(self), mode)

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        with told(self):
            return storage().cat_file(str(self), start, end)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """Puts the whole object."""
        with told(self):
            storage().pipe_file(str(self), content)
        return len(content)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with told(self):
                storage().rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self) -> None:
        """Deletes all objects below."""
        try:
            with told(self):
                storage().rm(str(self), recursive=True)
        except FileNotFoundError:
            pass

    def _info(self) -> dict[str, Any] | None:
        try:
            with told(self):
                return storage().info(str(self))
        except FileNotFoundError:
            return None


@functools.cache
def storage() -> Any:
    """gcsfs's file system, set up once: nothing listed is remembered, and every request is bounded in time.

    Orbax and fsspec.open take the same settings, from fsspec's own.

    Raises:
      ImportError: gcsfs is not installed.
    """
    # The JSON API alone: gcsfs would ask by gRPC, first, what kind of bucket each is.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    for name, value in (("CONNECT_TIMEOUT", CONNECT), ("LOW_SPEED_TIME", SILENCE)):  # tensorstore's, which has none
        os.environ.setdefault(f"TENSORSTORE_CURL_{name}_SECONDS", f"{value:.0f}")
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    import aiohttp
    import fsspec
    import gcsfs  # noqa: F401

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it gives up on is raised too
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
    fsspec.config.conf.setdefault("gcs", {}).update(use_listings_cache=False, requests_timeout=timeout)
    return fsspec.filesystem("gcs")


def not_served(error: BaseException) -> bool:
    """Whether Orbax raised `error` because a server did not serve, and not for what it holds."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Unreachable | TimeoutError | ConnectionError):
            return True
        if NOT_SERVED.search(str(seen)) or REFUSED.match(str(seen)):
            return True
        if type(seen).__module__.partition(".")[0] in ("gcsfs", "aiohttp", "requests", "google"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def raise_not_served(path: Path | Bucket, error: Exception) -> None:
    """Unreachable where `error`, of any package, is for that reason and not for what stands at `path`."""
    if isinstance(path, Bucket) and not_served(error):
        raise unreachable(path, error) from error


def unreachable(path: Bucket, error: Exception) -> Unreachable:
    """`error`, for which something at `path` could not be read or written, as the error to raise."""
    if REFUSED.match(str(error)) or getattr(error, "code", None) in (401, 403):
        advice = "expected an account that may read and write it: see docs/tpu.md"
        return Refused(str(path), f"{reason(error)}; {advice}")
    return Unreachable(str(path), reason(error))


def reason(error: BaseException) -> str:
    """What went wrong, in part of a line."""
    if isinstance(error, Unreachable):
        return error.why[:LONGEST]
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return f"{said or type(error).__name__}"[:LONGEST]


@contextmanager
def told(path: Path | Bucket) -> Iterator[None]:
    """In a bucket, every error but of what is not there as Unreachable: gcsfs raises those of five packages."""
    if not isinstance(path, Bucket):
        yield
        return
    try:
        yield
    except (ConfigError, Unreachable):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such object or bucket", str(path)) from error
    except Exception as error:
        raise unreachable(path, error) from error
