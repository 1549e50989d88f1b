# SPDX-License-Identifier: Apache-2.0
"""Which columns of a file of problems hold the problem and its answer.

A knob names a column by its name or by a dotted path, case-insensitively; without one these common names are tried:

    problem, answer, solution                       MATH;      question, answer    GSM8K
    prompt (messages), reward_model.ground_truth    verl, DAPO
    conversations, answer                           ShareGPT
    conversations, their last turn's ground_truth   Open-Reasoner-Zero

Several columns may hold an answer; the first one that is not empty counts, and two that disagree are rejected, so that
the user decides. A worked `solution` is used only if no other column has an answer, and is not compared with others,
since it may write the same answer differently.
Source: https://verl.readthedocs.io/en/latest/preparation/prepare_data.html for verl's columns.
Deliberately not here: which part of a text is the answer (problems.py), turns of a conversation (turns.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from t1jax.config import ConfigError, DataConfig
from t1jax.tasks.files.overlap import normalise
from t1jax.tasks.files.rows import CONVERSATIONS, Row, named, names, shown_as, text_of, value_of

PROBLEMS = ("problem", "question", "prompt", CONVERSATIONS, "messages")  # the first that a file has
SOLUTION = "solution"  # a column whose text ends in an answer
NESTED = ("reward_model.ground_truth", f"{CONVERSATIONS}.-1.ground_truth.value")
GOLDS = ("answer", "final_answer", "expected_answer", "gold", "ground_truth", *NESTED, SOLUTION)
SHORT = 100  # characters of a solution, in one line, that may be the answer itself
_GSM8K = re.compile(r"####\s*([^#\n]+?)\s*\Z")  # the last line of a solution
_METAMATH = re.compile(r".*\bthe (?:final )?answer is:?\s*([^\n]+?)\.?\s*\Z", re.IGNORECASE | re.DOTALL)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[ ,]+[A-Za-z]{2,}")  # two words side by side


@dataclass(frozen=True)
class Columns:
    """Where a file's rows have the problem and the answer."""

    problem: str
    golds: tuple[str, ...]  # the first that is not empty counts
    by_knob: bool  # data.answer_column named it


def choose(path: str, row: Row, cfg: DataConfig, answered: bool = True) -> Columns:
    """The columns that the config names, else those with common names that the file's first row has.

    `answered`: there must be one for the answer; else none is looked for.

    Raises:
      ConfigError: there is none, or a name may mean two.
    """
    problem = _one(path, row, "data.problem_column", cfg.problem_column, PROBLEMS)
    if not answered:
        return Columns(problem, (), by_knob=False)
    if cfg.answer_column:
        return Columns(problem, (_one(path, row, "data.answer_column", cfg.answer_column, ()),), by_knob=True)
    _one(path, row, "data.answer_column", "", GOLDS)
    found = (column for name in GOLDS for column in sorted({*named(row, name), *_other_cases(row, name)}))
    return Columns(problem, tuple(dict.fromkeys(found)), by_knob=False)


def first_gold(path: str, number: int, row: Row, columns: Columns, read: Callable[[str], str]) -> str:
    """The row's answer; "" if there is none.

    Args:
      read: the answer that a column of this row holds, "" for none.

    Raises:
      ConfigError: no column is there, or two hold different answers.
    """
    if not any(named(row, column) for column in columns.golds):
        text_of(path, number, row, columns.golds[0])  # says what is missing
    found = {column: gold for column in columns.golds if named(row, column) and (gold := read(column))}
    sure = [column for column in found if not is_solution(column) or is_short(value_of(row, column))]
    for other in sure[1:]:
        if normalise(found[other]) != normalise(found[sure[0]]):
            both = " and ".join(f"{shown_as(column)} ({shown_as(found[column])})" for column in (sure[0], other))
            raise ConfigError(
                f"{path}: row {number}: columns {both} hold different answers; expected data.answer_column to name one"
            )
    return next(iter(found.values()), "")


def several(row: Row, columns: Columns) -> bool:
    """Whether a column for the answer holds a list of several; a list of solutions is none of answers."""
    found = [value_of(row, column) for column in columns.golds if not is_solution(column)]
    return any(isinstance(value, list) and value for value in found)


def marked(text: str) -> str | None:
    """What stands after GSM8K's #### or MetaMath's "The answer is:", at the end of the text."""
    match = _GSM8K.search(text) or _METAMATH.match(text)
    return match and match[1]


def is_solution(column: str) -> bool:
    """Whether a column holds worked solutions, by its name."""
    return column.rpartition(".")[2].casefold() == SOLUTION


def is_short(text: object, by_knob: bool = False) -> bool:
    """Whether a solution without any mark is the answer itself: a short line, of words only if the user named it."""
    if not isinstance(text, str):
        return isinstance(text, int | float)
    text = text.strip()
    plain = "\\boxed" not in text and marked(text) is None
    return plain and len(text) <= SHORT and "\n" not in text and (by_knob or not _PROSE.search(text))


def _one(path: str, row: Row, knob: str, name: str, common: tuple[str, ...]) -> str:
    """The column called `name`, else the first common one."""
    found = next((paths for each in ((name,) if name else common) if (paths := named(row, each))), [])
    if len(found) > 1:
        both = " and ".join(map(shown_as, found))
        raise ConfigError(f"{path}: columns {both} differ in case only; expected {knob} to name one of them")
    if not found:
        expected = f"{knob} = {name!r}" if name else f"one of {', '.join(common)}, or {knob} to name it"
        raise ConfigError(f"{path}: expected a column {expected}; it has {names(row)}")
    return found[0]


def _other_cases(row: Row, name: str) -> list[str]:
    """The columns on top whose names differ from `name` in case only."""
    return [key for key in row if key.casefold() == name.casefold()]
