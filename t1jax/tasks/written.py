# SPDX-License-Identifier: Apache-2.0
"""The embedded task with demonstrations from a file that t1jax.synthesize wrote.

Where: before the cold start. Rows have `problem`, `prompt` and `response`. Only the demonstrations change. A row's
prompt must be that of the training problem with this number, so that no held-out problem can enter training.
Deliberately not here: demonstrations for problems of files (files/demonstrations.py).
"""

from __future__ import annotations

from t1jax.config import ConfigError
from t1jax.tasks.files.demonstrations import PROMPT, RESPONSE
from t1jax.tasks.files.rows import Dropped, names, read_rows
from t1jax.tasks.task import P, Task, Wrapped
from t1jax.text.tokenizer import Tokenizer

PROBLEM = "problem"


class WrittenTask(Wrapped[P]):
    """`task` with `rows` as its demonstrations: (prompt, response without stop token) each."""

    def __init__(self, task: Task[P], rows: list[tuple[str, str]], notes: list[str]) -> None:
        super().__init__(task)
        self._rows, self._notes = rows, notes

    @property
    def notes(self) -> list[str]:
        """The task's notes, and a line for each reason why rows were dropped."""
        return [*self._task.notes, *self._notes]

    def num_demonstrations(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """Row `index`; the seed is ignored."""
        return self._rows[index]


def read_written(path: str, task: Task[P], tokenizer: Tokenizer) -> WrittenTask[P]:
    """`task` with the demonstrations of the file at `path`.

    Raises:
      ConfigError: the file cannot be read, a column is missing, or no row is usable.
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
