# SPDX-License-Identifier: Apache-2.0
"""What the two training loops share: when something is due, and rows that are written one step late.

Deliberately not here: the loops themselves (sft.py, rl.py).
"""

from __future__ import annotations

import time

import jax

from t1jax.files import json_ready
from t1jax.metrics import MetricsWriter
from t1jax.progress import Stage
from t1jax.types import Report


def due(step: int, every: int, last: int) -> bool:
    """Whether something done every `every` steps (0: never) and after the `last` one is to be done after `step`."""
    return step == last or (every > 0 and step % every == 0)


class StepLog:
    """Writes each step's report when the next step is under way, so that the device never waits for a file."""

    def __init__(self, name: str, writer: MetricsWriter, stage: Stage) -> None:
        self._name, self._writer, self._stage = name, writer, stage
        self._waiting: tuple[int, Report] | None = None
        self._began = time.perf_counter()

    def push(self, step: int, report: Report) -> None:
        """The report of update `step`, whose values may not be computed yet; writes the one before."""
        self.flush()
        self._waiting = (step, report)
        if all(value.is_ready() for value in jax.tree.leaves(report)):  # the call was not asynchronous: on CPU
            self.flush()

    def flush(self) -> None:
        """Writes the report that waits, if there is one: waits for its values.

        Raises:
          RuntimeError: the scorer failed in that step. All processes raise it, at the same step.
        """
        if self._waiting is None:
            return
        step, report = self._waiting
        self._waiting = None
        row = {name: json_ready(value) for name, value in report.items()}
        if row.pop("failed", 0.0):
            raise RuntimeError(f"{self._name} step {step}: the scorer raised an error; it is in the log of its process")
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        row |= {"seconds": seconds, "tokens_per_second": row["tokens"] / seconds}
        self._stage.update(step, self._writer.write(self._name, step, row))

    def pause(self) -> float:
        """Seconds since the last row, for an evaluation say: they do not count as a step's."""
        began, self._began = self._began, time.perf_counter()
        return self._began - began
