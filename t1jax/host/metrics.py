# SPDX-License-Identifier: Apache-2.0
"""The metrics of a run: metrics.jsonl, with one row per step, and TensorBoard events. Process 0 only.

... -> update -> **metrics** -> checkpoint -> evaluate -> report.
Every row has every column of `REQUIRED`; null if the column does not apply to the stage, or if a value is NaN or
infinite. A row has been flushed to the file when `write` returns; in a bucket it is there when `sync` returns, which
comes before each checkpoint. A resumed run first drops the rows of steps that will
be repeated, so that each step has one row however often the run was interrupted.
Deliberately not here: the bar on the terminal (progress.py), plots (plots.py), services (loggers/).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from t1jax.config import ConfigError
from t1jax.devices import multihost
from t1jax.host import boards, files, log
from t1jax.host.boards import Boards
from t1jax.host.log import Log
from t1jax.host.place import Place

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
FILE_NAME = "metrics.jsonl"
SUMMED = ("tokens", "tokens_trained")  # columns of RL that have another, NAME_so_far, with the sum over all steps


class MetricsWriter:
    """Appends rows to `workdir/metrics.jsonl` (log.py) and scalars to `workdir/tensorboard/<stage>` (boards.py)."""

    def __init__(
        self, workdir: Place, resume_after: Mapping[str, int], lost: Callable[[int], None] = lambda tokens: None,
        tensorboard: int = boards.MOST, show: Callable[[Mapping[str, Any]], None] = lambda row: None,
    ) -> None:  # fmt: skip
        """`resume_after[stage]` is the last step that stands; a stage that is not named starts anew.

        Existing rows of later steps are dropped: {} drops them all. Give {"sft": 100, "rl": 40, "evaluate": 40}
        to go on after update 40 of RL. `lost` is told the tokens of rows of RL and evaluations that are dropped.
        `tensorboard`: the most bytes that TensorBoard's files may take; 0: there are none. `show` is told each row.
        """
        self._lost, self._show = lost, show
        self._sums: dict[str, int] = {}
        self.workdir = workdir
        self.path = workdir / FILE_NAME
        self._resume_after = dict(resume_after)
        self._log: Log | None = None
        self._boards = Boards(workdir, tensorboard) if multihost.is_main() else None
        if multihost.is_main():
            self._drop(self._resume_after)
            self._log = Log(self.path)

    def rewind(self, step: int, *stages: str) -> None:
        """The steps of these stages after `step` will be done again: their rows go. Those of other stages stay."""
        again = dict.fromkeys(stages, step)
        self._resume_after |= again
        if self._log is not None:
            self._log.close()
            self._drop(again, others=math.inf)
            self._log = Log(self.path)

    def _drop(self, resume_after: Mapping[str, int], others: float = -1) -> None:
        """As keep_rows; and counts the tokens of what is dropped, and of what stays."""
        dropped = keep_rows(self.path, resume_after, others)
        if tokens := sum(int(row.get("tokens") or 0) for row in dropped if row["stage"] in ("rl", "evaluate")):
            self._lost(tokens)
        stand = [row for row in read_rows(self.workdir) if row["stage"] == "rl"] if log.exists(self.path) else []
        self._sums = {name: sum(int(row.get(name) or 0) for row in stand) for name in SUMMED}

    def sync(self) -> None:
        """Returns when all rows are on the disk: a checkpoint that follows never has a step without its row.

        Raises:
          Unreachable: they could not be put into the bucket; they are kept for the next call.
        """
        if self._log is not None and self._boards is not None:
            self._log.sync()
            self._boards.flush()

    def write(self, stage: str, step: int, report: Mapping[str, Any]) -> dict[str, Any]:
        """Writes one row and returns it as plain Python. Waits for the values if they are still on a device."""
        row: dict[str, Any] = dict.fromkeys(REQUIRED)
        row["stage"], row["step"] = stage, int(step)
        for name, value in report.items():
            value = files.json_ready(value)
            if name in ("stage", "step") or isinstance(value, list | dict):
                raise ValueError(f"metrics: column {name!r} of {stage} step {step}: got {value!r}, expected a scalar")
            row[name] = value
        if stage == "rl" and "tokens_trained" in row:
            for name in SUMMED:
                self._sums[name] = row[f"{name}_so_far"] = self._sums.get(name, 0) + int(row[name] or 0)
        if self._log is not None and self._boards is not None:
            self._log.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._boards.show(row, again=self._resume_after.get(stage, -1) + 1)
            self._show(row)
        return row

    def close(self) -> None:
        """Writes what is still in memory. The writer cannot be used afterwards."""
        if self._log is not None and self._boards is not None:
            self._log.close()
            self._boards.close()
            self._log = self._boards = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def read_rows(workdir: Place) -> list[dict[str, Any]]:
    """The rows of `workdir/metrics.jsonl`, in order; none where there are none yet. A torn last line is left out."""
    path = workdir / FILE_NAME
    return [json.loads(line) for line in _whole_lines(path, log.read(path))]


def keep_rows(path: Place, resume_after: Mapping[str, int], others: float = -1) -> list[dict[str, Any]]:
    """Drops from a metrics file, atomically, a torn last line and the rows of steps after `resume_after`.

    Of stages that are not named there, those after `others`. Returns the dropped rows.
    """
    dropped = []
    for part in log.parts(path):
        content, kept = part.read_bytes(), []
        for line in _whole_lines(part, content):
            row = json.loads(line)
            if row["step"] <= resume_after.get(row["stage"], others):
                kept.append(line + "\n")
            else:
                dropped.append(row)
        log.keep(part, content, "".join(kept).encode("utf-8"))
    return dropped


def _whole_lines(path: Place, content: bytes) -> list[str]:
    """The lines of the file that a newline ends. ConfigError: one of them is not a row."""
    lines = content.split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode("utf-8"))
            if type(row["stage"]) is not str or type(row["step"]) is not int:
                raise TypeError("stage or step of another type")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{path} line {number}: got {line[:60]!r}, expected a JSON row with stage and step; "
                "delete that line, or move the file away to start a new one"
            ) from error
    return [line.decode("utf-8") for line in lines]
