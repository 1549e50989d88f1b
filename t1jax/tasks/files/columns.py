# SPDX-License-Identifier: Apache-2.0
"""Which columns of a file of problems hold the problem and its answer.

A knob names a column by its name or by a dotted path, case-insensitively; without one these common names are tried:

    problem, answer, solution                       MATH, Omni-MATH;   question, answer    GSM8K
    Question, solution, Answer                      MATH500 of THUDM/TreeRL;   Problem, Solution, Answer    AIME_2024
    context, question, final_answer (a list)        OlympiadBench
    text, label                                     the training problems of THUDM/TreeRL
    prompt (messages), reward_model.ground_truth    verl, DAPO
    extra_info.question, extra_info.answer          verl
    conversations, answer                           ShareGPT
    conversations, their last turn's ground_truth   Open-Reasoner-Zero
    Question, Correct Answer, Incorrect Answer 1-3  GPQA (choices.py)

Rows of a file may have different columns. Several columns may hold a problem or an answer; the first one that is not
empty counts, and two answers that disagree are rejected, so that the user decides. A worked `solution` is used only if
no other column has an answer. It may write the same answer differently, and in some data sets it is now and then wrong,
so a file is rejected only if most of its solutions end in another number than its answers.
Source: https://verl.readthedocs.io/en/latest/preparation/prepare_data.html for verl's columns; datasets/ of
THUDM/TreeRL at 3feada6; the dataset cards of Hothan/OlympiadBench, KbsdJames/Omni-MATH, Maxwell-Jia/AIME_2024.
Deliberately not here: which part of a text is the answer (problems.py), turns of a conversation (turns.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from t1jax.config import ConfigError, DataConfig
from t1jax.rewards import answers
from t1jax.tasks.files.choices import choice_columns
from t1jax.tasks.files.overlap import normalise
from t1jax.tasks.files.rows import CONVERSATIONS, Row, named, names, shown_as, text_of, value_of

PROBLEMS = ("problem", "question", "prompt", CONVERSATIONS, "messages", "extra_info.question", "text")
SOLUTION = "solution"  # a column whose text ends in an answer
NESTED = ("reward_model.ground_truth", f"{CONVERSATIONS}.-1.ground_truth.value")
WORKED = ("extra_info.answer", SOLUTION)  # whole solutions
LABEL = "label"  # elsewhere often a class: only if no other column has an answer
GOLDS = ("answer", "final_answer", "expected_answer", "gold", "ground_truth", *NESTED, *WORKED, LABEL)
LABELS = ("subject", "subfield", "high-level domain", "type", "level", "difficulty")  # columns that tables are made by
SEVERAL = "is_multiple_answer"  # OlympiadBench: all entries of the list are the answer
SHORT = 100  # characters of a solution, in one line, that may be the answer itself
_GSM8K = re.compile(r"####\s*([^#\n]+?)\s*\Z")  # the last line of a solution
_METAMATH = re.compile(r".*\bthe (?:final )?answer is:?\s*([^\n]+?)\.?\s*\Z", re.IGNORECASE | re.DOTALL)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}[ ,]+[A-Za-z]{2,}")  # two words side by side


@dataclass(frozen=True)
class Columns:
    """Where a file's rows have the problem and the answer."""

    problems: tuple[str, ...]  # the first that is not empty counts
    golds: tuple[str, ...]  # likewise
    by_knob: bool  # data.answer_column named it
    keys: Hashable  # of the rows that have these columns, see `keys_of`
    labels: Mapping[str, str]  # of LABELS -> its column
    context: str = ""  # what comes before the problem
    choices: tuple[str, ...] = ()  # the right one, then the wrong ones


def choose(path: str, number: int, row: Row, cfg: DataConfig, answered: bool = True) -> Columns:
    """The columns that the config names, else those with common names that this row has.

    `answered`: there must be one for the answer; else none is looked for, and choices are only asked with.

    Raises:
      ConfigError: there is none, or a name may mean two.
    """
    where = f"{path}: row {number}"
    knob, name = "data.problem_column", cfg.problem_column
    common = () if name else tuple(_one(where, row, knob, "", (each,)) for each in PROBLEMS if named(row, each))
    problems = common or (_one(where, row, knob, name, PROBLEMS),)
    labels = {name: found[0] for name in LABELS if (found := named(row, name))}
    context = "" if cfg.problem_column else next(iter(named(row, "context")), "")
    keys, choices = keys_of(row), () if cfg.answer_column else choice_columns(row)
    if not answered:
        return Columns(problems, (), False, keys, labels, context, choices)
    if cfg.answer_column:
        gold = _one(where, row, "data.answer_column", cfg.answer_column, ())
        return Columns(problems, (gold,), True, keys, labels, context)
    golds = tuple(
        dict.fromkeys(column for name in GOLDS for column in sorted({*named(row, name), *_other_cases(row, name)}))
    )
    if choices:
        if golds:
            raise _ambiguous(where, [shown_as(golds[0]), shown_as(choices[0])], "may both hold the answer")
        return Columns(problems, choices[:1], False, keys, labels, context, choices)
    _one(where, row, "data.answer_column", "", GOLDS)
    return Columns(problems, golds, False, keys, labels, context)


def keys_of(row: Row) -> Hashable:
    """The row's columns, those of its objects and of its lists' last objects; it is made of every row, so it is cheap.

    Rows with equal ones have equal `Columns`.
    """
    keys: list[Hashable] = list(row)
    for key, value in row.items():
        if isinstance(value, list) and value:
            value = value[-1]
        if isinstance(value, dict):
            keys.append((key, *value))
    return tuple(keys)


def first_gold(
    path: str, number: int, row: Row, columns: Columns, read: Callable[[str], str]
) -> tuple[str, tuple[str, str] | None, bool]:
    """(the row's answer, "" if there is none; the columns of an answer and of a solution, if it has both; whether they
    end in different numbers).

    Args:
      read: the answer that a column of this row holds, "" for none.

    Raises:
      ConfigError: no column is there, or two hold different answers.
    """
    if not any(named(row, column) for column in columns.golds):
        text_of(path, number, row, columns.golds[0])  # says what is missing
    found = {column: gold for column in columns.golds if named(row, column) and (gold := read(column))}
    sure = [column for column in found if not _is_worked(row, column) and column.casefold() != LABEL]
    for other in sure[1:]:
        if normalise(found[other]) != normalise(found[sure[0]]):
            both = [f"{shown_as(column)} ({shown_as(found[column])})" for column in (sure[0], other)]
            raise _ambiguous(f"{path}: row {number}", both, "hold different answers")
    worked = [column for column in found if _is_worked(row, column)]
    gold = next(iter(found.values()), "")
    if not sure or not worked:
        return gold, None, False
    return gold, (sure[0], worked[0]), answers.quick(found[worked[0]], found[sure[0]]) is False


def refuse_ambiguous(path: str, counts: Mapping[tuple[str, str], Sequence[bool]]) -> None:
    """ConfigError if most solutions of a file end in another number than its answers.

    Args:
      counts: (column of answers, column of solutions) -> for each row that has both, whether they differ.
    """
    for both, differ in counts.items():
        if 2 * sum(differ) > len(differ):
            found = f"hold different answers in {sum(differ)} of {len(differ)} rows"
            raise _ambiguous(path, [shown_as(column) for column in both], found)


def _ambiguous(where: str, columns: Sequence[str], why: str) -> ConfigError:
    return ConfigError(f"{where}: columns {' and '.join(columns)} {why}; expected data.answer_column to name one")


def _is_worked(row: Row, column: str) -> bool:
    """Whether a column's text is a whole solution, which only ends in an answer."""
    if is_solution(column):
        return not is_short(value_of(row, column))
    return column.casefold() in WORKED


def several(row: Row, columns: Columns) -> bool:
    """Whether a column for the answer holds a list of several, and nothing says that all are meant; a list of solutions
    is none of answers."""
    if all_are_meant(row):
        return False
    found = [value_of(row, column) for column in columns.golds if not is_solution(column)]
    return any(isinstance(value, list) and value for value in found)


def all_are_meant(row: Row) -> bool:
    """Whether the row says that the answer is all of a list."""
    return value_of(row, SEVERAL) is True


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


def _one(where: str, row: Row, knob: str, name: str, common: tuple[str, ...]) -> str:
    """The column called `name`, else the first common one."""
    found = next((paths for each in ((name,) if name else common) if (paths := named(row, each))), [])
    if len(found) > 1:
        both = " and ".join(map(shown_as, found))
        raise ConfigError(f"{where}: columns {both} differ in case only; expected {knob} to name one of them")
    if not found:
        expected = f"{knob} = {name!r}" if name else f"one of {', '.join(common)}, or {knob} to name it"
        raise ConfigError(f"{where}: expected a column {expected}; it has {names(row)}")
    return found[0]


def _other_cases(row: Row, name: str) -> list[str]:
    """The columns on top whose names differ from `name` in case only."""
    return [key for key in row if key.casefold() == name.casefold()]
