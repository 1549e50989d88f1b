# SPDX-License-Identifier: Apache-2.0
"""Judged responses in a file, a JSON line each, that survives every kill.

    problem   number of the problem in its file's list       answer    what the last box holds; null without one
    row       of the file                                    gold      the right answer; null: nothing can be judged
    response  0 .. samples - 1                               outcome   right, wrong or unscorable
    text      of the response                                overlong  no stop token within the limit
    tokens    how many, the stop token included              ids       which

What the responses depend on stands in a file beside, and going on with anything else is refused. Lines reach the disk
a batch at a time. After a kill, the lines of a batch that is not whole are cut off, to be sampled again.
Deliberately not here: sampling and judging (responses.py).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t1jax.config import ConfigError
from t1jax.devices import multihost
from t1jax.host import files
from t1jax.rewards.answers import Outcome

FORMAT = 1
TOLD = ("checkpoint", "data")  # settings for people; what they stand for is compared as `weights` and `questions`


@dataclass(frozen=True, eq=False)
class Response:
    """One sampled and judged response."""

    problem: int
    row: int
    response: int
    outcome: Outcome
    answer: str | None
    gold: str | None
    overlong: bool
    text: str
    ids: np.ndarray  # int32[tokens]

    def line(self) -> bytes:
        """Its JSON line, in ASCII."""
        row = {
            "problem": self.problem,
            "row": self.row,
            "response": self.response,
            "outcome": self.outcome.name.lower(),
            "answer": self.answer,
            "gold": self.gold,
            "tokens": len(self.ids),
            "overlong": self.overlong,
            "text": self.text,
            "ids": self.ids.tolist(),
        }
        return json.dumps(row).encode() + b"\n"

    @staticmethod
    def parse(line: bytes) -> Response:
        """The response of a JSON line. ValueError, KeyError or TypeError: it is none."""
        row = json.loads(line)
        ids = np.asarray(row["ids"], np.int32)
        if len(ids) != row["tokens"]:
            raise ValueError(f"{row['tokens']} tokens, {len(ids)} ids")
        return Response(
            row["problem"], row["row"], row["response"], Outcome[row["outcome"].upper()], row["answer"], row["gold"],
            row["overlong"], row["text"], ids,
        )  # fmt: skip


class Journal:
    """The file at `path`, and its settings beside it: PATH without .jsonl + .settings.json. Process 0 alone writes."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.beside = path, path.with_suffix(".settings.json")
        self._settings = files.json_ready({"format": FORMAT, **settings})

    def resume(self, batches: Sequence[Sequence[tuple[int, int]]]) -> list[Response]:
        """The responses of the whole batches that the file begins with; what follows them is cut off.

        Args:
          batches: (problem, response) of the lines of each batch, in order.

        Raises:
          ConfigError: the file is damaged, has other settings, or is not the same for all processes.
        """
        self._refuse_other_settings()
        found = list(self._read()) if self.path.exists() else []
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
            if self.path.exists():
                os.truncate(self.path, found[whole - 1][1] if whole else 0)
        return [response for response, _ in found[:whole]]

    def append(self, batch: Sequence[Response]) -> None:
        """The lines of a batch are on the disk when this returns."""
        if multihost.is_main():
            with open(self.path, "ab") as file:
                file.write(b"".join(response.line() for response in batch))
                file.flush()
                os.fsync(file.fileno())

    def _refuse_other_settings(self) -> None:
        if not self.beside.exists():
            if self.path.exists():
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
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                try:
                    response = Response.parse(line)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise self._damaged(number, f"{type(error).__name__}", "a response in JSON") from error
                yield response, end

    def _damaged(self, line: int, found: str, expected: str) -> ConfigError:
        return ConfigError(f"{self.path}: line {line}: {found}; expected {expected}: delete it, or take another --out")
