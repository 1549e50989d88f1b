# SPDX-License-Identifier: Apache-2.0
"""The interface of a task: its problems, their prompts, judging responses, demonstrations.

The embedded tasks (created by embedded.py) and problems from files (files/task.py) implement it. A problem is
identified by its index and split, so the compiled step only carries a number.
Deliberately not here: what a problem is; host only, nothing here imports jax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from t1jax.rewards.answers import Outcome
from t1jax.rewards.score import Judged
from t1jax.tasks.honesty import Analysis
from t1jax.text.tokenizer import TokenIds, Tokenizer


class Problem(Protocol):
    """What all problems have."""

    @property
    def index(self) -> int: ...

    @property
    def difficulty(self) -> int | str: ...


@dataclass(frozen=True)
class Source:
    """A file of training problems. Their indices follow those of the sources before it."""

    name: str
    size: int  # problems
    weight: float | None  # share of the prompts that are drawn from it; None: each problem counts the same


P = TypeVar("P", bound=Problem)
P_in = TypeVar("P_in", bound=Problem, contravariant=True)


class Grader(Protocol[P_in]):
    """Prompts of problems of a kind P_in, and the check of responses to them: what evaluation needs of a task."""

    @property
    def cut_answer_prefix(self) -> str:
        """What ends a cut thought and begins the answer."""
        ...

    def prompt(self, problem: P_in) -> str:
        """The text that a response continues."""
        ...

    def gold(self, problem: P_in) -> str | None:
        """A right answer; None if there is none."""
        ...

    def score(self, problems: Sequence[P_in], responses: Sequence[str]) -> Sequence[Outcome | Judged]:
        """Right, wrong or unscorable, for each response to the problem beside it; or its reward beside that."""
        ...

    def analyse(self, problem: P_in, response: str) -> Analysis | None:
        """What a response tried and claimed; None if this task cannot tell."""
        ...

    def forbid_giving_up(self, tokenizer: Tokenizer) -> tuple[int, tuple[int, ...]] | None:
        """(the token that ends the thinking, the tokens it may follow); None if this task cannot tell."""
        ...

    def thought_end(self, tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
        """How many of a response's tokens come before the end of its thinking; None if it does not end."""
        ...


class Task(Grader[P], Protocol[P]):
    """Problems of a kind P, their prompts, the check, and chains for the cold start."""

    @property
    def difficulties(self) -> Sequence[int]:
        """What a problem's difficulty can be, easiest first; empty: the task has no order of them."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """A line for each reason to leave problems or texts out, for the user."""
        ...

    @property
    def sources(self) -> Sequence[Source]:
        """The files that training problems come from; empty: from none."""
        ...

    def size(self, split: str) -> int | None:
        """Problems of a split ("train" or "held_out"); None: without end."""
        ...

    def problem(self, index: int, split: str) -> P:
        """The problem with this index: always the same one."""
        ...

    def num_demonstrations(self) -> int | None:
        """Texts for the cold start; None: without end."""
        ...

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """(prompt, response without stop token) number `index` for the cold start."""
        ...


class Wrapped(Generic[P]):
    """A Task that is another one, but for what a subclass says."""

    def __init__(self, task: Task[P]) -> None:
        self._task = task

    @property
    def cut_answer_prefix(self) -> str:
        return self._task.cut_answer_prefix

    @property
    def difficulties(self) -> Sequence[int]:
        return self._task.difficulties

    @property
    def notes(self) -> Sequence[str]:
        return self._task.notes

    @property
    def sources(self) -> Sequence[Source]:
        return self._task.sources

    def size(self, split: str) -> int | None:
        return self._task.size(split)

    def problem(self, index: int, split: str) -> P:
        return self._task.problem(index, split)

    def prompt(self, problem: P) -> str:
        return self._task.prompt(problem)

    def gold(self, problem: P) -> str | None:
        return self._task.gold(problem)

    def score(self, problems: Sequence[P], responses: Sequence[str]) -> Sequence[Outcome | Judged]:
        return self._task.score(problems, responses)

    def analyse(self, problem: P, response: str) -> Analysis | None:
        return self._task.analyse(problem, response)

    def forbid_giving_up(self, tokenizer: Tokenizer) -> tuple[int, tuple[int, ...]] | None:
        return self._task.forbid_giving_up(tokenizer)

    def thought_end(self, tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
        return self._task.thought_end(tokens, tokenizer)

    def num_demonstrations(self) -> int | None:
        return self._task.num_demonstrations()

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        return self._task.demonstration(index, seed)
