# SPDX-License-Identifier: Apache-2.0
"""What the model is asked: a problem, the tokens that a response continues, and what names its random numbers.

**prompts** -> rollouts -> ..., outside training.
Deliberately not here: problems (tasks/), sampling and judging (evaluator.py), cut thoughts (cut.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from t1jax.tasks.files.problems import Problem as FileProblem
from t1jax.tasks.task import Grader, P, Problem, Task
from t1jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Question:
    """What responses are sampled to, and what they are judged by."""

    id: int  # names the random numbers: int32, different for each question of a call
    problem: Problem
    prompt: tuple[int, ...]  # token ids
    gold: str | None  # None: there is none that responses can be judged by
    text: str = ""  # of the prompt
    row: int = 0  # of the problem in its file, from 1; 0: not of a file
    response: int = 0  # number of the first response
    begun: tuple[int, ...] = ()  # tokens at the end of the prompt that are part of the response


def ask(task: Grader[P], tokenizer: Tokenizer, problems: Iterable[P]) -> list[Question]:
    """A question for each problem, whose place names the random numbers."""
    asked = [(problem, task.prompt(problem)) for problem in problems]
    return [
        Question(place, problem, tuple(tokenizer.encode(text)), task.gold(problem), text)
        for place, (problem, text) in enumerate(asked)
    ]


def ask_held_out(task: Task[P], tokenizer: Tokenizer, count: int, start: int = 0) -> list[Question]:
    """`count` held-out problems from number `start` on, always the same ones; a small file gives what it has."""
    size = task.size("held_out")
    if size is not None and size < start + count:
        start, count = 0, min(count, size)
    return ask(task, tokenizer, [task.problem(start + i, "held_out") for i in range(count)])


def ask_file(task: Grader[FileProblem], tokenizer: Tokenizer, problems: Sequence[FileProblem]) -> list[Question]:
    """A question for each problem of a file, whose number names the random numbers."""
    return [
        dataclasses.replace(question, id=problem.index, row=problem.row)
        for question, problem in zip(ask(task, tokenizer, problems), problems, strict=True)
    ]


def digest(questions: Sequence[Question]) -> str:
    """12 hex digits that differ when any question does: its prompt, its answer, where a response of it begins."""
    digest = hashlib.sha256()
    for q in questions:
        digest.update(  # as older versions wrote it, so that their files can be continued
            f"Question(id={q.id}, problem={q.problem.index}, row={q.row}, prompt={q.prompt}, gold={q.gold!r}, "
            f"response={q.response}, begun={q.begun})".encode()
        )
    return digest.hexdigest()[:12]
