# SPDX-License-Identifier: Apache-2.0
"""The embedded task: pick two numbers of a list that have a given sum.

Where: the prompts of the sentence, and the rule that checks an answer. A problem is a function of its index and
its split alone, so problems are unlimited, need no file, and a scorer can look one up by number. Which split a
problem may belong to is decided by a hash of its numbers and target: no problem is in both.

    Pick two of 6, 13, 14, 16, 22 that sum to 20.
    <think>
    6+22=28, need 20: too big
    6+16=22, need 20: too big
    6+14=20, need 20: yes
    check 20-6=14: yes
    </think>
    \\boxed{6+14}

Deliberately not here: the words of a chain (chains.py), reading a response's attempts back (analysis.py).
"""

from __future__ import annotations

import itertools
import random
import zlib
from dataclasses import dataclass
from typing import Literal

from t1jax.config import ConfigError, TaskConfig
from t1jax.rewards import answers
from t1jax.tasks import analysis, chains
from t1jax.tasks.generated import GeneratedTask

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Problem:
    """Pick two of `numbers` that sum to `target`."""

    index: int  # what finds it again in its split
    numbers: tuple[int, ...]  # ascending, distinct, 1..max_value
    target: int  # the sum of at least one pair of them
    difficulty: int  # how many numbers
    split: Split


class PairsTask(GeneratedTask):
    """Problems, prompts, chains and the check of the embedded task, as cfg.task describes it."""

    cut_answer_prefix = chains.CUT_ANSWER_PREFIX

    def __init__(self, cfg: TaskConfig) -> None:
        if not 3 <= cfg.min_numbers <= cfg.max_numbers <= cfg.max_value:
            raise ConfigError(
                f"task.min_numbers, task.max_numbers, task.max_value are {cfg.min_numbers}, {cfg.max_numbers}, "
                f"{cfg.max_value}; expected 3 <= min_numbers <= max_numbers <= max_value"
            )
        if not 0 < cfg.held_out_percent < 100:
            raise ConfigError(f"task.held_out_percent is {cfg.held_out_percent}; expected more than 0 and below 100")
        self.cfg = cfg
        self.difficulties = tuple(range(cfg.min_numbers, cfg.max_numbers + 1))
        self._values = range(1, cfg.max_value + 1)

    def problem(self, index: int, split: Split) -> Problem:
        """The problem with this index in this split: always the same one, on every machine."""
        if split not in ("train", "held_out") or index < 0:
            raise ValueError(f"problem {index} of split {split!r}; expected index >= 0 of 'train' or 'held_out'")
        rng = random.Random(f"{split} {index}")
        while True:
            count = rng.randint(self.cfg.min_numbers, self.cfg.max_numbers)
            numbers = tuple(sorted(rng.sample(self._values, count)))
            target = sum(rng.sample(numbers, 2))
            if self._is_held_out(numbers, target) == (split == "held_out"):
                return Problem(index, numbers, target, count, split)

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

    def analyse(self, problem: Problem, response: str) -> analysis.Analysis:
        """What the response tried, claimed and got wrong on the way."""
        return analysis.analyse(problem.numbers, problem.target, response)

    def symbols(self) -> list[str]:
        """The texts that must be one token each: every number that a chain can hold, and the fixed phrases."""
        return [*map(str, range(2 * self.cfg.max_value + 1)), *chains.PHRASES]

    def _is_held_out(self, numbers: tuple[int, ...], target: int) -> bool:
        digest = zlib.crc32(f"{numbers} {target}".encode())
        return digest * 100 < self.cfg.held_out_percent * 2**32
