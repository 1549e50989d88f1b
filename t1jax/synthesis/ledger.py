# SPDX-License-Identifier: Apache-2.0
"""Answers that were paid for, in a file that survives every kill: none is paid for twice.

    key        SHA-256 of url, model, messages, limits, seed and the request's own key
    request    the request's key, such as attempt/17/2     endpoint, model   whom was asked, by the config
    text       what was written                            wrote             the model, as it calls itself
    failure    why that is no answer; "" if it is one      finish_reason     as the endpoint gave it
    prompt_tokens, completion_tokens, cost   as the endpoint counted and the config priced them that day
    counted    false: the endpoint sent no counts, so they are 0 here
    retries    how many times the request had to be sent again

A JSON line each, in ASCII, on the disk before anybody is handed the answer. What a kill left of a last line is cut
off. One process at a time. Texts stay in the file; memory holds where they are.
Deliberately not here: asking (endpoints.py); failures that cost nothing, which are asked again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from t1jax.config import ConfigError
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
        """Its JSON line; any text survives it, NUL and lone surrogates too."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False).encode("ascii") + b"\n"

    @staticmethod
    def parse(line: bytes) -> Paid:
        """The answer of a JSON line. ValueError, KeyError or TypeError: it is none."""
        row = json.loads(line)
        values = {field.name: _typed(str(field.type), row[field.name]) for field in dataclasses.fields(Paid)}
        return Paid(**values)

    def result(self) -> Completion | Failure:
        """What the writer hands on."""
        if self.failure:
            return Failure(self.failure)
        return Completion(
            self.text, self.wrote, self.prompt_tokens, self.completion_tokens, self.cost, self.finish_reason
        )


@dataclass(frozen=True)
class Totals:
    """Sums over answers that were paid for."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0  # in the currency of the endpoint's prices
    uncounted: int = 0  # answers whose tokens the endpoint did not count: they are not in the sums

    def plus(self, paid: Paid) -> Totals:
        """With one more answer."""
        return Totals(
            self.requests + 1,
            self.retries + paid.retries,
            self.prompt_tokens + paid.prompt_tokens,
            self.completion_tokens + paid.completion_tokens,
            self.cost + paid.cost,
            self.uncounted + (not paid.counted),
        )


def digest(url: str, model: str, request: Request) -> str:
    """What a paid answer answers: the same piece of work, asked of the same model in the same way."""
    messages = [[message["role"], message["content"]] for message in request.messages]
    limits = [request.max_tokens, float(request.temperature), request.seed]
    return hashlib.sha256(json.dumps([url.rstrip("/"), model, messages, *limits, request.key]).encode()).hexdigest()


class Ledger:
    """The file at `path`, held by this process until `close`; several threads may use it.

    Raises:
      ConfigError: another process holds it, it cannot be written, or a line that is not the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}  # key -> (offset of its line, bytes)
        self._totals: dict[tuple[str, str], Totals] = {}
        self._lock = threading.Lock()
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; expected a writable file of paid responses") from error
        try:
            self._hold()
            self._end = self._read()
            os.ftruncate(self._file, self._end)
            _sync_folder(path.parent)
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
        """What was paid for under a key of `digest`; None: nothing yet."""
        place = self._places.get(key)
        if place is None:
            return None
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path} is closed")
            line = os.pread(self._file, place[1], place[0])
        return Paid.parse(line).result()

    def record(self, paid: Paid) -> None:
        """The answer is on the disk when this returns.

        Raises:
          Stopped: it cannot be written, and nothing more will be.
        """
        line = paid.line()
        with self._lock:
            if self._closed:
                raise Stopped(f"{self.path} is closed; {paid.request} was paid for and is lost", EXIT_STORAGE)
            try:
                written = os.write(self._file, line)
                if written < len(line):  # no room: the rest raises, and says why
                    os.write(self._file, line[written:])
                os.fsync(self._file)
            except OSError as error:
                self._close()  # what is half written is cut off at the next start
                raise Stopped(
                    f"{self.path}: {error.strerror}, {paid.request} was paid for and is lost; mend that, and the same "
                    "command continues",
                    EXIT_STORAGE,
                ) from error
            self._enter(paid, len(line))

    def totals(self) -> dict[tuple[str, str], Totals]:
        """(endpoint, model) -> sums over all runs that wrote to this file, at the prices of their day."""
        with self._lock:
            return dict(sorted(self._totals.items()))

    def close(self) -> None:
        """Lets another process have the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._file)

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
        """Enters each whole line; returns where they end, bytes."""
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
                        f"{self.path}: line {number}: {type(error).__name__}; expected a paid answer in JSON: mend or "
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
    """`value`, which must be of the type named `kind`."""
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value).__name__ != kind or (kind == "float" and not math.isfinite(value)):
        raise TypeError(f"got {type(value).__name__}, expected {kind}")
    return value


def _sync_folder(folder: Path) -> None:
    """The name of a new file is on the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
