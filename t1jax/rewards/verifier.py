# SPDX-License-Identifier: Apache-2.0
"""Compares answers with reference answers: text and numbers here, everything else with math-verify in worker processes.

    with Verifier(cfg.verifier) as verifier:
        outcomes = verifier.check([(answer, gold), ...])

math-verify hangs on hostile LaTeX, uses much memory, and fails outside the main thread. So it runs in workers
(worker.py), which are spawned, never forked from a program with JAX threads, and killed when an answer takes more CPU
time than verifier.deadline (process.py). Such an answer is unscorable; no other answer is affected. A gold that
math-verify cannot parse is compared as text: any other text is wrong.

Each worker has its own thread, because the kernel ends a worker when the thread that started it ends.

Where: rollouts -> rewards. Host only. Called from several threads at once: those of io_callback.
Deliberately not here: the algebra (worker.py), what text and exact numbers can tell (answers.py, precheck.py), how
answers are written (notation.py, pairing.py).
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
from t1jax.rewards import answers, notation, precheck
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG, Outcome
from t1jax.rewards.precheck import Pair
from t1jax.rewards.process import Died as _Died
from t1jax.rewards.process import Worker as _Worker
from t1jax.rewards.worker import UNREAD
from t1jax.validation import cores

logger = logging.getLogger(__name__)

BY_TEXT = "by text, number or choice"  # what a verdict rests on
BY_VALUE = "by value: math-verify"
LOST = "not judged: over verifier.deadline or verifier.memory"
TOO_MUCH = "not judged: too long, too deeply nested, or too large a number"

_PROGRAM = Path(__file__).with_name("worker.py")
_LOST = ("timed_out", "crashed")
_CACHED = 2**15  # verdicts kept
_STARTS = 3  # failed starts in a row before the verifier gives up
_SHORTEST = 0.2  # deadline of a batch that hangs again and again, seconds; 20 times what an ordinary answer takes


class _Batch:
    """The pairs of one call that workers have to compare."""

    def __init__(self, pairs: Sequence[Pair]):
        self.outcomes: dict[Pair, Any] = {}
        self.missing = len(pairs)
        self.lost: Counter[str] = Counter()  # timed_out, crashed
        self.example: Pair | None = None  # the first that was lost
        self.over = threading.Event()
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        self.over.set()


class Verifier:
    """A pool of workers that start with the first pair that needs one. `check` may be called from any thread.

    Raises:
      ConfigError: from `check`, if workers cannot be started: math-verify is missing, or the memory is too small.
    """

    package = "math-verify"  # what workers need, for messages

    def __init__(self, cfg: VerifierConfig, program: Sequence[str] = ()):
        """`program`: a file and words for its `start`, for other questions than math-verify's; see worker.py."""
        self._cfg, self._program = cfg, program
        self._size = cfg.workers or cores()
        self._lock = threading.Lock()  # held for all below, and never while waiting
        self._jobs: queue.SimpleQueue[tuple[Pair, _Batch] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._workers: set[_Worker] = set()
        self._cache: OrderedDict[Pair, Any] = OrderedDict()
        self._counts: Counter[str] = Counter()
        self._failed_starts = 0
        self._broken: Exception | None = None  # why no worker will be asked any more

    def check(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """One outcome a pair (answer, gold), in their order. A pair that occurs twice is compared once.

        Raises:
          ConfigError: no worker can be started.
          RuntimeError: the verifier is closed.
        """
        return [outcome for outcome, _ in self.explain(pairs)]

    def explain(self, pairs: Sequence[Pair]) -> list[tuple[Outcome, str]]:
        """(outcome, what it rests on, in words) of each pair (answer, gold).

        Raises: as `check`.
        """
        outcomes: dict[Pair, tuple[Outcome, str]] = {}
        open_pairs: dict[Pair, Pair] = {}  # pair -> what to ask a worker about
        counts: Counter[str] = Counter(checked=len(pairs))
        for pair in pairs:
            if pair in outcomes or pair in open_pairs:
                counts["cached"] += 1
                continue
            known = answers.quick(*pair)
            if known is None and any(map(precheck.intractable, pair)):
                counts["refused"] += 1
                outcomes[pair] = UNSCORABLE, TOO_MUCH
                continue
            found = precheck.by_text(*pair) if known is None else known
            if isinstance(found, bool):
                counts["quick"] += 1
                outcomes[pair] = RIGHT if found else WRONG, BY_TEXT
            else:
                open_pairs[pair] = found
        counts["cached"] += len(open_pairs) - len(set(open_pairs.values()))
        with self._lock:
            self._counts.update(counts)
        compared = self._compare(set(open_pairs.values())) if open_pairs else {}
        for pair, asked in open_pairs.items():
            found = compared[asked]
            by_value = BY_VALUE if found >= 0 else LOST
            outcomes[pair] = precheck.as_text(*asked) if found == UNREAD else (Outcome(found), by_value)
        return [outcomes[pair] for pair in pairs]

    def comparable(self, golds: Sequence[str]) -> list[bool]:
        """Of each gold, whether answers can be compared with it by value; with the others they are as text.

        Raises: as `check`.
        """
        asked = {}  # gold -> itself as a pair, where numbers and choices cannot tell
        for gold in golds:
            if answers.exact(gold) or precheck.intractable(gold):
                continue
            text = notation.rewrite(gold)
            if not answers.exact(text):
                asked[gold] = text, text
        found = self._compare(set(asked.values())) if asked else {}
        return [found[asked[gold]] != UNREAD if gold in asked else not precheck.intractable(gold) for gold in golds]

    def ask(self, pairs: Sequence[Pair]) -> list[Any]:
        """What the program's `answer` says to each pair of texts; UNSCORABLE where it hung or died.

        Raises: as `check`.
        """
        with self._lock:
            self._counts["checked"] += len(pairs)
        answers = self._compare(set(pairs)) if pairs else {}
        return [answers[pair] for pair in pairs]

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

    def _compare(self, pairs: set[Pair]) -> dict[Pair, Any]:
        """Outcomes from the cache or from workers; waits for them."""
        with self._lock:
            if self._broken:
                raise self._broken
            known = {pair: self._cache[pair] for pair in pairs if pair in self._cache}
            for pair in known:
                self._cache.move_to_end(pair)
            self._counts["cached"] += len(known)
            unknown = sorted(pairs - known.keys(), key=lambda pair: (len(pair[0]), pair))  # what may hang comes last
            if not unknown:
                return known
            batch = _Batch(unknown)
            for pair in unknown:
                self._jobs.put((pair, batch))
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
            lost = "%d of %d answers are unscorable: %s hung on %d and died on %d, first on (answer, gold) %.200r"
            hung, died = batch.lost["timed_out"], batch.lost["crashed"]
            logger.warning(lost, hung + died, len(pairs), self.package, hung, died, batch.example)
        return known | batch.outcomes

    def _serve(self) -> None:
        """The life of one thread: take a pair, have its worker compare it, replace the worker when it is due."""
        worker: _Worker | None = None
        try:
            while (job := self._jobs.get()) is not None:
                pair, batch = job
                if batch.over.is_set():
                    continue
                if worker is None and (worker := self._start()) is None:
                    batch.fail(self._broken or RuntimeError("no worker"))
                    continue
                deadline = self._deadline(batch)
                try:
                    outcome = worker.compare(pair, deadline)
                    kind = "unread" if outcome in (UNREAD, UNSCORABLE) else "compared"
                except _Died as death:
                    outcome, kind = UNSCORABLE, "timed_out" if death.timed_out else "crashed"
                self._settle(pair, batch, outcome, kind, cache=deadline == self._cfg.deadline or kind not in _LOST)
                if kind in _LOST or worker.answered >= self._cfg.recycle:
                    self._end(worker)
                    worker = None
        finally:
            if worker is not None:
                self._end(worker)

    def _deadline(self, batch: _Batch) -> float:
        """Seconds for the next pair. It halves with every four hung answers a worker: a batch is not hours late."""
        return max(
            min(_SHORTEST, self._cfg.deadline),
            self._cfg.deadline * 0.5 ** (batch.lost["timed_out"] // (4 * self._size)),
        )

    def _settle(self, pair: Pair, batch: _Batch, outcome: Any, kind: str, cache: bool) -> None:
        with self._lock:
            if self._broken:
                batch.fail(self._broken)
                return
            self._counts[kind] += 1
            if cache and kind != "crashed":
                self._cache[pair] = outcome
                if len(self._cache) > _CACHED:
                    self._cache.popitem(last=False)
            batch.outcomes[pair] = outcome
            if kind in _LOST:
                batch.lost[kind] += 1
                batch.example = batch.example or pair
            batch.missing -= 1
            if batch.missing == 0:
                batch.over.set()

    def _start(self) -> _Worker | None:
        """A worker that is ready; None if the verifier is closed or workers do not start."""
        while True:
            with self._lock:
                if self._broken:
                    return None
                worker = _Worker(_PROGRAM, self._cfg, self._program)
                self._workers.add(worker)
                self._counts["started"] += 1
            problem = worker.greet()
            with self._lock:
                if problem is None and not self._broken:
                    self._failed_starts = 0
                    return worker
                self._failed_starts += 1
                if not self._broken and self._failed_starts >= _STARTS:
                    self._broken = ConfigError(
                        f"the verifier's process does not start: {problem} ({sys.executable}, verifier.memory is "
                        f"{self._cfg.memory} MiB); expected it to import {self.package}: install it, or raise that knob"
                    )
            self._end(worker)

    def _end(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._workers.discard(worker)
