# SPDX-License-Identifier: Apache-2.0
"""What generated tasks share: an endless supply of problems, each with a demonstration.

A problem is some numbers and a target. It is a function of its index and split alone, so a scorer can look it up by
index. A hash of its numbers and target decides the split: no problem is in both.

Deliberately not here: the questions (pairs/, countdown/), tasks whose items come from elsewhere (gym/, files/).
"""

from __future__ import annotations

import random
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from t1jax.config import ConfigError, TaskConfig
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG, Outcome
from t1jax.tasks.pairs import chains
from t1jax.tasks.task import Source
from t1jax.text.tokenizer import TokenIds, Tokenizer

TRIES = 100_000  # draws for one problem


@dataclass(frozen=True)
class Problem:
    """Do with `numbers` what the task asks, so that it comes to `target`."""

    index: int  # what finds it again in its split
    numbers: tuple[int, ...]  # ascending, distinct, 1..max_value
    target: int  # that can be reached
    difficulty: int  # how many numbers
    split: str  # "train" or "held_out"


class GeneratedTask(ABC):
    """A Task, but for how problems are drawn and asked, and what answers them."""

    salt = ""  # of the problems' random numbers
    cut_answer_prefix = chains.CUT_ANSWER_PREFIX
    notes: tuple[str, ...] = ()  # nothing is left out
    sources: tuple[Source, ...] = ()

    def __init__(self, cfg: TaskConfig) -> None:
        """ConfigError: there can be no such problems."""
        if not 3 <= cfg.min_numbers <= cfg.max_numbers <= cfg.max_value:
            raise ConfigError(
                f"task.min_numbers, task.max_numbers, task.max_value are {cfg.min_numbers}, {cfg.max_numbers}, "
                f"{cfg.max_value}; expected 3 <= min_numbers <= max_numbers <= max_value"
            )
        if not 0 < cfg.held_out_percent < 100:
            raise ConfigError(f"task.held_out_percent is {cfg.held_out_percent}; expected more than 0 and below 100")
        self.cfg = cfg
        self.difficulties = tuple(range(cfg.min_numbers, cfg.max_numbers + 1))

    @abstractmethod
    def draw(self, numbers: tuple[int, ...], rng: random.Random) -> int | None:
        """A target for these numbers; None: they make no problem with the one that was drawn."""

    @abstractmethod
    def prompt(self, problem: Problem) -> str:
        """The question, up to where the thinking starts."""

    @abstractmethod
    def chain(self, problem: Problem, rng: random.Random) -> str:
        """One cold-start response to the prompt, without a stop token."""

    @abstractmethod
    def gold(self, problem: Problem) -> str | None:
        """A right answer, as it stands in the box; None if there is none."""

    @abstractmethod
    def answered(self, problem: Problem, answer: str) -> bool:
        """Whether what stands in a box is right."""

    def problem(self, index: int, split: str) -> Problem:
        """The problem with this index in this split: always the same one, on every machine."""
        if split not in ("train", "held_out") or index < 0:
            raise ValueError(f"problem {index} of split {split!r}; expected index >= 0 of 'train' or 'held_out'")
        rng = random.Random(f"{self.salt}{split} {index}")
        values = range(1, self.cfg.max_value + 1)
        for _ in range(TRIES):
            count = rng.choice(self.difficulties)
            numbers = tuple(sorted(rng.sample(values, count)))
            target = self.draw(numbers, rng)
            if target is not None and self._is_held_out(numbers, target) == (split == "held_out"):
                return Problem(index, numbers, target, count, split)
        raise ConfigError(
            f"task.max_value is {self.cfg.max_value}: {TRIES} draws gave no problem of the {split} split; expected "
            "more different problems: raise it, or task.held_out_percent"
        )

    def _is_held_out(self, numbers: tuple[int, ...], target: int) -> bool:
        digest = zlib.crc32(f"{self.salt}{numbers} {target}".encode())
        return digest * 100 < self.cfg.held_out_percent * 2**32

    def size(self, split: str) -> None:
        """None: a split has no end."""
        return None

    def num_demonstrations(self) -> None:
        """None: every training problem has one."""
        return None

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """(prompt, chain) of the training problem with this index; it and the seed decide the chain."""
        problem = self.problem(index, "train")
        return self.prompt(problem), self.chain(problem, random.Random(f"chain {seed} {index}"))

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Outcome]:
        """Right if what the last box holds answers the problem; unscorable if the problem has no answer."""
        return [self._outcome(problem, response) for problem, response in zip(problems, responses, strict=True)]

    def _outcome(self, problem: Problem, response: str) -> Outcome:
        if self.gold(problem) is None:
            return UNSCORABLE
        answer = answers.last_box(response)
        return RIGHT if answer is not None and self.answered(problem, answer) else WRONG

    def thought_end(self, tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
        """Tokens before the </think>, which is one token; None if there is none."""
        return chains.thought_end(tokens, tokenizer)

    def corpus(self, count: int, seed: int) -> Iterator[str]:
        """`count` texts, prompt and chain, of training problems: what a tokenizer is trained on."""
        rng = random.Random(f"corpus {seed}")
        for _ in range(count):
            problem = self.problem(rng.randrange(1 << 40), "train")
            yield self.prompt(problem) + self.chain(problem, rng)

    def forbid_giving_up(self, tokenizer: Tokenizer) -> tuple[int, tuple[int, ...]]:
        """(the token that ends the thinking, the tokens it may follow: the end of a line that claims "yes")."""
        return chains.forbid_giving_up(tokenizer)
