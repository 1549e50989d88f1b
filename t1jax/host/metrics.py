# SPDX-License-Identifier: Apache-2.0
"""The metrics of a run: metrics.jsonl, with one row per step, and TensorBoard events. Process 0 only.

... -> update -> **metrics** -> checkpoint -> evaluate -> report.
Every row has every column of `REQUIRED`; null if the column does not apply to the stage, or if a value is NaN or
infinite. A row has been flushed to the file when `write` returns. A resumed run first drops the rows of steps that will
be repeated, so that each step has one row however often the run was interrupted.
Deliberately not here: the bar on the terminal (progress.py), plots (plots.py).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from t1jax.devices import multihost
from t1jax.host import files

REQUIRED = (
    "stage",  # sft | rl | evaluate
    "step",  # optimiser updates done in this stage; for `evaluate`: RL updates done
    "loss",
    "reward",  # mean of r': 1 right, 0 wrong, rl.penalty when penalised
    "accuracy",  # share of right answers
    "response_length",  # mean tokens
    "entropy",  # nats a token
    "kl_anchor",  # nats a response
    "overlong",  # share of responses
    "repetition",  # share of responses
    "garbled",  # share of responses
    "perplexed",  # share of responses
    "unscorable",  # share of responses
    "grad_norm",
    "skipped",  # 1: the gradient was not finite, and nothing was updated; else 0
    "learning_rate",
    "logprob_gap",  # max |sampler - learner| log-probability of a sampled token, nats
    "log_ratio_mean",  # of a token's log-probability, learner minus sampler, nats
    "log_ratio_std",  # of the same, nats
    "log_ratio_std_response",  # of its sum over a response, nats
    "ratio_outside",  # share of responses whose ratio learner / sampler is below 0.8 or above 1.25
    "tokens_per_second",
    "seconds",  # of this step
)
FLUSH = 10.0  # seconds after which TensorBoard sees a row, at the latest with the next one


class MetricsWriter:
    """Appends rows to `workdir/metrics.jsonl` and scalars to `workdir/tensorboard/<stage>`."""

    def __init__(self, workdir: str | Path, resume_after: Mapping[str, int]) -> None:
        """`resume_after[stage]` is the last step that stands; a stage that is not named starts anew.

        Existing rows of later steps are dropped: {} drops them all. Give {"sft": 100, "rl": 40, "evaluate": 40}
        to go on after update 40 of RL.
        """
        self.workdir = Path(workdir)
        self.path = self.workdir / "metrics.jsonl"
        self._resume_after = dict(resume_after)
        self._boards: dict[str, Any] = {}
        self._flushed = -math.inf  # when TensorBoard could last see all rows
        self._file: Any = None
        if multihost.is_main():
            self.workdir.mkdir(parents=True, exist_ok=True)
            keep_rows(self.path, self._resume_after)
            self._file = open(self.path, "a", encoding="utf-8")

    def rewind(self, step: int, *stages: str) -> None:
        """The steps of these stages after `step` will be done again: their rows go. Those of other stages stay."""
        again = dict.fromkeys(stages, step)
        self._resume_after |= again
        if self._file is not None:
            self._file.close()
            keep_rows(self.path, again, others=math.inf)
            self._file = open(self.path, "a", encoding="utf-8")

    def sync(self) -> None:
        """Returns when all rows are on the disk: a checkpoint that follows never has a step without its row."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._flush_boards()

    def write(self, stage: str, step: int, report: Mapping[str, Any]) -> dict[str, Any]:
        """Writes one row and returns it as plain Python. Waits for the values if they are still on a device."""
        row: dict[str, Any] = dict.fromkeys(REQUIRED)
        row["stage"], row["step"] = stage, int(step)
        for name, value in report.items():
            value = files.json_ready(value)
            if name in ("stage", "step") or isinstance(value, list | dict):
                raise ValueError(f"metrics: column {name!r} of {stage} step {step}: got {value!r}, expected a scalar")
            row[name] = value
        if self._file is not None:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()
            self._show(row)
        return row

    def close(self) -> None:
        """Writes what is still in memory. The writer cannot be used afterwards."""
        for board in self._boards.values():
            board.close()
        self._boards = {}
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _show(self, row: Mapping[str, Any]) -> None:
        """One TensorBoard event for all scalars of a row. Not SummaryWriter: its queue would not survive a kill."""
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]  # slow import
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        scalars = {k: v for k, v in row.items() if k not in ("stage", "step") and isinstance(v, int | float)}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._board(row["stage"]).write_event(
            Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        )
        if time.monotonic() - self._flushed > FLUSH:
            self._flush_boards()

    def _flush_boards(self) -> None:
        for board in self._boards.values():
            board.flush()
        self._flushed = time.monotonic()

    def _board(self, stage: str) -> Any:
        """The TensorBoard file of a stage: it tells TensorBoard to forget the steps that are done again."""
        if stage not in self._boards:
            from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            folder = self.workdir / "tensorboard" / stage
            folder.mkdir(parents=True, exist_ok=True)
            # its own name has whole seconds and would overwrite a file
            board = self._boards[stage] = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
            again = self._resume_after.get(stage, -1) + 1
            board.write_event(Event(wall_time=time.time(), step=again, session_log=SessionLog(status=SessionLog.START)))
        return self._boards[stage]


def read_rows(workdir: str | Path) -> list[dict[str, Any]]:
    """The rows of `workdir/metrics.jsonl`, in order. A last line cut short by a crash is left out."""
    return [json.loads(line) for line in _whole_lines(Path(workdir) / "metrics.jsonl")]


def keep_rows(path: Path, resume_after: Mapping[str, int], others: float = -1) -> None:
    """Drops from a metrics file, atomically, a torn last line and the rows of steps after `resume_after`.

    Of stages that are not named there, those after `others`.
    """
    if not path.exists():
        return
    kept = []
    for line in _whole_lines(path):
        row = json.loads(line)
        if row["step"] <= resume_after.get(row["stage"], others):
            kept.append(line + "\n")
    content = "".join(kept).encode("utf-8")
    if content != path.read_bytes():
        files.write_bytes(path, content)


def _whole_lines(path: Path) -> list[str]:
    """The lines that a newline ends; raises where one of them is not a row."""
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row["stage"], row["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} line {number}: got {line[:60]!r}, expected a JSON row with stage and step; "
                "delete that line, or move the file away to start a new one"
            ) from error
    return [line.decode("utf-8") for line in lines]
