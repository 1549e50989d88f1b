# SPDX-License-Identifier: Apache-2.0
"""Judged responses in a file, a JSON line each (responses.py), that survives every kill.

What the responses depend on stands in a file beside, and going on with anything else is refused. Lines reach the disk
a batch at a time. After a kill, the lines of a batch that is not whole are cut off, to be sampled again.
A run keeps what it samples for an evaluation in WORKDIR/journal until the figures are written.
Deliberately not here: sampling and judging (evaluator.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t1jax.config import ConfigError
from t1jax.devices import multihost
from t1jax.evaluation.responses import Response
from t1jax.host import files, log
from t1jax.host.log import Log
from t1jax.host.place import Place

FORMAT = 1
TOLD = ("checkpoint", "data", "answerer")  # for people; compared is what they stand for: weights and `questions`


FOLDER = "journal"  # of a workdir: what an evaluation that goes on has sampled


def of_run(workdir: Place, stage: str, step: int) -> Callable[..., Journal]:
    """name of a sampling, more settings -> its journal, for the evaluation after `step` updates of a stage of a run."""

    def kept(name: str, **more: Any) -> Journal:
        origin = {"stage": stage, "step": step, **more}
        return Journal(workdir / FOLDER / f"{stage}-{step:06d}-{name}.jsonl", origin, plain=True)

    return kept


def forget(workdir: Place, but: str = "") -> None:
    """Deletes the journals of the run in `workdir` whose evaluations are done; `but`: how those begin that stay."""
    if multihost.is_main():
        paths: list[Place] = [*(workdir / FOLDER).glob("*")]
        for path in paths:
            if not but or not path.name.startswith(but):
                path.unlink(missing_ok=True)


class Journal:
    """The file at `path`, and its settings beside it: PATH without .jsonl + .settings.json. Process 0 alone writes."""

    def __init__(self, path: Place, origin: Mapping[str, Any], plain: bool = False) -> None:
        """
        Args:
          origin: settings that sampling does not know: the checkpoint, its weights, the file of problems.
          plain: of a run, whose responses are those of a call without a journal, and whose problems may have no file.
        """
        self.path, self.beside, self.plain = path, path.with_suffix(".settings.json"), plain
        self._settings = {"format": FORMAT, **origin}

    def resume(self, settings: Mapping[str, Any], batches: Sequence[Sequence[tuple[int, int]]]) -> list[Response]:
        """The responses of the whole batches that the file begins with; what follows them is cut off.

        Args:
          settings: all else that responses depend on.
          batches: (problem, response) of the lines of each batch, in order.

        Raises:
          ConfigError: the file is damaged, has other settings, or is not the same for all processes.
        """
        self._settings = files.json_ready({**self._settings, **settings})
        self._refuse_other_settings()
        found = list(self._read())
        keys = list(itertools.chain(*batches))
        for line, (response, _) in enumerate(found, 1):
            if (key := (response.problem, response.response)) != (keys[line - 1] if line <= len(keys) else None):
                expected = f"{keys[line - 1]}" if line <= len(keys) else "no more lines"
                raise self._damaged(line, f"(problem, response) {key}", expected)
        whole = max(end for end in itertools.accumulate(map(len, batches), initial=0) if end <= len(found))
        counts = np.atleast_1d(multihost.to_host(np.array([whole])))  # from every process
        if (counts != whole).any():
            raise ConfigError(f"{self.path}: processes see {counts.tolist()} responses; expected a folder they share")
        if multihost.is_main():
            if not self.beside.exists():
                files.write_json(self.beside, self._settings)
            if log.exists(self.path):
                log.cut(self.path, found[whole - 1][1] if whole else 0)
        return [response for response, _ in found[:whole]]

    def append(self, batch: Sequence[Response]) -> None:
        """The lines of a batch are on the disk when this returns."""
        if multihost.is_main():
            file = Log(self.path)
            file.write(b"".join(response.line() for response in batch))
            file.sync()
            file.close()

    def _refuse_other_settings(self) -> None:
        if not self.beside.exists():
            if log.exists(self.path):
                raise ConfigError(
                    f"{self.beside}: not found beside {self.path.name}; delete that, or take another --out"
                )
            return
        try:
            theirs = dict(json.loads(self.beside.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self.beside}: {error}; expected what t1jax wrote: take another --out") from error
        names = [name for name in self._settings if name not in TOLD and theirs.get(name) != self._settings[name]]
        if names:
            listed = "; ".join(f"{name} is {self._settings[name]}, not {theirs.get(name)}" for name in names)
            raise ConfigError(f"{self.path} was sampled with other settings: {listed}; give those, or another --out")

    def _read(self) -> Iterator[tuple[Response, int]]:
        """(response, where its line ends in the file, bytes) of each whole line; a torn last line is left out."""
        end = 0
        for number, line in enumerate(log.lines(self.path), 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                response = Response.parse(json.loads(line))
                if len(response.ids) != response.tokens or not (response.row or self.plain):
                    raise ValueError("no ids, or no row")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self._damaged(number, f"{type(error).__name__}", "a response in JSON") from error
            yield response, end

    def _damaged(self, line: int, found: str, expected: str) -> ConfigError:
        return ConfigError(f"{self.path}: line {line}: {found}; expected {expected}: delete it, or take another --out")
