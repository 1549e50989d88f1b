# SPDX-License-Identifier: Apache-2.0
"""Any dataset of reasoning-gym as a task, by name, with its own questions and verifier.

Where: prompts and rewards. A problem is an item of the dataset. Training problems come from one half of its items,
held-out problems from the other; a hash of the question decides which split may use it, so no question is in both. The
answer is the content of the last \\boxed{}. It is right if the dataset's verifier gives the full score, wrong if less,
and unscorable if the verifier fails.
Items and verdicts come from worker processes with deadlines (worker.py, rewards/verifier.py).
A cold start teaches only the format: datasets have no reasoning, so a demonstration is a boxed answer without thinking.

    State the final answer to the following arithmetic problem: 7 + 8 - 1 =
    <think>
    </think>
    \\boxed{14}

Dropped, and counted in `notes`: items without an answer, with an answer that cannot be boxed, or with a prompt that is
longer than data.prompt_length or has a character that the tokenizer cannot encode.
Deliberately not here: difficulties (datasets have their own options for them), analysis of a response's attempts.
"""

from __future__ import annotations

import difflib
import functools
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t1jax.config import Config, ConfigError, VerifierConfig
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, UNSCORABLE, WRONG, Outcome
from t1jax.rewards.verifier import Verifier
from t1jax.tasks.files import problems
from t1jax.tasks.files.prompts import after, has_any, render
from t1jax.tasks.pairs import chains
from t1jax.tasks.task import Source
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import TokenIds, Tokenizer

PROGRAM = Path(__file__).with_name("worker.py")
TRIES = 2000  # items tried to find one problem
LONGEST = 4000  # characters of an answer; a longer one is unscorable and never reaches the verifier
PROBED = 100  # items checked when the task is opened
ASCII = "".join(map(chr, range(32, 127))) + "\n"


class Gym(Verifier):
    """Worker processes that make the items of one dataset and score answers to them."""

    package = "reasoning-gym"

    def __init__(self, cfg: VerifierConfig, dataset: str, items: int, options: dict[str, Any]) -> None:
        super().__init__(cfg, (str(PROGRAM), dataset, str(items), json.dumps(options)))


@dataclass(frozen=True)
class Problem:
    """An item of the dataset."""

    index: int  # its index in its split
    item: int  # its number in the dataset
    question: str
    gold: str
    split: str
    difficulty: str = ""  # unknown


class GymTask:
    """Problems, prompts, demonstrations and the check of one dataset."""

    difficulties: tuple[int, ...] = ()
    sources: tuple[Source, ...] = ()

    def __init__(self, cfg: Config, gym: Verifier, tokenizer: Tokenizer | None = None) -> None:
        """`gym`: from make_gym. `tokenizer`: None before it is trained; then no item is dropped because of it."""
        self.cfg, self._gym, self._tokenizer = cfg, gym, tokenizer
        self._chat = tokenizer if isinstance(tokenizer, HFTokenizer) else None
        self.cut_answer_prefix = cfg.scaling.answer_prefix if self._chat else chains.CUT_ANSWER_PREFIX
        self._cached = functools.lru_cache(maxsize=2**16)(self._find)
        refuse(cfg, *gym.ask([("describe", "")]))
        self.notes = self._probe()

    def size(self, split: str) -> None:
        """None: a split is unlimited, though a dataset may have few distinct items."""

    def problem(self, index: int, split: str) -> Problem:
        """The problem with this index in this split; deterministic, on every machine.

        Raises:
          ConfigError: none of TRIES items can be used for this split.
        """
        return self._cached(index, split)

    def _find(self, index: int, split: str) -> Problem:
        if split not in ("train", "held_out") or index < 0:
            raise ValueError(f"problem {index} of split {split!r}; expected index >= 0 of 'train' or 'held_out'")
        rng = random.Random(f"gym {split} {index}")
        half = self.cfg.task.gym_items // 2
        for _ in range(TRIES):
            number = rng.randrange(half) + half * (split == "held_out")
            question, gold = self._item(number)
            if self._is_held_out(question) == (split == "held_out") and self._why_not(question, gold) is None:
                assert gold is not None
                return Problem(index, number, question, gold, split)
        raise ConfigError(
            f"task.gym_dataset is {self.cfg.task.gym_dataset}: none of {TRIES} items can be used as a {split} problem; "
            "expected more distinct questions: change task.gym_options, task.held_out_percent or data.prompt_length"
        )

    def prompt(self, problem: Problem) -> str:
        """The question up to where thinking starts; with a Hugging Face tokenizer, in data.template and chat."""
        return self._prompt(problem.question)

    def _prompt(self, question: str) -> str:
        if self._chat is not None:
            return render(question, self.cfg.data, self._chat)
        return f"{question}\n{chains.OPEN}\n"

    def num_demonstrations(self) -> None:
        """None: every training problem has one."""

    def demonstration(self, index: int, seed: int) -> tuple[str, str]:
        """(prompt, boxed answer without thinking) of the training problem with this index; the seed is ignored."""
        problem = self.problem(index, "train")
        response = f"{chains.CLOSE}\n{chains.BOX}{problem.gold}}}"
        if self._chat is not None:
            response = after(self.prompt(problem), f"{chains.OPEN}\n{response}", self.cfg.data)
        return self.prompt(problem), response

    def gold(self, problem: Problem) -> str | None:
        """The dataset's answer; others may also be right."""
        return problem.gold

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Outcome]:
        """The outcome of each response's last box by the dataset's verifier. All answers are scored in parallel."""
        found = [answers.last_box(response) for response in responses]
        asked = {
            (f"score {problem.item}", answer.strip())
            for problem, answer in zip(problems, found, strict=True)
            if answer is not None and len(answer) <= LONGEST
        }
        said = dict(zip(asked, self._gym.ask(list(asked)), strict=True))
        return [
            WRONG if answer is None else Outcome(said.get((f"score {problem.item}", answer.strip()), UNSCORABLE))
            for problem, answer in zip(problems, found, strict=True)
        ]

    def analyse(self, problem: Problem, response: str) -> None:
        """None: a response's attempts and claims cannot be checked."""

    def forbid_giving_up(self, tokenizer: Tokenizer) -> None:
        """None: tokens do not show where a response gives up."""

    def thought_end(self, tokens: TokenIds, tokenizer: Tokenizer) -> int | None:
        """The number of tokens before the first </think>; None if there is none."""
        return problems.thought_end(tokens, tokenizer)

    def corpus(self, count: int, seed: int) -> Iterator[str]:
        """Texts to train a tokenizer: one with every ASCII character, then `count` prompts with their responses."""
        rng = random.Random(f"corpus {seed}")
        yield ASCII
        for _ in range(count):
            yield "".join(self.demonstration(rng.randrange(1 << 30), seed))

    def symbols(self) -> list[str]:
        """Texts that must be one token each."""
        return [chains.OPEN, chains.CLOSE, chains.BOX]

    def _item(self, number: int) -> tuple[str, str | None]:
        """(question, answer) of an item; the answer may be None."""
        (entry,) = self._gym.ask([("item", str(number))])
        if entry == UNSCORABLE:
            raise ConfigError(
                f"verifier.deadline is {self.cfg.verifier.deadline}; expected more: reasoning-gym did not make item "
                f"{number} of {self.cfg.task.gym_dataset} in that time, or needs more than verifier.memory = "
                f"{self.cfg.verifier.memory}"
            )
        return entry["question"], entry["answer"]

    def _is_held_out(self, question: str) -> bool:
        return zlib.crc32(question.encode()) * 100 < self.cfg.task.held_out_percent * 2**32

    def _why_not(self, question: str, gold: str | None) -> str | None:
        """Why an item cannot be used; None if it can."""
        if not gold or answers.last_box(f"{chains.BOX}{gold}}}") != gold:
            return "no answer that can be boxed"
        if self._tokenizer is None:
            return None
        if self._chat is not None and has_any(question, self._chat.special_texts):
            return "the text of a special token"
        try:
            length = len(self._tokenizer.encode(self._prompt(question)))
            self._tokenizer.encode(gold)
        except ValueError:
            return "a character that the tokenizer lacks"
        most = self.cfg.data.prompt_length
        return f"a prompt of more than data.prompt_length = {most} tokens" if length > most else None

    def _probe(self) -> list[str]:
        """Checks the first items. Returns a line for each reason to drop some, and on answers that fail to verify.

        Raises:
          ConfigError: none of them can be used.
        """
        count = min(PROBED, self.cfg.task.gym_items)
        items = [self._item(number) for number in range(count)]
        why = [self._why_not(*item) for item in items]
        usable = [number for number in range(count) if why[number] is None]
        golds = self._gym.ask([(f"score {number}", str(items[number][1]).strip()) for number in usable])
        name = self.cfg.task.gym_dataset
        if RIGHT not in golds:
            reasons = ", ".join(sorted({reason for reason in why if reason})) or "no answer verifies against itself"
            raise ConfigError(f"task.gym_dataset is {name}: none of its first {count} items can be used: {reasons}")
        notes = [
            f"{name}: of its first {count} items, {why.count(reason)} are dropped: {reason}"
            for reason in sorted({reason for reason in why if reason})
        ]
        if other := len(golds) - golds.count(RIGHT):
            notes.append(f"{name}: the answers of {other} of {len(golds)} items do not verify against themselves")
        return notes


def make_gym(cfg: Config) -> Gym:
    """The worker processes for cfg.task.gym_dataset; close them when done.

    Raises:
      ConfigError: task.gym_options cannot be read.
    """
    options = {}
    for option in cfg.task.gym_options:
        name, equals, value = option.partition("=")
        if not equals or name in ("seed", "size"):
            raise ConfigError(f"task.gym_options has {option!r}; expected name=value, of any name but seed and size")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return Gym(cfg.verifier, cfg.task.gym_dataset, cfg.task.gym_items, options)


def refuse(cfg: Config, problem: Any) -> None:
    """Raises ConfigError for what "describe" (worker.py) reports; returns if it is {}."""
    name = cfg.task.gym_dataset
    if problem == UNSCORABLE:
        raise ConfigError(f"task.gym_dataset is {name}: its process died; expected verifier.memory to be enough")
    if "missing" in problem:
        raise ConfigError(
            f"task.name is gym, which needs a package ({problem['missing']}); run: pip install 'reasoning-gym>=0.1.25'"
        )
    if "names" in problem:
        near = difflib.get_close_matches(name, problem["names"], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(problem['names'])}"
        raise ConfigError(f"task.gym_dataset is {name}; expected a dataset of reasoning-gym; {hint}")
    if "fields" in problem:
        known = ", ".join(problem["fields"]) or "none"
        raise ConfigError(f"task.gym_options sets {problem['unknown']}; expected options of {name}: {known}")
    if "refused" in problem:
        said, items = " ".join(problem["refused"].split())[:300], cfg.task.gym_items
        raise ConfigError(
            f"task.gym_dataset is {name}, which refuses task.gym_options or task.gym_items = {items}: {said}"
        )
