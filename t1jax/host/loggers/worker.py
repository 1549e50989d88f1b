# SPDX-License-Identifier: Apache-2.0
"""The process that holds the client of a logger: what it prints, imports, retries or hangs in is not the run's.

    python -m t1jax.host.loggers.worker NAME PARENT    started by relay.py; NAME: a knob of the section `metrics`

It reads a message a line, JSON: first {"kind": "open", ...} (`Opening`), then {"kind", "step", ...} for each thing to
log, and {"kind": "end", "ok"}. It answers each with a line: {}, {"error": why}, or for the first {"address": where a
person finds the run}. It ends with the process PARENT.
Deliberately not here: what is sent (loggers.py), the clients (to_wandb.py, to_mlflow.py, to_trackio.py).
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from typing import Any, Protocol, TypedDict

from t1jax.host.stopping import end_with_parent
from t1jax.typed import inert

KINDS = ("sft", "rl", "responses", "evaluate", "final", "report")  # in the order in which a step's come
TABLES = ("responses", "final")
LONGEST = 200  # characters of a reason
SECRET = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")  # names of environment variables


class Opening(TypedDict):
    """The first message: which run."""

    target: str  # the knob's value
    id: str  # of the run, the same at each start
    name: str  # for people
    config: dict[str, Any]  # every knob
    folder: str | None  # local, for the client's files; None: the client's own choice
    sft_steps: int  # sft.num_steps


class Logger(Protocol):
    """A run of a service, found by its id or made by `open`."""

    address: str  # where a person finds it
    last: dict[str, int]  # kind -> the last step that the service has; none: it has nothing of that kind

    def row(self, kind: str, step: int, values: dict[str, float]) -> None:
        """A row of metrics: sft, rl or evaluate."""

    def table(self, kind: str, step: int, columns: list[str], rows: list[list[Any]]) -> None:
        """Sampled responses: of an evaluation during RL or before it, or the final ones."""

    def report(self, step: int, html: str) -> None:
        """The report, a page."""

    def end(self, ok: bool) -> None:
        """Returns when the service has everything. `ok`: the run is finished."""


def main() -> None:
    """The program of the process."""
    name, parent = sys.argv[1:]
    end_with_parent(int(parent))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a client prints is no answer
    logger: Logger | None = None
    for line in sys.stdin.buffer:
        told = json.loads(line)
        answer = {}
        try:
            if logger is None:
                logger = importlib.import_module(f"t1jax.host.loggers.to_{name}").open_run(told)
                answer = {"address": logger.address}
            else:
                log(logger, told)
        except (Exception, SystemExit) as error:  # whatever a client raises
            answer = {"error": reason(error)}
        print(json.dumps(answer), file=answers, flush=True)


def log(logger: Logger, told: dict[str, Any]) -> None:
    """Hands a message to the logger, unless the service has it already: from an earlier start, or before a rewind."""
    kind, step = told["kind"], told.get("step", 0)
    if kind == "end":
        logger.end(told["ok"])
    elif step > logger.last.get(kind, -1):
        if kind in TABLES:
            logger.table(kind, step, told["columns"], told["rows"])
        elif kind == "report":
            logger.report(step, told["html"])
        else:
            logger.row(kind, step, told["values"])
        logger.last[kind] = step


def reason(error: BaseException) -> str:
    """What went wrong, in part of a line, without passwords and keys."""
    said = " ".join(str(error).split()) or type(error).__name__
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 4:
            said = said.replace(value, "***")
    return inert(re.sub(r"//[^/@\s]*@", "//", said))[:LONGEST]


if __name__ == "__main__":
    main()
