# SPDX-License-Identifier: Apache-2.0
"""What a run has used, and whether it is alive: usage.json in the workdir, a line for each start.

Process 0 writes it while the run goes on, so that a kill costs BEAT seconds of the bookkeeping. Compilation and waiting
count: the chips cost the same.
Deliberately not here: what is made of it (status.py).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from t1jax.config import ConfigError
from t1jax.devices import multihost
from t1jax.host import files, workdir
from t1jax.host.bucket import Unreachable
from t1jax.host.place import Place

FILE_NAME = "usage.json"
BEAT = 30.0  # seconds between two signs of life
FIELDS: dict[str, Any] = {
    "began": (int, float),
    "seen": (int, float),
    "chips": int,
    "kind": str,
    "host": str,
    "process": int,
    "lost_tokens": int,  # of steps that are done again; 0 where it is left out
}


def read(folder: Place) -> list[dict[str, Any]]:
    """The starts of the run in `folder`, in order: began, seen (Unix time, seconds), chips, kind, host, process,
    lost_tokens.

    Raises:
      ConfigError: the file is damaged.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return []
    found = workdir.read(path).get("starts")
    starts: list[dict[str, Any]] = found if isinstance(found, list) else [{}]
    for start in starts:
        known = {"lost_tokens": 0} | start if isinstance(start, dict) else {}
        if not all(isinstance(known.get(name), kind) for name, kind in FIELDS.items()):
            raise ConfigError(f"{path}: got {str(start)[:60]}, expected the starts of a run: delete the file")
    return starts


def lost_tokens(starts: list[dict[str, Any]]) -> int:
    """Tokens of steps and evaluations whose rows kills undid. Those of a step that had no row yet are not known.

    Steps are drawn again; an evaluation is not, where its journal is whole.
    """
    return sum(start.get("lost_tokens", 0) for start in starts)


def chip_hours(starts: list[dict[str, Any]]) -> float:
    """Hours of all starts, times the chips of each."""
    return sum(max(0.0, start["seen"] - start["began"]) * start["chips"] for start in starts) / 3600


@contextmanager
def counted(
    folder: Place, chips: int, kind: str, clock: Callable[[], float] = time.time
) -> Iterator[Callable[[int], None]]:
    """Counts the time in the body as that of a start on `chips` devices of a kind, those of all processes.

    Yields what counts tokens whose steps are done again.

    Raises:
      ConfigError: usage.json is damaged.
    """
    mine: Mapping[str, Any] = {"chips": chips, "kind": kind, "host": socket.gethostname(), "process": os.getpid()}
    began, before = clock(), read(folder)
    if not multihost.is_main():
        yield lambda tokens: None
        return
    end, lost = threading.Event(), [0]

    def write() -> None:
        with suppress(OSError, Unreachable):  # the next beat counts this time too
            now = {"began": began, "seen": clock(), "lost_tokens": lost[0], **mine}
            files.write_json(folder / FILE_NAME, {"starts": [*before, now]})

    def lose(tokens: int) -> None:
        lost[0] += tokens
        write()

    def beat() -> None:
        while not end.wait(BEAT):
            write()

    write()
    thread = threading.Thread(target=beat, daemon=True, name="usage")
    thread.start()
    try:
        yield lose
    finally:
        end.set()
        thread.join()
        write()
