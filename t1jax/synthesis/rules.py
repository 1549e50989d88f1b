# SPDX-License-Identifier: Apache-2.0
"""Chains for the pairs task from a model's attempts, with a program as critic and merger.

problems -> attempts -> notes -> chains. The steps are those of T1. A program can do them exactly, because it can tell
whether each line is true (tasks/honesty.py):
    note    for a wrong attempt, its first false line, or what its unchecked answer really sums to; for a right one, a
            verification
    merge   the true lines of the wrong attempts, each attempt's answer as a line that refutes it, then the lines of
            the right attempt and its verification; nothing is tried twice
Deliberately not here: the rule-based writer of whole chains (tasks/pairs/chains.py), which needs no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from t1jax.config import ConfigError
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, Outcome
from t1jax.rewards.score import Judged
from t1jax.synthesis import checks
from t1jax.synthesis.prompts import Messages
from t1jax.synthesis.record import Attempt, Item, Story
from t1jax.tasks import honesty
from t1jax.tasks.pairs import chains
from t1jax.tasks.task import Task

_PAIR = re.compile(r"\s*([0-9]{1,9})\s*\+\s*([0-9]{1,9})\s*")


class EmbeddedSubject:
    """The pairs task: a model makes the attempts, and a program does the rest."""

    words = checks.EMBEDDED

    def __init__(self, task: Task) -> None:
        """`task`: pairs, with its own prompts or in a model's chat (tasks/chat.py).

        Raises:
          ConfigError: a response would have to begin the thinking, where a chain goes on with it.
        """
        self.task = task
        if not task.prompt(task.problem(0, "train")).endswith(f"{chains.OPEN}\n"):
            raise ConfigError(
                f'prompts do not end with "{chains.OPEN}\\n", after which chains begin; expected data.response_prefix '
                f'= "{chains.OPEN}\\n"'
            )

    def items(self, count: int) -> list[Item]:
        """The first `count` problems of the training split."""
        problems = [self.task.problem(index, "train") for index in range(count)]
        return [
            Item(problem.index, problem.index, self.task.prompt(problem), self.task.gold(problem) or "", problem)
            for problem in problems
        ]

    def attempt(self, item: Item) -> Messages:
        return ({"role": "user", "content": item.prompt},)

    def said(self, text: str) -> str:
        return text  # chains are made from its thinking

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[tuple[Outcome, str | None]]:
        outcomes = self.task.score([item.problem for item in items], texts)
        return [(Judged.of(one).outcome, answers.last_box(text)) for one, text in zip(outcomes, texts, strict=True)]

    def note(self, item: Item, attempt: Attempt) -> Messages | str:
        answer = _line(item.problem, attempt.answer)
        if attempt.outcome == RIGHT:
            return _verification(item.problem, attempt.answer)
        for line in attempt.piece.text.partition(chains.CLOSE)[0].splitlines():
            found = self._read(item.problem, line)
            if not all(step.true for step in (*found.attempts, *found.checks)) or found.malformed:
                return f"not true: {line}"
        if answer is None:
            return f"the answer {attempt.answer} is not a pair of the list"
        tried = len(self._read(item.problem, attempt.piece.text).attempts)
        return f"gave up, attempts: {tried}; its answer was not checked: {answer}"

    def merge(self, story: Story) -> Messages | str:
        problem = story.item.problem
        lines: list[str] = []
        for attempt in (*story.wrong, story.right[0]):
            thinking = attempt.piece.text.partition(chains.CLOSE)[0].splitlines()
            for line in (*thinking, _line(problem, attempt.answer)):
                if line is not None and self._is_new(problem, lines, line):
                    lines.append(line)
        answer = story.right[0].answer
        lines += [_line(problem, answer) or "", _verification(problem, answer)]
        return "\n".join((*lines, chains.CLOSE)) + f"\n{chains.BOX}{answer}}}"

    def rewrite(self, item: Item, chain: str) -> Messages | str:
        return chain

    def response(self, chain: str) -> tuple[str, str]:
        return chain.partition(chains.CLOSE)[0], chain

    def _is_new(self, problem: Any, lines: Sequence[str], line: str) -> bool:
        """Whether `line` is a true, failing attempt that is not in `lines` yet."""
        found = self._read(problem, line).attempts
        if not found or not found[0].true or found[0].verdict == chains.YES:
            return False
        return not self._read(problem, "\n".join((*lines, line))).repeated

    def _read(self, problem: Any, text: str) -> honesty.Analysis:
        found = self.task.analyse(problem, text)
        assert found is not None, "the pairs task can tell what was tried"
        return found


def _line(problem: Any, answer: str | None) -> str | None:
    """An answer as an attempt with its true verdict; None if it is not a pair of numbers of the list."""
    match = _PAIR.fullmatch(answer or "")
    if match is None:
        return None
    left, right = int(match[1]), int(match[2])
    if left == right or left not in problem.numbers or right not in problem.numbers:
        return None
    total = left + right
    return f"{left}+{right}={total}{chains.NEED}{problem.target}: {chains.verdict(total, problem.target)}"


def _verification(problem: Any, answer: str | None) -> str:
    """The line that verifies a right answer."""
    match = _PAIR.fullmatch(answer or "")
    assert match is not None, "a right answer is a pair"
    left = int(match[1])
    return f"{chains.CHECK}{problem.target}-{left}={problem.target - left}: {chains.YES}"
