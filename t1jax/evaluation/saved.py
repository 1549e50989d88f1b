# SPDX-License-Identifier: Apache-2.0
"""Files of responses: a run's are written here, whole; those of any command are read back here.

    WORKDIR/responses/sft-000000.jsonl   after the cold start, on eval.num_problems held-out problems
    WORKDIR/responses/rl-000009.jsonl    after 9 steps of RL, on eval.quick_problems others: one for each evaluation
    WORKDIR/responses/rl-final.jsonl     after RL, on the problems of sft-000000.jsonl

All at temperature 1; of each evaluation the first eval.keep_responses, without token ids. A line is that of
responses.py. A run that goes on first drops the files of steps that will be done again, so it ends with the files of a
run that was never stopped.
Deliberately not here: sampling and judging (evaluator.py), files that grow by batches (journal.py), what the responses
do (behaviour.py).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t1jax.config import ConfigError
from t1jax.devices import multihost
from t1jax.evaluation.responses import Response
from t1jax.host import files, log
from t1jax.host.bucket import Unreachable
from t1jax.host.place import Place
from t1jax.tasks.files.columns import PROBLEMS
from t1jax.tasks.files.rows import Row, first_filled, one_line, read_rows
from t1jax.tasks.files.turns import asked

FOLDER = "responses"  # of a workdir
FINAL = "final"
EXPECTED = "responses that a run, t1jax.evaluate or t1jax.filter wrote"


@dataclass(frozen=True)
class Evaluation:
    """The responses of a file."""

    name: str  # sft-000000, rl-000009, rl-final; of other files the benchmark's or the file's
    path: Place
    stage: str  # sft or rl; "": it is not of a run
    step: int | None  # updates of RL before it
    final: bool  # of a measurement after a stage, not of an evaluation during RL
    responses: tuple[Response, ...]


def path_of(workdir: Place, stage: str, step: int | str) -> Place:
    """Where the responses of a stage after `step` updates of RL are saved; `FINAL` for those of the measurement."""
    return workdir / FOLDER / f"{stage}-{step if isinstance(step, str) else format(step, '06d')}.jsonl"


def save(workdir: Place, responses: Sequence[Response], stage: str, step: int, keep: int, final: bool = False) -> None:
    """Writes the first `keep` of `responses`, on process 0 alone; nothing where that is 0.

    Args:
      step: updates of RL that were done.
      final: they belong to the measurement after RL, not to an evaluation during it.
    """
    kept = responses[:keep]
    if multihost.is_main() and kept:
        nothing = np.zeros(0, np.int32)
        lines = [dataclasses.replace(response, stage=stage, step=step, ids=nothing).line() for response in kept]
        files.write_bytes(path_of(workdir, stage, FINAL if final else step), b"".join(lines))


def rewind(workdir: Place, step: int, last: int) -> None:
    """RL goes on after `step` of its `last` steps: the files of what will be done again go, on process 0 alone."""
    if not multihost.is_main():
        return
    for path in (workdir / FOLDER).glob("rl-*.jsonl"):
        number = path.stem.partition("-")[2]
        if (number.isdecimal() and int(number) > step) or (number == FINAL and step < last):
            path.unlink()


def collect(path: Place) -> tuple[list[Evaluation], list[str]]:
    """(the evaluations in `path`, a line for each thing that was left out).

    Those of a run come in the order of training, others by name.

    Args:
      path: a file, a workdir, or a folder with such files or with those of t1jax.evaluate.

    Raises:
      ConfigError: nothing is there, or a file is damaged.
    """
    notes: list[str] = []
    found = [_evaluation(file, notes) for file in _files(path, notes)]
    found = [evaluation for evaluation in found if evaluation.responses]
    if not found:
        raise ConfigError(
            f"{path}: no saved responses; expected {EXPECTED}: a run saves them unless eval.keep_responses is 0"
        )
    return sorted(found, key=lambda e: (e.stage != "sft", e.step or 0, e.final, e.name)), notes


def _files(path: Place, notes: list[str]) -> list[Place]:
    """The files of `path` that begin with a response."""
    if path.is_file() or (log.exists(path) and not path.is_dir()):
        if not _begins_with_one(path):
            raise ConfigError(f"{path}: line 1 is no response; expected {EXPECTED}")
        return [path]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder; expected {EXPECTED}")
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    below = [each for name in folder.glob("*") if name.is_dir() for each in log.find(name, "responses.jsonl")]
    found = sorted([*log.find(folder, "*.jsonl"), *below])
    others = [file for file in found if not _begins_with_one(file)]
    notes += [f"{file.relative_to(path)}: does not begin with a response: left out" for file in others]
    return [file for file in found if file not in others]


def _begins_with_one(path: Place) -> bool:
    """Whether the first line of a file is a response."""
    try:
        Response.parse(json.loads(next(log.lines(path), b"")))
        return True
    except (ValueError, KeyError, TypeError):
        return False
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a file that can be read") from error


def _evaluation(path: Place, notes: list[str]) -> Evaluation:
    """What a file holds. A last line that no newline ends was being written, and is left out."""
    responses = _read(path, notes)
    stage, step = (responses[0].stage, responses[0].step) if responses else ("", None)
    if stage:
        return Evaluation(path.stem, path, stage, step, path.stem.endswith("-final") or stage == "sft", responses)
    name = path.parent.name if path.name == "responses.jsonl" else path.name.removesuffix(".jsonl")
    prompts = _prompts(path, notes) if responses else {}
    known = tuple(dataclasses.replace(r, prompt=prompts.get(r.row)) for r in responses)
    return Evaluation(name, path, "", None, True, known)


def _read(path: Place, notes: list[str]) -> tuple[Response, ...]:
    """The responses of a file, all of one stage and step."""
    found: list[Response] = []
    for number, line in enumerate(log.lines(path), 1):
        if not line.endswith(b"\n"):
            notes.append(f"{path}: line {number} is not whole: left out")
            break
        try:
            row: Any = json.loads(line)
        except ValueError as error:
            raise _damaged(path, number, one_line(error), "a response in JSON") from error
        try:
            response = Response.parse(row)
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, number, "no response", "a response as in line 1") from error
        first = found[0] if found else response
        if (response.stage, response.step) != (first.stage, first.step):
            stands = f"{response.stage} step {response.step}"
            raise _damaged(path, number, stands, f"{first.stage} step {first.step}, as in line 1")
        found.append(response)
    return tuple(found)


def _prompts(path: Place, notes: list[str]) -> dict[int, str]:
    """row -> problem, from the file that the settings beside `path` name; without it, {} and a note."""
    beside = path.with_suffix(".settings.json")
    try:
        data = str(json.loads(beside.read_text(encoding="utf-8"))["data"])
        questions = {number: _question(data, number, row) for number, row in read_rows(data)}
    except (OSError, Unreachable, ValueError, KeyError, TypeError) as error:  # ConfigError is a ValueError
        notes.append(f"{path}: its problems cannot be read, so they are shown by number: {one_line(error)}")
        return {}
    return {number: text for number, text in questions.items() if text}


def _question(path: str, number: int, row: Row) -> str:
    """The problem of a row, in the first column with a common name that is not empty; "" if there is none."""
    column = first_filled(row, PROBLEMS)
    return asked(path, number, row, column)[1] if column else ""


def _damaged(path: Place, line: int, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{path}: line {line}: {found}; expected {expected}: delete the file, or sample again")
