# SPDX-License-Identifier: Apache-2.0
"""A task with the rewards that reward.function names, instead of right or wrong alone.

Where: rewards and evaluation. With `correct` among the functions a response is right or wrong as the task says, and has
a reward beside; without it there is a reward only.
Deliberately not here: the functions and their processes (rewards/functions.py), penalties (update/advantages.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from t1jax.checks import CORRECT, plain_reward, reward_terms
from t1jax.config import Config
from t1jax.rewards.answers import BOX, RIGHT, SCORED, UNSCORABLE
from t1jax.rewards.functions import Functions
from t1jax.rewards.score import Judged
from t1jax.tasks.files.problems import Problem as FileProblem
from t1jax.tasks.task import Grader, P, Task, Wrapped


class RewardedTask(Wrapped[P]):
    """`task`, whose responses have the reward of `functions`, and of correctness if that is asked for."""

    def __init__(self, task: Task[P], cfg: Config, functions: Functions) -> None:
        super().__init__(task)
        self._functions = functions
        self._correct = dict(reward_terms(cfg.reward)).get(CORRECT)

    def score(self, problems: Sequence[P], responses: Sequence[str]) -> list[Judged]:
        """Outcome and reward of each response to the problem beside it; unscorable where any of them is."""
        outcomes = [SCORED] * len(problems)
        if self._correct is not None:
            outcomes = [Judged.of(one).outcome for one in self._task.score(problems, responses)]
        different = dict.fromkeys(problems)
        prompts = {problem: self.prompt(problem) for problem in different}
        rows = {problem: row_of(problem, self.gold(problem)) for problem in different}
        found = self._functions.rewards([prompts[p] for p in problems], responses, [rows[p] for p in problems])
        return [
            Judged(UNSCORABLE, float("nan"))
            if reward is None or outcome == UNSCORABLE
            else Judged(outcome, reward + (self._correct or 0.0) * (outcome == RIGHT))
            for outcome, reward in zip(outcomes, found, strict=True)
        ]

    def begin(self, problem: P) -> None:
        """Calls each function once, on this problem and an answer to it; see Functions.begin."""
        gold = self.gold(problem)
        response = f"{BOX}{gold}}}" if gold else ""
        self._functions.begin(self.prompt(problem), response, row_of(problem, gold))


def row_of(problem: Any, gold: str | None) -> dict[str, Any]:
    """What a reward function is told of a problem: the columns of its file, or all that a generated one has."""
    if isinstance(problem, FileProblem):
        return dict(problem.columns)
    return dataclasses.asdict(problem) | {"answer": gold}


@contextmanager
def rewarded(task: Grader[P], cfg: Config, first: Callable[[], P]) -> Iterator[Task[P]]:
    """`task` with the rewards of the config, and meanwhile the processes of its functions; itself where it is plain.

    Args:
      first: a problem that the functions are tried on.

    Raises:
      ConfigError: a function cannot be used.
    """
    whole = cast("Task[P]", task)  # a Grader stays one: nothing else is asked of it
    if plain_reward(cfg.reward):
        yield whole
        return
    with Functions(cfg) as functions:
        task_of_functions = RewardedTask(whole, cfg, functions)
        task_of_functions.begin(first())
        yield task_of_functions
