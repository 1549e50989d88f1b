# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases, MLflow and Trackio: where a run's rows, knobs, responses and report go beside the workdir.

    with Loggers(cfg, workdir, note) as loggers:
        loggers.row(row)                   # what MetricsWriter wrote
        loggers.responses()                # those after the cold start are in the workdir
        loggers.report()                   # the final ones and the report too

The workdir is the original: a start sends what the service lacks of it, so that a run that goes on, or whose service
was away, ends complete and with nothing twice. The id of the run is in WORKDIR/loggers.json. Process 0 only.
Deliberately not here: queues, processes, errors (relay.py), clients (to_wandb.py, to_mlflow.py, to_trackio.py),
TensorBoard (host/boards.py).
"""

from __future__ import annotations

import importlib.util
import json
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any

from t1jax.config import Config, ConfigError
from t1jax.devices import multihost
from t1jax.host import files, workdir
from t1jax.host.bucket import Bucket
from t1jax.host.loggers.relay import Item, Relay
from t1jax.host.loggers.worker import KINDS
from t1jax.host.metrics import read_rows
from t1jax.host.place import Place

NAMES = ("wandb", "mlflow", "trackio")  # knobs of `metrics`, packages, and extras of t1jax
FILE_NAME = "loggers.json"
RESPONSES = "responses"  # the folder of evaluation/saved.py, with files STAGE-STEP.jsonl and rl-final.jsonl
SHOWN = 64  # responses of a table
ATTEMPTS = 5  # to read rows that are being dropped
COLUMNS = ("stage", "step", "problem", "prompt", "text", "answer", "gold", "outcome", "reward", "tokens")


def wanted(cfg: Config) -> dict[str, str]:
    """name -> target of the loggers that the config asks for."""
    return {name: target for name in NAMES if (target := getattr(cfg.metrics, name))}


def refuse_missing(cfg: Config) -> None:
    """ConfigError: the package of a logger that the config asks for is not installed."""
    for name, target in wanted(cfg).items():
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # of a mere folder, such as the one that wandb writes
            raise ConfigError(
                f"metrics.{name} is {target}, which needs the package {name}; expected it: in the folder of t1jax, "
                f"pip install '.[{name}]'"
            )


class Loggers:
    """The loggers of a run; none without metrics.* in its config. No method waits, but for leaving the context."""

    def __init__(self, cfg: Config, folder: Place, note: Callable[[str], None]) -> None:
        """`note` is told what fails, and where the runs can be found; from other threads."""
        self._workdir, self._steps = folder, cfg.rl.num_steps
        self._relays: list[Relay] = []
        names = wanted(cfg) if multihost.is_main() else {}
        if names:
            opening = {
                "id": _identity(folder),
                "name": folder.absolute().name,
                "config": files.json_ready(cfg.to_dict()),
                "folder": None if isinstance(folder, Bucket) else str(folder.absolute()),
                "sft_steps": cfg.sft.num_steps,
            }
            for name, target in names.items():
                more = opening | {"target": target}
                self._relays.append(Relay(name, more, self._everything, self._message, note))

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of metrics. The responses of an evaluation, saved before its row is written, go along."""
        if row["stage"] == "evaluate":
            self._put(Item("responses", row["step"]))
        self._put(Item(row["stage"], row["step"], row))

    def responses(self) -> None:
        """Those after the cold start are saved."""
        self._put(Item("responses", 0))

    def report(self) -> None:
        """The report is written; and the final responses are saved."""
        self._put(Item("final", self._steps))
        self._put(Item("report", self._steps))

    def _put(self, item: Item) -> None:
        for relay in self._relays:
            relay.put(item)

    def _everything(self) -> list[Item]:
        """What the workdir holds, in the order in which it came."""
        items = [Item(row["stage"], row["step"], row) for row in self._rows()]
        for path in (self._workdir / RESPONSES).glob("*-*.jsonl"):
            number = path.stem.partition("-")[2]
            items.append(Item("responses", int(number)) if number.isdecimal() else Item("final", self._steps))
        if (self._workdir / "report.html").exists():
            items.append(Item("report", self._steps))
        return sorted(items, key=lambda item: (item.kind != "sft", item.step, KINDS.index(item.kind)))

    def _rows(self) -> list[dict[str, Any]]:
        """What metrics.jsonl holds, although its writer may be dropping rows: in a bucket, a part after the other."""
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError):
                return read_rows(self._workdir)
            time.sleep(1.0)
        return read_rows(self._workdir)

    def _message(self, item: Item) -> dict[str, Any] | None:
        """An item as worker.py takes it; None: its file is not there."""
        told: dict[str, Any] = {"kind": item.kind, "step": item.step}
        if item.row is not None:
            values = {name: value for name, value in item.row.items() if isinstance(value, int | float)}
            return told | {"values": values}
        if item.kind == "report":
            return told | {"html": (self._workdir / "report.html").read_text(encoding="utf-8")}
        try:
            lines = (self._workdir / RESPONSES / self._file_name(item)).read_bytes().splitlines()[:SHOWN]
        except FileNotFoundError:  # eval.keep_responses is 0, or the step is done again
            return None
        rows = [[files.json_ready(json.loads(line).get(name)) for name in COLUMNS] for line in lines]
        return told | {"columns": list(COLUMNS), "rows": rows}

    @staticmethod
    def _file_name(item: Item) -> str:
        stage = "rl" if item.step or item.kind == "final" else "sft"
        return f"{stage}-{'final' if item.kind == 'final' else format(item.step, '06d')}.jsonl"

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._relays:
            with ThreadPoolExecutor(len(self._relays)) as pool:
                list(pool.map(lambda relay: relay.close(ok=kind is None), self._relays))


def _identity(folder: Place) -> str:
    """The id of the run in `folder`, the same at each start."""
    path = folder / FILE_NAME
    if not path.exists():
        files.write_json(path, {"id": secrets.token_hex(8)})
    found = workdir.read(path).get("id")
    if not isinstance(found, str):
        raise ConfigError(f"{path}: id is {found!r}; expected what t1jax wrote: delete it")
    return found
