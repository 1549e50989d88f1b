# SPDX-License-Identifier: Apache-2.0
"""The embedded task with a cold start from a file: rows `problem`, `prompt` and `response`, as t1jax.synthesize writes.

Where: before the cold start. Only the demonstrations change; all else is the task's own. A row must ask the training
problem whose number it has, in the task's words, so that no held-out problem can come in.
Deliberately not here: texts of the cold start for problems of files (demonstrations.py).
"""

from __future__ import annotations

from t1jax.config import ConfigError
from t1jax.tasks.files.demonstrations import PROMPT, RESPONSE
from t1jax.tasks.files.rows import Dropped, names, read_rows
from t1jax.tasks.task import P, Task, Wrapped
from t1jax.text.tokenizer import Tokenizer

PROBLEM = "problem"


class WrittenTask(Wrapped[P]):
    """A task whose demonstrations are those of `rows`, (prompt, response without stop token) each."""

    def __init__(self, task: Task[P], rows: list[tuple[str, str]], notes: list[str]) -> None:
        super().__init__(task)
        self._rows, self._notes = rows, notes

    @property
    def notes(self) -> list[str]:
        """A line for each reason to leave rows out."""
        return [*self._task.notes, *self._notes]

    def num_demonstrations(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """Row number `index`, whatever the seed."""
        return self._rows[index]


def read_written(path: str, task: Task[P], tokenizer: Tokenizer) -> WrittenTask[P]:
    """`task` with the demonstrations of a file.

    Raises:
      ConfigError: the file or a column is not as expected, or no row is left.
    """
    rows: dict[tuple[str, str], None] = {}
    dropped = Dropped(path)
    for number, row in read_rows(path):
        if missing := [name for name in (PROBLEM, PROMPT, RESPONSE) if name not in row]:
            expected = f"expected rows of t1jax.synthesize; it has {names(row)}"
            raise ConfigError(f"{path}: row {number} has no column {missing[0]!r}; {expected}")
        problem, prompt, response = row[PROBLEM], row[PROMPT], row[RESPONSE]
        known = type(problem) is int and problem >= 0 and task.prompt(task.problem(problem, "train")) == prompt
        if not known:
            dropped.add("its prompt is not that of the training problem with this number", number)
        elif not isinstance(response, str) or not response or not _encodes(response, tokenizer):
            dropped.add("a response that the tokenizer cannot write", number)
        elif (prompt, response) in rows:
            dropped.add("the same text as an earlier row", number)
        else:
            rows[prompt, response] = None
    kept, notes = dropped.rest(list(rows))
    return WrittenTask(task, kept, notes)


def _encodes(text: str, tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.encode(text)
    except ValueError:
        return False
    return True
