# SPDX-License-Identifier: Apache-2.0
"""Problems from files: reads them and drops what cannot be used.

Unusable rows are dropped when the files are read; `notes` says how many, why, and which:
    no problem or no answer; the same problem as an earlier row (the first one stays); the text of a special token;
    a prompt longer than data.prompt_length; a training problem that is also held out.
If an answer, boxed, does not verify against itself, no response could be judged right. Such a training problem is
dropped: it costs as much as any other and teaches nothing. Such a held-out problem stays, and every response to it is
unscorable: the benchmark keeps its number of problems, and the share of unscorable responses shows what the verifier
cannot judge; dropping would hide it, and counting it as wrong would blame the model.
Each gold is checked with the verifier. One that says that there is no answer, such as NuminaMath's "proof", is dropped
with its problem. One that cannot be compared by value, such as a sentence, is compared as text, right or wrong but
never unscorable; or, with data.text_golds, its problem is dropped too. A gold on which a worker hangs counts as a
value.
All this depends only on the files, the tokenizer and the data knobs, never on time: equal text is right without a
deadline. So every process, and every resumed run, gives problems the same indices.
Deliberately not here: the task that asks them (task.py), files (rows.py), which columns (columns.py), what makes two
texts the same (overlap.py), prompts (prompts.py), the cold start's texts (demonstrations.py), comparing answers
(rewards/).
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol, TypeVar

from t1jax.config import ConfigError, DataConfig
from t1jax.rewards import answers, numerals
from t1jax.rewards.answers import RIGHT, WRONG, Outcome
from t1jax.tasks.files.choices import lettered
from t1jax.tasks.files.columns import (
    Columns,
    all_are_meant,
    choose,
    first_gold,
    is_short,
    is_solution,
    keys_of,
    marked,
    refuse_ambiguous,
    several,
)
from t1jax.tasks.files.overlap import Known, normalise
from t1jax.tasks.files.prompts import ChatTokenizer, has_any, render
from t1jax.tasks.files.rows import Dropped, Row, first_filled, one_line, read_rows, text_of, value_of
from t1jax.tasks.files.turns import Message, asked
from t1jax.text.tokenizer import TokenIds, Tokenizer

EXACT = 2**53  # floats below this are exact whole numbers
CLOSE = "</think>"
T = TypeVar("T")
_LEVEL = re.compile(r"level\s+(\d+)", re.IGNORECASE)  # as MATH writes it; others have the number alone
_FORMULA = re.compile(r"\$+([^$]+)\$+")


@dataclass(frozen=True)
class Problem:
    """A problem of a file, and its answer."""

    index: int  # what finds it again in its split
    split: str  # "train" or "held_out"
    text: str
    gold: str  # the right answer, as it would stand in a box
    difficulty: str  # its level, else its difficulty rounded down, else ""
    labels: Mapping[str, str] = field(hash=False)  # those of columns.LABELS that the file has
    row: int  # in the file, see rows.read_rows
    source: str  # the file
    before: tuple[Message, ...] = field(default=(), hash=False)  # turns that come before it: a system message, examples
    columns: Row = field(default_factory=dict, compare=False, repr=False)  # of its row, for reward functions; or none


class Checker(Protocol):
    """What judging needs of a verifier, see rewards/verifier.py."""

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]: ...

    def comparable(self, golds: Sequence[str]) -> list[bool]: ...


def thought_end(tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
    """The most tokens that hold nothing of the first </think>, be it one token or several; None without it."""
    closing = tokenizer.encode(CLOSE)
    if len(closing) == 1:  # decoding may leave it out
        return next((place for place, token in enumerate(tokens) if token == closing[0]), None)
    position = tokenizer.decode(tokens).find(CLOSE)
    if position < 0:
        return None
    counts = range(len(tokens) + 1)
    return bisect.bisect_right(counts, position, key=lambda count: len(tokenizer.decode(tokens[:count]))) - 1


def read_problems(
    path: str, cfg: DataConfig, split: str, answered: bool = True, whole: bool = False
) -> tuple[list[Problem], list[str]]:
    """(the problems of a file, each once and with an answer; a line for each reason to drop rows).

    The columns are those of data.problem_column and data.answer_column, else those with common names (columns.py) that
    the row has; choices in columns get letters (choices.py). Texts that differ in case only are one problem if their
    answers are the same too: A is not a where a question asks for both. The problems are numbered from 0 on.

    Args:
      answered: each needs an answer; else none is looked for, `gold` is "", and only an equal row is the same problem.
      whole: keep the columns of the rows.

    Raises:
      ConfigError: the file, a column or its type is not as expected, or no row is left.
    """
    normal = lru_cache(1 << 16)(normalise)  # a file may repeat each problem a hundred times, as DAPO's does
    answers_of: dict[str, dict[str, str]] = {}  # of a normalised problem, or a row, by its text with capitals
    problems: list[Problem] = []
    dropped, noted = Dropped(path), Dropped(path)
    columns: Columns | None = None
    worked: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for number, row in read_rows(path):
        if columns is None or columns.keys != keys_of(row):
            columns = choose(path, number, row, cfg, answered)
        before, text = asked(path, number, row, first_filled(row, columns.problems) or columns.problems[0])
        if isinstance(value_of(row, columns.context), str):
            text = f"{text_of(path, number, row, columns.context)}\n{text}".strip()
        gold = ""
        if columns.choices:
            choices = [_written(path, number, row, column) for column in columns.choices]
            text, letter = lettered(text, choices, cfg.choice_seed) or (text, "")
            gold = letter if answered else ""
        elif answered:
            read = partial(_gold, path, number, row, columns.by_knob)
            gold, both, differ = first_gold(path, number, row, columns, read)
            if both:
                worked[both].append(differ)
                if differ:
                    noted.add(f"{both[1]!r} ends in another number", number)
        said = "\n".join([*(turn["content"] for turn in before if turn["role"] == "user"), text])
        known = answers_of.setdefault(normal(said) if answered else repr(sorted(row.items())), {})
        exact = normal(said, fold=False)
        if answered and several(row, columns):
            dropped.add("a list of several answers", number)
        elif columns.choices and not letter:
            dropped.add("choices that are empty or the same", number)
        elif not normal(text) or (answered and not gold):
            dropped.add("no problem or no answer" if answered else "no problem", number)
        elif exact in known or normal(gold) in map(normal, known.values()):
            other = normal(gold) not in map(normal, known.values())
            dropped.add("an earlier row's problem" + ", its answer written differently" * other, number)
        else:
            known[exact] = gold
            labels = {name: label for name, at in columns.labels.items() if (label := _label(value_of(row, at)))}
            hard = _difficulty(*(value_of(row, columns.labels.get(name, "")) for name in ("level", "difficulty")))
            of_row = hard, labels, number, path, before, dict(row) if whole else {}
            problems.append(Problem(len(problems), split, text, gold, *of_row))
    refuse_ambiguous(path, worked)
    kept, lines = dropped.rest(problems)
    return kept, lines + noted.rest(kept, "kept")[1]


def usable(problems: Sequence[Problem], cfg: DataConfig, tokenizer: ChatTokenizer) -> tuple[list[Problem], list[str]]:
    """(the problems of one file whose prompt can be encoded and fits; a line for each reason to drop others)."""
    kept, dropped = [], Dropped(problems[0].source)
    for problem in problems:
        said = (problem.text, *(turn["content"] for turn in problem.before))
        if any(has_any(text, tokenizer.special_texts) for text in said):
            dropped.add("the text of a special token", problem.row)
        elif len(tokenizer.encode(_prompt(problem, cfg, tokenizer))) > cfg.prompt_length:
            dropped.add(f"a prompt of more than data.prompt_length = {cfg.prompt_length} tokens", problem.row)
        else:
            kept.append(problem)
    return dropped.rest(kept)


def comparable(problems: Sequence[Problem], verifier: Checker, text_golds: str) -> tuple[list[Problem], list[str]]:
    """(the problems of one file that are kept; lines on those whose answer is none, or has no value to compare).

    Args:
      text_golds: data.text_golds: "text" keeps the latter, "drop" does not.
    """
    kept = list[Problem]()
    dropped, noted = Dropped(problems[0].source), Dropped(problems[0].source)
    for problem, has_value in zip(problems, verifier.comparable([p.gold for p in problems]), strict=True):
        if answers.is_sentinel(problem.gold):
            dropped.add("an answer that says that there is none", problem.row, problem.gold)
        elif not has_value and text_golds == "drop":
            dropped.add("the answer cannot be compared by value", problem.row, problem.gold)
        else:
            kept.append(problem)
            if not has_value:
                noted.add("the answer cannot be compared by value", problem.row, problem.gold)
    kept, lines = dropped.rest(kept)
    return kept, lines + noted.rest(kept, "compared as text")[1]


def verifiable(
    problems: Sequence[Problem], verifier: Checker, others: str = "dropped"
) -> tuple[list[Problem], list[str]]:
    """(the problems of one file whose own answer in a box is judged right; a line on the `others`, with examples)."""
    kept, dropped = [], Dropped(problems[0].source)
    outcomes = judge([(f"{answers.BOX}{problem.gold}}}", problem.gold) for problem in problems], verifier)
    for problem, outcome in zip(problems, outcomes, strict=True):
        if outcome == RIGHT:
            kept.append(problem)
        else:
            dropped.add("the answer does not verify against itself", problem.row, problem.gold)
    return dropped.rest(kept, others)


def judge(pairs: Sequence[tuple[str, str]], verifier: Checker) -> list[Outcome]:
    """Of each (response, right answer): whether the response's final answer is that; without one it is wrong."""
    found = [answers.final_answer(response) for response, _ in pairs]
    outcomes = iter(
        verifier.check([(answer, gold) for answer, (_, gold) in zip(found, pairs, strict=True) if answer is not None])
    )
    return [WRONG if answer is None else next(outcomes) for answer in found]


def not_in(problems: Sequence[Problem], known: Known, reason: str) -> tuple[list[Problem], list[str]]:
    """The problems that are not known, and what to say of the others."""
    kept, dropped = [], Dropped(problems[0].source)
    for problem in problems:
        if known.same(problem.text):
            dropped.add(reason, problem.row)
        else:
            kept.append(problem)
    return dropped.rest(kept)


def numbered(problems: Sequence[Problem]) -> list[Problem]:
    """The problems with their places as indices."""
    return [dataclasses.replace(problem, index=index) for index, problem in enumerate(problems)]


def _prompt(problem: Problem, cfg: DataConfig, tokenizer: ChatTokenizer) -> str:
    """The problem's prompt. ConfigError: it is a conversation that cannot be written, says of which row."""
    try:
        return render(problem.text, cfg, tokenizer, problem.before)
    except ConfigError as error:
        raise ConfigError(f"{problem.source}: row {problem.row}: {error}" if problem.before else f"{error}") from error


def _gold(path: str, number: int, row: Row, by_knob: bool, column: str) -> str:
    """The answer as it would stand in a box; "" if there is none, or a list of several of which not all are meant.

    Of a text: what its last box holds, else what follows #### or "The answer is", else all of it; of a solution only
    if it is short.
    """
    value = value_of(row, column)
    if isinstance(value, list) and value and all_are_meant(row) and not is_solution(column):
        return ", ".join(_gold(path, number, {column: one}, by_knob, column) for one in value)
    if isinstance(value, list):
        return ""
    if isinstance(value, bool):
        return str(value)  # True is yes as well, see rewards/pairing.py
    if answer := _number(value):
        return answer
    text = text_of(path, number, row, column)
    boxed, after = answers.final_answer(text), marked(text)
    if boxed is None and after is None and is_solution(column) and not is_short(text, by_knob):
        return ""
    answer = (text if after is None else after) if boxed is None else boxed.strip()
    formula = _FORMULA.fullmatch(answer)
    return formula[1].strip() if formula else answer


def _written(path: str, number: int, row: Row, column: str) -> str:
    """A column's text as it stands there, or its number."""
    return _number(value_of(row, column)) or text_of(path, number, row, column)


def _number(value: Any) -> str:
    """A number as people write it, 142 for 142.0; "" for anything else, NaN and infinities too."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, float) or not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < EXACT else numerals.decimal(value)


def _label(value: Any) -> str:
    if not isinstance(value, str):
        return _number(value)
    level = _LEVEL.fullmatch(value.strip())
    return level[1] if level else one_line(value)


def _difficulty(level: Any, difficulty: Any) -> str:
    """The level; else the difficulty, a number rounded down, so that a table by difficulty stays short."""
    return _label(level) or _label(math.floor(difficulty) if _number(difficulty) else difficulty)
