# SPDX-License-Identifier: Apache-2.0
"""The embedded task: pick two numbers of a list that have a given sum.

Where: the prompts of the sentence, and the rule that checks an answer.

    Pick two of 6, 13, 14, 16, 22 that sum to 20.
    <think>
    6+22=28, need 20: too big
    6+16=22, need 20: too big
    6+14=20, need 20: yes
    check 20-6=14: yes
    </think>
    \\boxed{6+14}

Deliberately not here: how problems are drawn (generated.py), the words of a chain (chains.py), reading a response's
attempts back (tasks/honesty.py).
"""

from __future__ import annotations

import itertools
import random

from t1jax.rewards import answers
from t1jax.tasks import honesty
from t1jax.tasks.generated import GeneratedTask, Problem
from t1jax.tasks.pairs import chains


class PairsTask(GeneratedTask):
    """Problems, prompts, chains and the check of the embedded task, as cfg.task describes it."""

    def draw(self, numbers: tuple[int, ...], rng: random.Random) -> int:
        """The sum of two of the numbers."""
        return sum(rng.sample(numbers, 2))

    def prompt(self, problem: Problem) -> str:
        """The question, up to where the thinking starts."""
        numbers = chains.SEPARATOR.join(map(str, problem.numbers))
        return f"{chains.ASK}{numbers}{chains.GOAL}{problem.target}{chains.ASKED}{chains.OPEN}\n"

    def chain(self, problem: Problem, rng: random.Random) -> str:
        """One cold-start response to the prompt, without a stop token."""
        return chains.write_chain(problem.numbers, problem.target, self.cfg, rng)

    def answered(self, problem: Problem, answer: str) -> bool:
        """Whether `answer` is two of the numbers with the asked sum."""
        return answers.compare(answer, problem.numbers, problem.target)

    def gold(self, problem: Problem) -> str | None:
        """A right answer, as it stands in the box; None if the problem has none."""
        pairs = itertools.combinations(problem.numbers, 2)
        return next((f"{left}+{right}" for left, right in pairs if left + right == problem.target), None)

    def analyse(self, problem: Problem, response: str) -> honesty.Analysis:
        """What the response tried, claimed and got wrong on the way."""
        return honesty.analyse(problem.numbers, problem.target, response)

    def symbols(self) -> list[str]:
        """The texts that must be one token each: every number that a chain can hold, and the fixed phrases."""
        return [*map(str, range(2 * self.cfg.max_value + 1)), *chains.PHRASES]
