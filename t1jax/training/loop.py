# SPDX-License-Identifier: Apache-2.0
"""What the two training loops share: when something is due, rows of metrics, checkpoints.

Deliberately not here: the loops themselves (sft.py, rl.py).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jax

from t1jax.devices import multihost
from t1jax.host.files import json_ready
from t1jax.host.metrics import MetricsWriter
from t1jax.host.progress import Stage
from t1jax.host.stopping import Signals
from t1jax.prompts.streams import Stream
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.health import Health
from t1jax.types import Report, TrainState


def due(step: int, every: int, last: int) -> bool:
    """Whether something done every `every` steps (0: never) and after the `last` one is to be done after `step`."""
    return step == last or (every > 0 and step % every == 0)


def _memory() -> dict[str, float]:
    """{peak_memory_gib: the most that a device of this process has held}, where devices tell: CPUs do not."""
    told = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in told if peak is not None]
    return {"peak_memory_gib": max(known) / 2**30} if known else {}


class Saving:
    """Saves what a loop has done when it is due, or when the run is asked to stop."""

    def __init__(self, log: StepLog, checkpoints: Checkpoints, stream: Stream[Any], signals: Signals) -> None:
        self._log, self._checkpoints, self._stream, self._signals = log, checkpoints, stream, signals

    def begin(self, step: int, state: TrainState) -> None:
        """The loop starts after `step` updates."""
        self._keep(step, state)

    def after(self, step: int, state: TrainState, due: bool, score: float | None = None) -> None:
        """`step` is done and its row written: saves it if `due`.

        Raises:
          Interrupted: a process of this run was asked to stop; the step is saved.
        """
        asked = multihost.greatest(self._signals.asked)
        if due or asked:
            self._checkpoints.save(step, state, self._stream.get_state(), score, first=self._log.sync)
        if asked:
            leaving = self._signals.leave(f"stopped after {self._log.name} step {step}", asked)
            self._checkpoints.wait()
            raise leaving
        self._keep(step, state)

    def _keep(self, step: int, state: TrainState) -> None:
        """A copy of the state that the devices cannot take away, if somebody may want it."""
        if self._signals.snapshots:
            copy, stream = jax.device_get(replace(state, base=None)), self._stream.get_state()

            def save() -> None:
                self._checkpoints.save(step, copy, stream, first=self._log.sync)
                self._checkpoints.wait()

            self._signals.keep(save)


class StepLog:
    """Writes a row for each step once the step is done."""

    def __init__(self, name: str, writer: MetricsWriter, stage: Stage, health: Health) -> None:
        self.name, self._writer, self._stage, self._health = name, writer, stage, health
        self._began = time.perf_counter()

    def write(self, step: int, report: Report) -> None:
        """Waits for update `step`, writes its report and looks at its health.

        Raises:
          RuntimeError: the scorer failed in that step. All processes raise it, at the same step.
          Stopped: too many steps in a row were skipped.
        """
        row = {name: json_ready(value) for name, value in report.items()}
        if row.pop("failed", 0.0):
            raise RuntimeError(f"{self.name} step {step}: the scorer raised an error; it is in the log of its process")
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        row |= {"seconds": seconds, "tokens_per_second": row["tokens"] / seconds, **_memory()}
        row = self._writer.write(self.name, step, row)
        self._stage.update(step, row)
        self._health.look(step, row)

    def sync(self) -> None:
        """Returns when all rows are on the disk."""
        self._writer.sync()

    def pause(self) -> float:
        """Seconds since the last row, for an evaluation say: they do not count as a step's."""
        began, self._began = self._began, time.perf_counter()
        return self._began - began
