# SPDX-License-Identifier: Apache-2.0
"""The Countdown task: make a number out of three or four others with + - *, each used at most once.

Prompts, and the check of an answer; a harder task with the interface of the demo's (tasks/pairs/task.py). Three of the
numbers are enough for every target; no two of them are.

    Make 14 from 1, 7, 8.
    <think>
    1+7=8, then 8+8=16, need 14: too big
    7-1=6, then 6+8=14, need 14: yes
    check 14-8=6: yes
    </think>
    \\boxed{7-1+8}

Deliberately not here: how problems are drawn (generated.py), the wording of a chain (chains.py), parsing one
(analysis.py), the value of what a model wrote (expressions.py).
"""

from __future__ import annotations

import random
from collections import Counter

from t1jax.tasks.countdown import analysis, expressions
from t1jax.tasks.countdown import chains as writer
from t1jax.tasks.generated import GeneratedTask, Problem
from t1jax.tasks.honesty import Analysis
from t1jax.tasks.pairs import chains


class CountdownTask(GeneratedTask):
    """Problems, prompts, chains and the check, as cfg.task describes them."""

    salt = "countdown "

    def draw(self, numbers: tuple[int, ...], rng: random.Random) -> int | None:
        """What three of the numbers come to, if it is not a number or what two of them come to."""
        ways = list(writer.joins(numbers, self.cfg.max_target))
        target = rng.choice(writer.completions(*rng.choice(ways), self.cfg.max_target)).value
        easy = target in numbers or target in {writer.apply(f, a, b) for a, f, b, _ in ways}
        return target if target and not easy else None

    def prompt(self, problem: Problem) -> str:
        """The question, up to where the thinking starts."""
        numbers = chains.SEPARATOR.join(map(str, problem.numbers))
        return f"{writer.ASK}{problem.target}{writer.FROM}{numbers}{writer.ASKED}{chains.OPEN}\n"

    def chain(self, problem: Problem, rng: random.Random) -> str:
        """One cold-start response to the prompt, without a stop token."""
        return writer.write_chain(problem.numbers, problem.target, self.cfg, rng)

    def answered(self, problem: Problem, answer: str) -> bool:
        """Whether `answer` is an expression of the numbers, each at most once, whose value is the target."""
        found = expressions.evaluate(answer)
        return found is not None and found[0] == problem.target and Counter(found[1]) <= Counter(problem.numbers)

    def gold(self, problem: Problem) -> str | None:
        """A right answer, as it stands in the box; None if the writer finds none."""
        tried = writer.attempts(problem.numbers, problem.target, self.cfg.max_target)
        return str(tried[-1]) if tried and tried[-1].value == problem.target else None

    def analyse(self, problem: Problem, response: str) -> Analysis:
        """What the response tried, claimed and got wrong on the way."""
        return analysis.analyse(problem.numbers, problem.target, self.cfg.max_target, response)

    def symbols(self) -> list[str]:
        """The texts that must be one token each: every number that a chain can hold, and the fixed phrases."""
        return [*map(str, range(max(self.cfg.max_target, self.cfg.max_value) + 1)), *writer.PHRASES]
