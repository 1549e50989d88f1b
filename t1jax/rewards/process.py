# SPDX-License-Identifier: Apache-2.0
"""One worker process, its pipes, and its deadline per answer.

rollouts -> REWARDS, between the pool (verifier.py) and the program (worker.py). Host only.
A deadline is CPU time of the worker, read from /proc on Linux, so that no answer becomes unscorable because the machine
is busy. A wall-clock limit, far longer (wall_limit in validation.py), catches workers that sleep or starve. Where a
process cannot read another's CPU time (macOS), only the wall clock counts.
Deliberately not here: which answers are asked, and what is done about a worker that died (verifier.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from t1jax import validation
from t1jax.config import VerifierConfig
from t1jax.rewards.worker import HEADER

_START_LIMIT = 60.0  # a worker that is not ready by then counts as failed, seconds


class Died(Exception):
    """The worker ended, or did not answer in time."""

    def __init__(self, timed_out: bool):
        super().__init__()
        self.timed_out = timed_out


class _Budget:
    """What an answer may take: seconds of its worker's processor time, and many more on the clock."""

    def __init__(self, pid: int, deadline: float):
        self._pid, self._deadline = pid, deadline
        self._until, self._begun = time.monotonic() + validation.wall_limit(deadline), self._used()

    def left(self) -> float:
        """Seconds that must pass before it can be spent: a worker computes on one core."""
        return min(self._until - time.monotonic(), self._deadline - (self._used() - self._begun))

    def _used(self) -> float:
        """Seconds of processor time since the worker started; 0 where nobody can tell."""
        if sys.platform != "linux":
            return 0.0
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended, which the pipe will say
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, see proc(5)


class Worker:
    """One process and the pipes to it."""

    def __init__(self, path: Path, cfg: VerifierConfig, program: Sequence[str] = ()):
        """`path`: worker.py; `program`: a file and words for its `start`, see there."""
        limits = (cfg.deadline, validation.wall_limit(cfg.deadline), cfg.memory)
        arguments = [*map(str, limits), str(os.getpid()), *program]
        accelerators = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TPU_VISIBLE_CHIPS": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(path), *arguments],  # -P: no module beside it is in the way of a library
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | accelerators | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        self.answered = 0

    def greet(self) -> str | None:
        """Wait until it is ready; what went wrong, or None."""
        try:
            until = time.monotonic() + _START_LIMIT
            message = self._hear(lambda: until - time.monotonic())
        except Died as death:
            if death.timed_out:
                return f"not ready after {_START_LIMIT:.0f} s"
            assert self.process.stderr is not None
            said = self.process.stderr.read(4000).decode(errors="replace").strip()
            return f"exit status {self.process.wait()}: {said.splitlines()[-1] if said else 'it said nothing'}"
        return message.get("error")

    def ask(self, question: tuple[str, ...], deadline: float, times: int = 1) -> Any:
        """Ask one question; what the worker says: an outcome, or what a program of its own answers.

        Raises:
          Died: no answer within `times` * `deadline` seconds of the worker's processor time, or the process ended.
        """
        data = json.dumps([times, *question]).encode()
        budget = _Budget(self.process.pid, deadline * times)
        self._write(HEADER.pack(len(data)) + data, budget.left)
        self.answered += 1
        return self._hear(budget.left)

    def _write(self, data: bytes, left: Callable[[], float]) -> None:
        assert self.process.stdin is not None
        pipe = self.process.stdin.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLOUT)
        rest = memoryview(data)
        while rest:  # a pipe holds 64 KiB, and a worker that hangs reads nothing
            _wait(poll, left)
            try:
                rest = rest[os.write(pipe, rest) :]
            except OSError:
                raise Died(timed_out=False) from None

    def _hear(self, left: Callable[[], float]) -> Any:
        """The next message; `left`: seconds to wait before it is asked again, none to give up."""
        (length,) = HEADER.unpack(self._read(HEADER.size, left))
        return json.loads(self._read(length, left))

    def _read(self, size: int, left: Callable[[], float]) -> bytes:
        assert self.process.stdout is not None
        poll = select.poll()  # select.select fails on the 1,025th file of a program
        poll.register(self.process.stdout, select.POLLIN)
        data = b""
        while len(data) < size:
            _wait(poll, left)
            if not (part := os.read(self.process.stdout.fileno(), size - len(data))):
                raise Died(timed_out=False)
            data += part
        return data

    def kill(self) -> None:
        """End the process, with what it started and left in its group, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone
            os.killpg(self.process.pid, signal.SIGKILL)  # of a group of its own
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def _wait(poll: select.poll, left: Callable[[], float]) -> None:
    """Until the pipe is ready. Died: no time is left."""
    while not poll.poll((seconds := max(0.0, left())) * 1000):
        if not seconds:
            raise Died(timed_out=True)
