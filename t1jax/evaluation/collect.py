# SPDX-License-Identifier: Apache-2.0
"""Saved responses, read back: those of a run (saved.py), of t1jax.evaluate and of t1jax.filter (journal.py).

... -> evaluate -> **collect** -> behaviour -> report. A file is one evaluation. Those of a run come in the order of
training, others by name.
Deliberately not here: what the responses do (behaviour.py), what else there is in a workdir (training/stages.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t1jax.config import ConfigError
from t1jax.rewards.answers import Outcome
from t1jax.tasks.files.columns import PROBLEMS
from t1jax.tasks.files.rows import Row, named, one_line, read_rows
from t1jax.tasks.files.turns import asked

FOLDER = "responses"  # of a workdir
OUTCOMES = {outcome.name.lower(): outcome for outcome in Outcome}
TYPES: dict[str, Any] = {"problem": int, "outcome": str, "tokens": int, "overlong": bool}
SAVED = TYPES | {"stage": str, "step": int, "prompt": str, "response": str}
JOURNAL = TYPES | {"response": int, "row": int, "text": str}
EXPECTED = "responses that a run, t1jax.evaluate or t1jax.filter wrote"


@dataclass(frozen=True)
class Record:
    """One response."""

    problem: int
    difficulty: Any  # None: not known
    prompt: str | None  # None: not known
    text: str
    gold: str | None
    outcome: Outcome
    tokens: int
    overlong: bool


@dataclass(frozen=True)
class Evaluation:
    """The responses of a file."""

    name: str  # sft-000000, rl-000009, rl-final; of other files the benchmark's or the file's
    path: Path
    stage: str  # sft or rl; "": it is not of a run
    step: int | None  # updates of RL before it
    final: bool  # of a measurement after a stage, not of a glance during RL
    records: tuple[Record, ...]


def collect(path: Path) -> tuple[list[Evaluation], list[str]]:
    """(the evaluations in `path`, a line for each thing that was left out).

    Args:
      path: a file, a workdir, or a folder with such files or with those of t1jax.evaluate.

    Raises:
      ConfigError: nothing is there, or a file is damaged.
    """
    notes: list[str] = []
    found = [_evaluation(file, notes) for file in _files(path, notes)]
    found = [evaluation for evaluation in found if evaluation.records]
    if not found:
        raise ConfigError(
            f"{path}: no saved responses; expected {EXPECTED}: a run saves them unless eval.keep_responses is 0"
        )
    return sorted(found, key=lambda e: (e.stage != "sft", e.step or 0, e.final, e.name)), notes


def _files(path: Path, notes: list[str]) -> list[Path]:
    """The files of `path` that begin with a response."""
    if path.is_file():
        if _kind(_first(path)) is None:
            raise ConfigError(f"{path}: line 1 is no response; expected {EXPECTED}")
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder; expected {EXPECTED}")
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = sorted([*folder.glob("*.jsonl"), *folder.glob("*/responses.jsonl")])
    others = [file for file in found if _kind(_first(file)) is None]
    notes += [f"{file.relative_to(path)}: does not begin with a response: left out" for file in others]
    return [file for file in found if file not in others]


def _first(path: Path) -> Any:
    """The first line of a file as JSON; None if it is none."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.readline())
    except ValueError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file that can be read") from error


def _kind(row: Any) -> Mapping[str, Any] | None:
    """The columns of the format that `row` has; None if it is neither's."""
    for columns in (SAVED, JOURNAL):
        if isinstance(row, dict) and all(type(row.get(name)) is kind for name, kind in columns.items()):
            return columns
    return None


def _evaluation(path: Path, notes: list[str]) -> Evaluation:
    """What a file holds. A last line that no newline ends was being written, and is left out."""
    rows = list(_rows(path, notes))
    if not rows or "stage" not in rows[0]:
        name = path.parent.name if path.name == "responses.jsonl" else path.name.removesuffix(".jsonl")
        prompts = _prompts(path, notes) if rows else {}
        return Evaluation(name, path, "", None, True, tuple(_record(row, prompts.get(row["row"])) for row in rows))
    stage, step = rows[0]["stage"], rows[0]["step"]
    for number, row in enumerate(rows, 1):
        if (row["stage"], row["step"]) != (stage, step):
            raise _damaged(path, number, f"{row['stage']} step {row['step']}", f"{stage} step {step}, as in line 1")
    final = path.stem.endswith("-final") or stage == "sft"
    return Evaluation(path.stem, path, stage, step, final, tuple(_record(row, row["prompt"]) for row in rows))


def _rows(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of a file as JSON, each of the format of the first."""
    columns = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                notes.append(f"{path}: line {number} is not whole: left out")
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise _damaged(path, number, one_line(error), "a response in JSON") from error
            found = _kind(row)
            columns = columns or found
            if found is None or found is not columns or row["outcome"] not in OUTCOMES or row["tokens"] < 0:
                raise _damaged(path, number, "no response, or one of another kind", "a response as in line 1")
            yield row


def _record(row: Mapping[str, Any], prompt: str | None) -> Record:
    gold, text = row.get("gold"), row["text"] if "text" in row else row["response"]
    return Record(
        problem=row["problem"],
        difficulty=row.get("difficulty"),
        prompt=prompt,
        text=text,
        gold=gold if isinstance(gold, str) else None,
        outcome=OUTCOMES[row["outcome"]],
        tokens=row["tokens"],
        overlong=row["overlong"],
    )


def _prompts(path: Path, notes: list[str]) -> dict[int, str]:
    """row -> problem, from the file that the settings beside `path` name; without it, {} and a note."""
    beside = path.with_suffix(".settings.json")
    try:
        data = str(json.loads(beside.read_text(encoding="utf-8"))["data"])
        questions = {number: _question(data, number, row) for number, row in read_rows(data)}
    except (OSError, ValueError, KeyError, TypeError) as error:  # ConfigError is a ValueError
        notes.append(f"{path}: its problems cannot be read, so they are shown by number: {one_line(error)}")
        return {}
    return {number: text for number, text in questions.items() if text}


def _question(path: str, number: int, row: Row) -> str:
    """The problem of a row, in the first column with a common name; "" if there is none."""
    column = next((found[0] for name in PROBLEMS if (found := named(row, name))), None)
    return asked(path, number, row, column)[1] if column else ""


def _damaged(path: Path, line: int, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{path}: line {line}: {found}; expected {expected}: delete the file, or sample again")
