# SPDX-License-Identifier: Apache-2.0
"""A crash-safe file of paid answers, so that none is paid for twice.

    key        SHA-256 of URL, model, messages, limits, seed and the request's own key
    request    the request's key, such as attempt/17/2     endpoint, model   as in the config
    text       the generated text                          wrote             the model's name as the server gave it
    failure    why it cannot be used; "" if it can         finish_reason     from the endpoint
    prompt_tokens, completion_tokens, cost   as counted by the endpoint and priced by the config at that time
    counted    false: the endpoint sent no counts, so they are 0
    retries    how often the request was sent again

Each answer is a line of ASCII JSON, which is on disk before the answer is returned. A partial last line, left by a
kill, is removed. Only one process may use the file. Texts stay on disk; only their offsets are held in memory.
Deliberately not here: requests (endpoints.py); failures without cost, which are sent again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from t1jax.config import ConfigError
from t1jax.host import bucket, lock, log
from t1jax.host.bucket import Bucket, Unreachable
from t1jax.host.log import Log
from t1jax.host.place import Place
from t1jax.host.stopping import EXIT_STORAGE, Stopped
from t1jax.synthesis.writers import Completion, Failure, Request


@dataclass(frozen=True)
class Paid:
    """A line of the file."""

    key: str
    request: str
    endpoint: str
    model: str
    wrote: str
    text: str
    failure: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    counted: bool
    cost: float
    retries: int

    def line(self) -> bytes:
        """The answer as a JSON line, which can hold any text, including NUL and lone surrogates."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False).encode("ascii") + b"\n"

    @staticmethod
    def parse(line: bytes) -> Paid:
        """Parses a JSON line. Raises ValueError, KeyError or TypeError if it is not a paid answer."""
        row = json.loads(line)
        values = {field.name: _typed(str(field.type), row[field.name]) for field in dataclasses.fields(Paid)}
        return Paid(**values)

    def result(self) -> Completion | Failure:
        """What the writer returns for it."""
        if self.failure:
            return Failure(self.failure)
        return Completion(
            self.text, self.wrote, self.prompt_tokens, self.completion_tokens, self.cost, self.finish_reason
        )


@dataclass(frozen=True)
class Totals:
    """Totals of paid answers."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0  # in the currency of the endpoint's prices
    uncounted: int = 0  # answers without token counts, which the totals do not include

    def plus(self, paid: Paid) -> Totals:
        """The totals with one more answer."""
        return Totals(
            self.requests + 1,
            self.retries + paid.retries,
            self.prompt_tokens + paid.prompt_tokens,
            self.completion_tokens + paid.completion_tokens,
            self.cost + paid.cost,
            self.uncounted + (not paid.counted),
        )


def digest(url: str, model: str, request: Request) -> str:
    """The ledger's key: equal for the same request, sent to the same model at the same URL."""
    messages = [[message["role"], message["content"]] for message in request.messages]
    limits = [request.max_tokens, float(request.temperature), request.seed]
    return hashlib.sha256(json.dumps([url.rstrip("/"), model, messages, *limits, request.key]).encode()).hexdigest()


class Ledger:
    """The file at `path`, locked by this process until `close`. Thread-safe.

    In a bucket each answer is an object (log.py); this process reads them from a local copy.

    Raises:
      ConfigError: another process has locked it, it cannot be written, or a line other than the last is damaged.
    """

    def __init__(self, path: Place) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}  # key -> (offset of its line, bytes)
        self._totals: dict[tuple[str, str], Totals] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._kept = ExitStack()  # of a bucket: its lock, the local copy
        self._remote: Log | None = None
        try:
            copy = self._copied(path) if isinstance(path, Bucket) else path
            copy.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except BaseException as error:
            self._kept.close()
            if not isinstance(error, OSError):
                raise
            raise ConfigError(f"{path}: {error.strerror}; expected a writable file of paid responses") from error
        try:
            self._hold()
            self._end = self._read()
            os.ftruncate(self._file, self._end)
            _sync_folder(copy.parent)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: str) -> Completion | Failure | None:
        """The result for a key of `digest`; None if there is none yet."""
        place = self._places.get(key)
        if place is None:
            return None
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path} is closed")
            line = os.pread(self._file, place[1], place[0])
        return Paid.parse(line).result()

    def record(self, paid: Paid) -> None:
        """Writes an answer, which is on disk when this returns.

        Raises:
          Stopped: it cannot be written; the ledger is then closed.
        """
        line = paid.line()
        with self._lock:
            if self._closed:
                raise Stopped(f"{self.path} is closed; {paid.request} was paid for and is lost", EXIT_STORAGE)
            try:
                written = os.write(self._file, line)
                if written < len(line):  # the disk is full: writing the rest raises the error
                    os.write(self._file, line[written:])
                os.fsync(self._file)
                if self._remote is not None:
                    self._remote.write(line)
                    self._remote.sync()
            except (OSError, Unreachable) as error:
                self._close()  # a partial line is removed at the next start
                raise Stopped(
                    f"{self.path}: {bucket.reason(error)}, {paid.request} was paid for and is lost; fix that, and the "
                    "same command continues",
                    EXIT_STORAGE,
                ) from error
            self._enter(paid, len(line))

    def totals(self) -> dict[tuple[str, str], Totals]:
        """(endpoint, model) -> totals of all runs that wrote to this file, at the prices of that time."""
        with self._lock:
            return dict(sorted(self._totals.items()))

    def close(self) -> None:
        """Closes and unlocks the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._file)
            self._kept.close()

    def _copied(self, path: Bucket) -> Path:
        """A local copy of the ledger in a bucket, which is locked from now on."""
        self._kept.enter_context(lock.held(path.with_suffix(".lock"), "--out", print))
        copy = Path(self._kept.enter_context(tempfile.TemporaryDirectory(prefix="t1jax"))) / path.name
        copy.write_bytes(log.read(path))
        self._remote = Log(path)
        return copy

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{self.path} is in use by another process; wait for it, stop it, or give another --out"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be locked: {error.strerror}; expected a file system with locks, so that "
                "nothing is paid for twice: give another --out"
            ) from error

    def _read(self) -> int:
        """Reads all complete lines; returns the offset where they end, bytes."""
        self._end = 0
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    paid = Paid.parse(line)
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise ConfigError(
                        f"{self.path}: line {number}: {type(error).__name__}; expected a paid answer in JSON: fix or "
                        "delete that line (it will be paid for again), or give another --out"
                    ) from error
                self._enter(paid, len(line))
        return self._end

    def _enter(self, paid: Paid, size: int) -> None:
        self._places[paid.key] = (self._end, size)
        self._end += size
        who = (paid.endpoint, paid.model)
        self._totals[who] = self._totals.get(who, Totals()).plus(paid)


def _typed(kind: str, value: Any) -> Any:
    """`value`; TypeError unless it has the type named `kind`."""
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value).__name__ != kind or (kind == "float" and not math.isfinite(value)):
        raise TypeError(f"got {type(value).__name__}, expected {kind}")
    return value


def _sync_folder(folder: Path) -> None:
    """Flushes the folder to disk, so that a new file's name is there too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
