# SPDX-License-Identifier: Apache-2.0
"""The way to one logger: a bounded queue, a thread that empties it, and a process with the client (worker.py).

`put` never waits. What finds the queue full is left out, and so is all that follows, until the queue is empty: then the
workdir is read. An error of the client ends the process, and is told once. At the end of a finished run that lacked
something, everything is sent once more, to a new process, which leaves out what the service has. Each of the two ends
may take LONGEST seconds, after which the process is killed.
Deliberately not here: what is sent (loggers.py).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from t1jax.host import bucket
from t1jax.host.loggers.worker import reason

QUEUE = 1000  # things that may wait: rows of about 1 KB, and names of files
LONGEST = 60.0  # seconds that a logger may take to send the rest, and again to be sent all that it lacks
HURRY = 5.0  # the same for the rest of a run that was stopped
ROOT = Path(__file__).parents[3]  # of the package


class Item(NamedTuple):
    """Something to log."""

    kind: str  # one of worker.KINDS
    step: int
    row: Mapping[str, Any] | None = None  # of metrics; the rest is read from the workdir when it is its turn


class Failed(Exception):
    """A logger could not take something; the message is part of a line."""


class Relay:
    """Sends items to one logger, from its thread."""

    def __init__(
        self,
        name: str,
        opening: Mapping[str, Any],
        everything: Callable[[], list[Item]],
        message: Callable[[Item], dict[str, Any] | None],
        note: Callable[[str], None],
    ) -> None:
        """Starts by sending what the run has so far.

        Args:
          name: of the knob in the section `metrics`, and of the client's package.
          opening: worker.Opening.
          everything: all that the workdir holds, in order.
          message: what is sent of an item; None: nothing.
          note: is told where the run can be found, and what fails.
        """
        self._name, self._opening, self._everything, self._message = name, opening, everything, message
        self._note = note
        self._queue: queue.Queue[Item | None] = queue.Queue(QUEUE)
        self._failed = False  # the client: nothing more is sent until the end
        self._full = self._lacked = False  # the queue, and not yet emptied since; or ever
        self._lock = threading.Lock()  # of these two
        self._found = self._late = False  # where the run is was told; out of time
        self._ok: bool | None = None  # the run is finished, or was stopped; None: it goes on
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = self._start(self._live)

    def put(self, item: Item) -> None:
        """Sends the item, later; never waits."""
        with self._lock:
            if self._failed or self._full:
                return
            try:
                self._queue.put_nowait(item)
            except queue.Full:
                if not self._lacked:
                    self._say(f"it does not keep up; what finds {QUEUE} rows waiting is sent later")
                self._full = self._lacked = True

    def close(self, ok: bool) -> None:
        """Sends what is left, and what is lacking if the run is finished (`ok`), each within bounds of time."""
        self._ok = ok
        until = time.monotonic() + (LONGEST if ok else HURRY)
        with suppress(queue.Full):
            self._queue.put(None, timeout=0.0 if self._failed else max(0.0, until - time.monotonic()))
        self._wait(self._thread, until)
        if ok and (self._failed or self._lacked):
            self._wait(self._start(self._again), time.monotonic() + LONGEST)

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True, name=f"metrics.{self._name}")
        thread.start()
        return thread

    def _wait(self, thread: threading.Thread, until: float) -> None:
        """Until the thread ends; its process is killed at the time `until`."""
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            self._failed = self._late = True
            if (process := self._process) is not None:
                _kill(process)
            thread.join(1.0)

    def _live(self) -> None:
        """The thread: what the run has so far, and then what comes."""
        if why := self._send(self._all):
            self._failed = True
            later = "the next start sends the rest" if self._ok is False else "tried once more at the end of the run"
            self._say(f"{why}; {later}")

    def _all(self) -> Iterator[Item]:
        yield from self._everything()
        while (item := self._queue.get()) is not None:
            yield item
            with self._lock:
                again = self._full and self._queue.empty()
                self._full = self._full and not again
            if again:  # after the queue is open, so that nothing is between the two
                yield from self._everything()

    def _again(self) -> None:
        self._late = False
        why = self._send(self._everything)
        self._say(f"{why}; what it lacks is in metrics.jsonl" if why else "at the second try it got everything")

    def _send(self, items: Callable[[], Iterable[Item]]) -> str:
        """Sends the items in a new process; what went wrong, or ""."""
        with tempfile.TemporaryFile() as said:
            try:
                self._process = process = self._spawn(said)
                try:
                    address = self._ask(process, said, {"kind": "open", **self._opening})["address"]
                    if not self._found:
                        self._say(address)
                    self._found = True
                    for item in items():
                        if (message := self._message(item)) is not None:
                            self._ask(process, said, message)
                    self._ask(process, said, {"kind": "end", "ok": self._ok})
                finally:
                    _end(process)
            except Failed as error:
                return str(error)
            except Exception as error:  # of files or processes: no reason to stop a run
                return f"{type(error).__name__}: {bucket.reason(error)}"
        return ""

    def _spawn(self, said: Any) -> subprocess.Popen[bytes]:
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "t1jax.host.loggers.worker", self._name, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # a terminal's Ctrl-C is for this process
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

    def _ask(self, process: subprocess.Popen[bytes], said: Any, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message. Failed: there is none, or it is an error."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            status = process.wait()
            if self._late:
                raise Failed(f"no answer in {LONGEST if self._ok else HURRY:g} s")
            said.seek(0)
            last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise Failed(f"its process ended with exit status {status}: {reason(Failed(last))}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _say(self, what: str) -> None:
        self._note(f"metrics.{self._name}: {what}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what the client started


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):  # what it was not yet told
            pipe.close()
