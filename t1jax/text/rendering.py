# SPDX-License-Identifier: Apache-2.0
"""Chat templates in a process of their own, with limits on its memory and its time.

A template is a program that came with the weights. The sandbox counts its steps, but a single one, such as a join of a
million strings, may take all memory of a machine. So one process, the same for all templates of this one, renders them;
where it dies, the template is refused and the next one gets a new process. What was rendered is kept, so that each
chat of a data set is rendered once.
Deliberately not here: the language of templates (chat.py), their steps (sandbox.py).
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from t1jax.config import ConfigError
from t1jax.text.chat import ChatTemplate

MEMORY = 1 << 30  # bytes of the process, its libraries included
SECONDS = 10.0  # of processor time for a chat; real ones take milliseconds
CLOCK = 300.0  # seconds for a chat and for the start of the process, whatever else the machine does
KEPT = 1 << 26  # characters of rendered chats that are kept for a template
HEADER = struct.Struct("<Q")
PROGRAM = "from t1jax.text.rendering import serve; serve()"


class Renderer:
    """A chat template. `render` may be called from any thread."""

    def __init__(self, source: str, file: str) -> None:
        """Compiles `source`; `file` is what errors name.

        Raises:
          ConfigError: it is too long, Jinja does not understand it, or it takes too much.
        """
        self.source, self._file, self._now = source, file, time.time()
        self._kept: dict[bytes, str] = {}
        self._size = 0
        self._ask(None)

    def render(self, messages: Sequence[Mapping[str, str]], tokens: Mapping[str, str], generate: bool) -> str:
        """As ChatTemplate.render.

        Raises:
          ConfigError: the template refuses the messages, fails, reaches out of the sandbox or takes too much.
        """
        chat = [[dict(message) for message in messages], dict(tokens), generate]
        key = hashlib.blake2b(json.dumps(chat).encode(), digest_size=16).digest()
        text = self._kept.get(key)
        if text is None:
            text = self._ask(chat)
            if self._size + len(text) > KEPT:
                self._kept, self._size = {}, 0
            self._kept[key] = text
            self._size += len(text)
        return text

    def _ask(self, chat: list[Any] | None) -> str:
        """What the process answers; of None, that it understands the template."""
        answer = _process.ask({"source": self.source, "file": self._file, "now": self._now, "chat": chat})
        if answer is None:
            raise ConfigError(
                f"{self._file}: a chat template that takes more than {SECONDS:g} s or {MEMORY >> 20} MiB; expected one "
                "that only puts messages together"
            )
        if "refused" in answer:
            raise ConfigError(answer["refused"])
        return str(answer["text"])


class _Process:
    """The process that renders, started when it is first needed, and again after it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Its answer; None: it was killed by its limits."""
        data = json.dumps(request).encode()
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._process is not None and self._process.stdin is not None
            try:
                self._process.stdin.write(HEADER.pack(len(data)) + data)
                self._process.stdin.flush()
                return self._hear()
            except (EOFError, BrokenPipeError):
                self.close()
                return None

    def close(self) -> None:
        """Ends the process, if there is one."""
        if (process := self._process) is not None:
            self._process = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):  # what it was not yet told
                    pipe.close()

    def _start(self) -> None:
        self.close()
        package = str(Path(__file__).parents[2])
        paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C is for this process
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"},
        )
        try:
            self._hear()
        except EOFError as error:
            self.close()
            raise RuntimeError("the process that renders chat templates could not be started: see above") from error

    def _hear(self) -> Any:
        (size,) = HEADER.unpack(self._read(HEADER.size))
        return json.loads(self._read(size))

    def _read(self, size: int) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        pipe, until = self._process.stdout.fileno(), time.monotonic() + CLOCK
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        parts = []
        while size:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000) or not (data := os.read(pipe, size)):
                raise EOFError
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


_process = _Process()
atexit.register(_process.close)


def serve() -> None:
    """The process's own program: answers until its input ends, which it does with the process that asks."""
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        size = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing but answers goes to the pipe
    _say(sink, {})
    while header := source.read(HEADER.size):
        request = json.loads(source.read(HEADER.unpack(header)[0]))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)  # ends this process
        try:
            _say(sink, {"text": _rendered(**request)})
        except ConfigError as error:
            _say(sink, {"refused": str(error)})
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@functools.lru_cache(maxsize=8)
def _compiled(source: str, file: str, now: float) -> ChatTemplate:
    return ChatTemplate(source, file, now)


def _rendered(source: str, file: str, now: float, chat: list[Any] | None) -> str:
    template = _compiled(source, file, now)
    return "" if chat is None else template.render(*chat)


def _say(sink: IO[bytes], answer: Mapping[str, str]) -> None:
    data = json.dumps(answer).encode()
    sink.write(HEADER.pack(len(data)) + data)
    sink.flush()
