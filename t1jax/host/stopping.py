# SPDX-License-Identifier: Apache-2.0
"""How a run stops early: the signals that request it, and the exit codes.

After SIGTERM (a preemption) or SIGINT (Ctrl-C) a training loop finishes its step, saves and exits; anything else is
interrupted. A second signal ends the process immediately; checkpoints are renamed into place, so they stay complete.

A thread receives signals through the C library, not the interpreter, because Python runs no handler during a long
compilation or sampling call.
Deliberately not here: what is saved (checkpoint.py), when (loop.py), other processes' signals (multihost.py).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

EXIT_FAILED = 1  # what a run computes cannot be right
EXIT_STORAGE = 3  # no checkpoint can be read, or the last one not written
EXIT_SICK = 4  # gradients were not finite for too many steps in a row
PR_SET_PDEATHSIG = 1  # see prctl(2)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_with_parent(parent: int) -> None:
    """From now on this process is killed when `parent`, which started it, ends for whatever reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent").start()
    if os.getppid() != parent:  # it ended before the line above
        os._exit(EXIT_FAILED)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(EXIT_FAILED)


class Stopped(Exception):
    """Ends a run on purpose. The message is one line for people, the code for whoever started the run."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Interrupted(KeyboardInterrupt):
    """Ends a run because of a signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number


class Signals:
    """Listens to SIGNALS while it is entered, by the main thread; never asked otherwise."""

    def __init__(self, grace: float = 0.0) -> None:
        """`grace`: seconds between the first signal and the end of the machine.

        After half of them a loop that has not ended its step is left as it is, with what `keep` last named saved. 0:
        the step is waited for.
        """
        self.asked = 0  # the number of the first signal
        self._grace = grace
        self._deferred = False
        self._save: Callable[[], None] | None = None
        self._leaving = threading.Lock()
        self._before: dict[Any, Any] = {}
        self._pipe: tuple[int, int] = (-1, -1)
        self._wakeup = -1

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
            threading.Thread(target=self._listen, daemon=True, name="signals").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])  # and the thread reads the end
        self._before = {}

    @property
    def snapshots(self) -> bool:
        """Whether `keep` wants the state of every step."""
        return self._grace > 0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals only set `asked` in here; the body looks at it. Elsewhere they raise Interrupted."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred, self._save = False, None

    def keep(self, save: Callable[[], None]) -> None:
        """`save` writes the last completed step, from another thread and without the devices."""
        self._save = save

    def leave(self, why: str, number: int) -> Interrupted:
        """The error to raise once everything is saved; from now on nothing else is."""
        self._leaving.acquire()
        return Interrupted(f"{why} ({signal.Signals(number).name}); the same command resumes from there", number)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.asked = self.asked or number
        if not self._deferred:
            raise self.leave("stopped", number)

    def _listen(self) -> None:
        heard = 0
        while True:
            told = os.read(self._pipe[0], 1)
            if not told:
                break
            if told[0] not in SIGNALS:
                continue
            heard += 1
            if heard > 1:
                os._exit(128 + told[0])
            self.asked = self.asked or told[0]
            name = signal.Signals(told[0]).name
            self._say(f"{name}: stopping; the latest checkpoint is complete. Press Ctrl-C again to quit immediately")
            if self._grace > 0:
                timer = threading.Timer(self._grace / 2, self._leave_now)
                timer.daemon = True
                timer.start()
        os.close(self._pipe[0])

    def _leave_now(self) -> None:
        """Saves the last completed step, unless the main thread is already leaving, and ends the process."""
        if not self._leaving.acquire(blocking=False):
            return
        code = EXIT_STORAGE
        try:
            if self._save is not None:
                self._save()
            code = 128 + self.asked
            self._say("stopped during a step; the last completed step is saved, and the same command resumes from it")
        except Exception as error:  # whatever the storage makes of it: the main thread may be waiting for the end
            said = " ".join(str(error).split())
            self._say(f"stopped during a step, and the last completed one could not be saved: {said}")
        finally:
            os._exit(code)

    @staticmethod
    def _say(what: str) -> None:
        with suppress(OSError):  # a terminal that is gone is no reason to stay
            print(f"t1jax: {what}", file=sys.stderr, flush=True)
