# SPDX-License-Identifier: Apache-2.0
"""Problems from files: asked and judged (a Grader), and as the task of a run (a Task, see tasks/task.py).

Where: prompts and rewards. `notes` says which rows were dropped, and why.
Deliberately not here: reading and cleaning the problems (problems.py), prompts (prompts.py), the cold start's texts
(demonstrations.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeVar

from t1jax.checks import plain_reward, right_and_wrong, weighed
from t1jax.config import Config
from t1jax.rewards.answers import UNSCORABLE, Outcome
from t1jax.tasks.files.demonstrations import read_demonstrations
from t1jax.tasks.files.overlap import Known
from t1jax.tasks.files.problems import (
    Checker,
    Problem,
    comparable,
    judge,
    not_in,
    numbered,
    read_problems,
    thought_end,
    usable,
    verifiable,
)
from t1jax.tasks.files.prompts import ChatTokenizer, render
from t1jax.tasks.task import Source
from t1jax.text.tokenizer import TokenIds, Tokenizer

T = TypeVar("T")


class FileGrader:
    """Prompts of problems from any files, and the check of responses to them."""

    def __init__(self, cfg: Config, tokenizer: ChatTokenizer, verifier: Checker) -> None:
        self.cfg, self._tokenizer, self._verifier = cfg, tokenizer, verifier
        self.cut_answer_prefix = cfg.scaling.answer_prefix
        self._answered = right_and_wrong(cfg.reward)  # else reward functions judge, and there need be no answers
        self._unscorable: set[tuple[str, int]] = set()  # (file, row)

    def read(self, path: str, limit: int | None = None) -> tuple[list[Problem], list[str]]:
        """(the problems of a file that can be asked, a line for each reason to leave some out); see `usable`.

        Args:
          limit: at most so many problems, the first ones.

        Raises:
          ConfigError: the file cannot be used.
        """
        problems, notes = self._read(path, "held_out")
        problems, more = self.usable(problems[:limit])
        return problems, [*notes, *more]

    def _read(self, path: str, split: str) -> tuple[list[Problem], list[str]]:
        return read_problems(path, self.cfg.data, split, self._answered, whole=not plain_reward(self.cfg.reward))

    def usable(self, problems: Sequence[Problem]) -> tuple[list[Problem], list[str]]:
        """(the held-out problems of one file that can be asked, a line for each reason to leave some out).

        One whose answer does not verify against itself is asked, and all its responses are unscorable. For one whose
        answer cannot be compared by value see data.text_golds.
        """
        problems, unusable = usable(problems, self.cfg.data, self._tokenizer)
        if not self._answered:
            return problems, unusable
        problems, as_text = comparable(problems, self._verifier, self.cfg.data.text_golds)
        scorable, unscorable = verifiable(problems, self._verifier, "unscorable")
        self._unscorable |= {(p.source, p.row) for p in problems} - {(p.source, p.row) for p in scorable}
        return problems, [*unusable, *as_text, *unscorable]

    def prompt(self, problem: Problem) -> str:
        """The problem in template and chat, and the response's beginning."""
        return render(problem.text, self.cfg.data, self._tokenizer, problem.before)

    def gold(self, problem: Problem) -> str | None:
        """The right answer; None if the verifier cannot judge it, or there is none."""
        return None if not problem.gold or (problem.source, problem.row) in self._unscorable else problem.gold

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Outcome]:
        """Whether the final answer of each response is that of the problem beside it; all checked at once."""
        golds = [self.gold(problem) for problem in problems]
        pairs = [(text, gold) for text, gold in zip(responses, golds, strict=True) if gold is not None]
        outcomes = iter(judge(pairs, self._verifier))
        return [UNSCORABLE if gold is None else next(outcomes) for gold in golds]

    def analyse(self, problem: Problem, response: str) -> None:
        """None: what such a response tried and claimed cannot be checked."""

    def forbid_giving_up(self, tokenizer: Tokenizer) -> None:
        """None: nobody can tell from the tokens where such a response gives up."""

    def thought_end(self, tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
        """Tokens before the first </think>; None without it."""
        return thought_end(tokens, tokenizer)


class ProblemsTask(FileGrader):
    """The problems of data.train and data.eval, and the texts of data.sft if there is a cold start."""

    def __init__(self, cfg: Config, tokenizer: ChatTokenizer, verifier: Checker) -> None:
        super().__init__(cfg, tokenizer, verifier)
        self.difficulties: tuple[int, ...] = ()
        self.notes: list[str] = []  # a line for each reason to leave rows out
        held_out = self._noted(self._read(cfg.data.eval, "held_out"))
        known = Known(problem.text for problem in held_out)
        others = {cfg.data.eval: known}  # file -> problems that those after it may not have
        train: dict[str, list[Problem]] = {}
        weights = dict(weighed(cfg.data))
        for name in weights:
            train[name] = self._train(name, others, tokenizer)
            others[name] = Known(problem.text for problem in train[name])
        self.sources = tuple(Source(name, len(found), weights[name]) for name, found in train.items())
        held_out = self._noted(self.usable(held_out))
        self._problems = {"train": numbered([*chain(*train.values())]), "held_out": numbered(held_out)}
        self._demonstrations: list[tuple[str, str]] = []
        if cfg.data.sft and cfg.sft.num_steps:
            self._demonstrations = self._noted(read_demonstrations(cfg.data.sft, cfg, tokenizer, known))

    def _train(self, path: str, others: Mapping[str, Known], tokenizer: ChatTokenizer) -> list[Problem]:
        """The problems of a file of data.train that can be learnt from, without those of `others`.

        Raises:
          ConfigError: the file cannot be used, or no problem is left.
        """
        found = self._noted(self._read(path, "train"))
        for other, known in others.items():
            found = self._noted(not_in(found, known, f"also in {other}"))
        found = self._noted(usable(found, self.cfg.data, tokenizer))
        if self._answered:
            found = self._noted(comparable(found, self._verifier, self.cfg.data.text_golds))
            found = self._noted(verifiable(found, self._verifier, "dropped"))
        return found

    def size(self, split: str) -> int:
        """Problems of "train" or "held_out"."""
        return len(self._problems[split])

    def problem(self, index: int, split: str) -> Problem:
        """The problem with this index: the same one as long as the files and the data knobs stay the same."""
        if split not in self._problems or not 0 <= index < self.size(split):
            sizes = {name: len(problems) for name, problems in self._problems.items()}
            raise ValueError(f"problem {index} of split {split!r}; expected an index from 0 to below one of {sizes}")
        return self._problems[split][index]

    def num_demonstrations(self) -> int:
        """Texts of data.sft; 0 without a cold start."""
        return len(self._demonstrations)

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """(prompt, response without stop token) number `index` of data.sft, whatever the seed."""
        return self._demonstrations[index]

    def _noted(self, found: tuple[list[T], list[str]]) -> list[T]:
        kept, notes = found
        self.notes += notes
        return kept
