# SPDX-License-Identifier: Apache-2.0
"""Worker processes that answer questions, may be killed at any time, and are then replaced.

    with Pool(cfg.verifier, (str(PROGRAM), "a word")) as pool:
        answers = pool.ask([("a", "question"), ...])

Workers run worker.py. They are spawned, never forked from a program with JAX threads, and killed when an answer takes
more CPU time than verifier.deadline (process.py). The answer to such a question is UNSCORABLE; no other is affected.

Each worker has its own thread, because the kernel ends a worker when the thread that started it ends.

Where: rollouts -> rewards. Host only. Called from several threads at once: those of io_callback.
Deliberately not here: what is asked: answers (verifier.py), rewards of users (functions.py), items of reasoning-gym.
"""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from t1jax.config import ConfigError, VerifierConfig
from t1jax.rewards.answers import UNSCORABLE
from t1jax.rewards.process import Died, Worker
from t1jax.rewards.worker import UNREAD
from t1jax.validation import cores

logger = logging.getLogger(__name__)

Question = tuple[str, ...]
PROGRAM = Path(__file__).with_name("worker.py")
LOST = ("timed_out", "crashed")
_CACHED = 2**15  # answers kept
_STARTS = 3  # failed starts in a row before the pool gives up
_SHORTEST = 0.2  # deadline of a batch that hangs again and again, seconds; 20 times what an ordinary answer takes


class _Batch:
    """The questions of one call that workers have to answer."""

    def __init__(self, questions: Sequence[Question]):
        self.answers: dict[Question, Any] = {}
        self.missing = len(questions)
        self.lost: Counter[str] = Counter()  # timed_out, crashed
        self.example: Question | None = None  # the first that was lost
        self.over = threading.Event()
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()


class Pool:
    """Workers that start with the first question. Any thread may ask."""

    package = "math-verify"  # what workers need, for messages
    kept = _CACHED  # answers that are kept: the same question is not asked again

    def __init__(self, cfg: VerifierConfig, program: Sequence[str] = ()):
        """`program`: a file and words for its `start`, for other questions than math-verify's; see worker.py."""
        self._cfg, self._program = cfg, program
        self._size = cfg.workers or cores()
        self._lock = threading.Lock()  # held for all below, and never while waiting
        self._jobs: queue.SimpleQueue[tuple[Question, _Batch] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._workers: set[Worker] = set()
        self._cache: OrderedDict[Question, Any] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._failed_starts, self._most_failed = 0, _STARTS
        self._broken: Exception | None = None  # why no worker will be asked any more

    def ask(self, questions: Sequence[Question]) -> list[Any]:
        """What the program answers to each question; UNSCORABLE where it hung or died. Equal ones are asked once.

        Raises:
          ConfigError: no worker can be started.
          RuntimeError: the pool is closed.
        """
        with self._lock:
            self._counts["checked"] += len(questions)
        answers = self._compare(set(questions)) if questions else {}
        return [answers[question] for question in questions]

    def times(self, question: Question) -> int:
        """How many answers' worth of verifier.deadline a question may take."""
        return 1

    def cannot_start(self, problem: str) -> str:
        """The words for the user when workers do not start because of `problem`."""
        return (
            f"the verifier's process does not start: {problem} ({sys.executable}, verifier.memory is "
            f"{self._cfg.memory} MiB); expected it to import {self.package}: install it, or raise that knob"
        )

    def counts(self) -> dict[str, int]:
        """Since the start: `checked` pairs, of which `cached` (seen before), `quick` (by text or number), `refused`
        (too large), `compared` (by math-verify), `unread` (a gold that math-verify cannot read: compared as text),
        `timed_out` and `crashed`. These two and the refused are unscorable. `started`: processes."""
        names = ("checked", "cached", "quick", "refused", "compared", "unread", "timed_out", "crashed", "started")
        with self._lock:
            return {name: self._counts[name] for name in names}

    def close(self) -> None:
        """End all workers and wait for them. A `check` that still waits raises RuntimeError."""
        with self._lock:
            self._broken = self._broken or RuntimeError("the verifier is closed")
            threads, self._threads = self._threads, []
            for worker in self._workers:
                worker.process.kill()
            for _ in threads:
                self._jobs.put(None)
        for thread in threads:
            thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _compare(self, questions: set[Question]) -> dict[Question, Any]:
        """Answers from the cache or from workers; waits for them."""
        with self._lock:
            if self._broken:
                raise self._broken
            known = {question: self._cache[question] for question in questions if question in self._cache}
            for question in known:
                self._cache.move_to_end(question)
            self._counts["cached"] += len(known)
            unknown = sorted(
                questions - known.keys(), key=lambda asked: (len(asked[0]), asked)
            )  # what may hang comes last
            if not unknown:
                return known
            batch = _Batch(unknown)
            for question in unknown:
                self._jobs.put((question, batch))
            if not self._threads:
                atexit.register(self.close)
            while len(self._threads) < min(self._size, len(unknown)):
                self._threads.append(threading.Thread(target=self._serve, name="t1jax-verifier", daemon=True))
                self._threads[-1].start()
        try:
            batch.over.wait()
        finally:
            batch.over.set()  # Ctrl-C: nobody waits for the rest
        if batch.error:
            raise batch.error
        if batch.example:
            lost = "%d of %d answers are unscorable: %s hung on %d and died on %d, first on %.200r"
            hung, died = batch.lost["timed_out"], batch.lost["crashed"]
            logger.warning(lost, hung + died, len(questions), self.package, hung, died, batch.example)
        return known | batch.answers

    def _serve(self) -> None:
        """The life of one thread: take a question, ask its worker, replace the worker when it is due."""
        worker: Worker | None = None
        try:
            while (job := self._jobs.get()) is not None:
                question, batch = job
                if batch.over.is_set():
                    continue
                if worker is None and (worker := self._start()) is None:
                    batch.fail(self._broken or RuntimeError("no worker"))
                    continue
                deadline = self._deadline(batch)
                try:
                    answer = worker.ask(question, deadline, self.times(question))
                    kind = "unread" if answer in (UNREAD, UNSCORABLE) else "compared"
                except Died as death:
                    answer, kind = UNSCORABLE, "timed_out" if death.timed_out else "crashed"
                self._settle(question, batch, answer, kind, cache=deadline == self._cfg.deadline or kind not in LOST)
                if kind in LOST or worker.answered >= self._cfg.recycle:
                    self._end(worker)
                    worker = None
        finally:
            if worker is not None:
                self._end(worker)

    def _deadline(self, batch: _Batch) -> float:
        """Seconds for the next question. It halves with every four hung answers a worker: a batch is not hours late."""
        return max(
            min(_SHORTEST, self._cfg.deadline),
            self._cfg.deadline * 0.5 ** (batch.lost["timed_out"] // (4 * self._size)),
        )

    def _settle(self, question: Question, batch: _Batch, answer: Any, kind: str, cache: bool) -> None:
        with self._lock:
            if self._broken:
                batch.fail(self._broken)
                return
            self._counts[kind] += 1
            if cache and kind != "crashed":
                self._cache[question] = answer
                if len(self._cache) > self.kept:
                    self._cache.popitem(last=False)
            batch.answers[question] = answer
            if kind in LOST:
                batch.lost[kind] += 1
                batch.example = batch.example or question
            batch.missing -= 1
            if batch.missing == 0:
                batch.over.set()

    def _start(self) -> Worker | None:
        """A worker that is ready; None if the verifier is closed or workers do not start."""
        while True:
            with self._lock:
                if self._broken:
                    return None
                worker = Worker(PROGRAM, self._cfg, self._program)
                self._workers.add(worker)
                self._counts["started"] += 1
            problem = worker.greet()
            with self._lock:
                if problem is None and not self._broken:
                    self._failed_starts, self._most_failed = 0, _STARTS
                    return worker
                self._failed_starts += 1
                if not self._broken and self._failed_starts >= self._most_failed:
                    self._broken = ConfigError(self.cannot_start(problem or "it was ended"))
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.kill()
        with self._lock:
            self._workers.discard(worker)
