# SPDX-License-Identifier: Apache-2.0
"""What tasks have in common whose problems and chains a program writes: problems without end, a demonstration of each.

Where: before the prompts; pairs.py and countdown.py say what a problem is.
Deliberately not here: the words of a chain (chains.py), tasks whose items come from elsewhere (gym.py, problems.py).
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG, Outcome
from t1jax.tasks import chains
from t1jax.tokenizer import TokenIds, Tokenizer


class GeneratedTask(ABC):
    """A Task, but for what a problem is, how it is asked, and what answers it."""

    @abstractmethod
    def problem(self, index: int, split: Any) -> Any:
        """The problem with this index in this split: always the same one, on every machine."""

    @abstractmethod
    def prompt(self, problem: Any) -> str:
        """The question, up to where the thinking starts."""

    @abstractmethod
    def chain(self, problem: Any, rng: random.Random) -> str:
        """One cold-start response to the prompt, without a stop token."""

    @abstractmethod
    def gold(self, problem: Any) -> str | None:
        """A right answer, as it stands in the box; None if there is none."""

    @abstractmethod
    def answered(self, problem: Any, answer: str) -> bool:
        """Whether what stands in a box is right."""

    def size(self, split: Any) -> None:
        """None: a split has no end."""
        return None

    def num_demonstrations(self) -> None:
        """None: every training problem has one."""
        return None

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """(prompt, chain) of the training problem with this index; it and the seed decide the chain."""
        problem = self.problem(index, "train")
        return self.prompt(problem), self.chain(problem, random.Random(f"chain {seed} {index}"))

    def score(self, problems: Sequence[Any], responses: Sequence[str]) -> list[Outcome]:
        """Right if what the last box holds answers the problem; unscorable if the problem has no answer."""
        return [self._outcome(problem, response) for problem, response in zip(problems, responses, strict=True)]

    def _outcome(self, problem: Any, response: str) -> Outcome:
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
