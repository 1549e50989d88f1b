# SPDX-License-Identifier: Apache-2.0
"""Command line: judges a file of answers, or checks its reference answers, as training and evaluation would.

    python -m t1jax.verify answers.jsonl
    python -m t1jax.verify data/train.jsonl --golds-only

prompts -> rollouts -> **rewards**, without a model: run it on a new data set before a long run.
Deliberately not here: how two answers are compared (rewards/), which columns a problem has (tasks/files/problems.py).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from t1jax.config import Config, ConfigError
from t1jax.host import command_line, place
from t1jax.typed import inert

if TYPE_CHECKING:
    from t1jax.rewards.answers import Outcome
    from t1jax.rewards.verifier import Verifier

USAGE = """\
usage: python -m t1jax.verify FILE [--json]
       python -m t1jax.verify FILE --golds-only [--json]

Judges each row of a file as training and evaluation would: right, wrong or unscorable, and why.

  FILE            JSON lines, a JSON array, CSV or Parquet, local, gs:// or s3://: rows with `gold`, the reference
                  answer, and `answer`, a final answer, or `response`, a whole response whose last box is the answer
  --golds-only    only check the reference answers: can they be compared by value, as text only, or not at all?
                  Rows are problems, as t1jax.main reads them, or have a column `gold`
  --json          print only JSON lines on stdout; the table goes to stderr
  --config=FILE   a Python file with get_config() (default: configs/base.py)
  --config.KNOB=...   set any knob of the config, such as --config.verifier.deadline=10 (CPU seconds per answer),
                  --config.data.answer_column=final (where --golds-only finds the reference answers)
  --help          show this text

Prints one JSON line per row, in the order of the file, with `row`, `outcome` (1 right, 0 wrong, -1 unscorable) and
`why`. With --golds-only, prints one line for each reference answer that cannot be compared by value; its `outcome` is
that of the answer compared with itself. A table of all rows follows.
Exit codes: 0 success, 1 failure (names the file of its traceback), 2 error in flags or files, 3 disk full,
130 interrupted.
"""
DEFAULT_CONFIG = "configs/base.py"
GOLD, ANSWER, RESPONSE, TEXT = "gold", "answer", "response", "text"
AT_ONCE = 4096  # rows that are judged together, which bounds the memory
VALUE = "compared by value"


class Judged(NamedTuple):
    """A row of the file and its verdict."""

    row: int
    outcome: Outcome
    why: str
    gold: str
    answer: str | None


def cli() -> None:
    """What `python -m t1jax.verify` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    argv = ["--golds_only" if arg == "--golds-only" else arg for arg in argv]
    return command_line.call("t1jax.verify", USAGE, _run, argv, "interrupted")


def judge_rows(rows: Sequence[tuple[int, str | None, str]], verifier: Verifier) -> list[Judged]:
    """The verdict on each (row, answer or None without one, gold)."""
    from t1jax.rewards import answers
    from t1jax.rewards.answers import WRONG

    explained = iter(verifier.explain([(answer, gold) for _, answer, gold in rows if answer is not None]))
    judged = []
    for row, answer, gold in rows:
        if answer is None:
            outcome, why = WRONG, "no final answer: neither a closed box nor <answer>"
        else:
            outcome, why = next(explained)
        judged.append(Judged(row, outcome, "the gold says that there is none" if answers.is_sentinel(gold) else why,
                             gold, answer))  # fmt: skip
    return judged


def judge_golds(rows: Sequence[tuple[int, str]], verifier: Verifier) -> list[Judged]:
    """What each (row, gold) is good for."""
    from t1jax.rewards import answers
    from t1jax.rewards.answers import RIGHT, WRONG

    golds = [gold for _, gold in rows]
    boxed = [answers.final_answer(f"{answers.BOX}{gold}}}") for gold in golds]
    itself = judge_rows([(row, answer, gold) for (row, gold), answer in zip(rows, boxed, strict=True)], verifier)
    judged = []
    for one, by_value in zip(itself, verifier.comparable(golds), strict=True):
        if not one.gold:
            why = "no gold"
        elif answers.is_sentinel(one.gold):
            why = "says that there is none: its problem is dropped"
        elif one.outcome != RIGHT:
            why = "is not right against itself"
        else:
            why = VALUE if by_value else "compared as text only: see data.text_golds"
        judged.append(one._replace(why=why, outcome=one.outcome if one.gold else WRONG))
    return judged


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_bool("golds_only", False, "", values)
    flags.DEFINE_bool("json", False, "", values)


def _run(argv: list[str]) -> None:
    cfg, values, files = command_line.read_config(argv, _define, DEFAULT_CONFIG)
    if len(files) != 1:
        found = f"{len(files)} files" if files else "no file"
        raise ConfigError(f"{found} on the command line; expected one FILE of rows, see --help")
    files = [place.data(files[0], "FILE")]

    from t1jax.rewards.verifier import Verifier

    notes = list[str]()
    rows: Sequence[Any] = _golds(files[0], cfg, notes) if values.golds_only else _pairs(files[0])
    judge: Any = judge_golds if values.golds_only else judge_rows
    judged = list[Judged]()
    with Verifier(cfg.verifier) as verifier:
        for start in range(0, len(rows), AT_ONCE):
            part = judge(rows[start : start + AT_ONCE], verifier)
            judged += part
            for one in part:
                if one.why != VALUE:
                    print(_line(one, values.golds_only))
            sys.stdout.flush()
    _show(judged, notes, values.golds_only, sys.stderr if values.json else sys.stdout)


def _pairs(path: str) -> list[tuple[int, str | None, str]]:
    """(row, answer, gold) of each row."""
    from t1jax.rewards import answers
    from t1jax.tasks.files.rows import names, read_rows

    pairs = []
    for number, row in read_rows(path):
        if type(row.get(RESPONSE)) is int and TEXT in row:  # of a run or an evaluation: `response` is a number there
            row = {**row, RESPONSE: row[TEXT]}
        given = [name for name in (RESPONSE, ANSWER) if row.get(name) is not None]
        if GOLD not in row or not given:
            raise ConfigError(
                f"{path}: row {number} has {names(row)}; expected {GOLD!r}, and {ANSWER!r} or {RESPONSE!r}; or give "
                "--golds-only"
            )
        text = _text(path, number, row, given[0])
        answer = answers.final_answer(text) if given[0] == RESPONSE else text
        pairs.append((number, answer, _text(path, number, row, GOLD)))
    return pairs


def _golds(path: str, cfg: Config, notes: list[str]) -> list[tuple[int, str]]:
    """(row, gold) of each row with a column `gold`, else of each problem; adds to `notes` which rows are left out."""
    from t1jax.tasks.files.problems import read_problems
    from t1jax.tasks.files.rows import read_rows

    if not cfg.data.answer_column and GOLD in next(read_rows(path))[1]:
        return [(number, _text(path, number, row, GOLD)) for number, row in read_rows(path)]
    problems, left_out = read_problems(path, cfg.data, "train")
    notes += left_out
    return [(problem.row, problem.gold) for problem in problems]


def _text(path: str, number: int, row: dict[str, Any], column: str) -> str:
    """The text of a column; a number as people write it."""
    from t1jax.rewards import numerals
    from t1jax.tasks.files.rows import text_of

    value = row.get(column)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value) if isinstance(value, int) else numerals.decimal(value)
    return text_of(path, number, row, column)


def _line(one: Judged, golds_only: bool) -> str:
    """A row's verdict in JSON."""
    answer = {} if golds_only else {"answer": one.answer}
    return json.dumps({"row": one.row, "outcome": int(one.outcome), "why": one.why, **answer, "gold": one.gold})


def _show(judged: Sequence[Judged], notes: Sequence[str], golds_only: bool, file: Any) -> None:
    """Prints the table: how many of each verdict, and why."""
    from rich.console import Console

    from t1jax.evaluation.tables import Sheet, show

    counts = Counter((one.outcome, one.why) for one in judged)
    verdicts = sorted(counts.items(), key=lambda item: (-item[0][0], -item[1]))
    names = {1: "right", 0: "wrong", -1: "unscorable"}
    rows = [(why, names[int(outcome)], f"{n:,}", f"{100 * n / len(judged):.1f}") for (outcome, why), n in verdicts]
    header = ("golds" if golds_only else "why", "against itself" if golds_only else "outcome", "rows", "%")
    show([Sheet(f"{len(judged):,} rows", header, rows)], Console(file=file, soft_wrap=True))
    for note in notes:
        print(inert(note), file=file)


if __name__ == "__main__":
    cli()
