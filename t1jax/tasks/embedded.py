# SPDX-License-Identifier: Apache-2.0
"""Creates the embedded task that the config names, with its tokenizer: a task that needs no file.

docs/tasks.md describes the tasks.
Deliberately not here: the tasks themselves (pairs/, countdown/, gym/), problems from files (files/).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from t1jax.config import Config, ConfigError
from t1jax.rewards.verifier import Verifier
from t1jax.tasks.chat import ChatTask
from t1jax.tasks.countdown.task import CountdownTask
from t1jax.tasks.gym.task import GymTask, make_gym
from t1jax.tasks.pairs import chains
from t1jax.tasks.pairs.task import PairsTask
from t1jax.tasks.task import P, Task
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import Tokenizer


class Embedded(Task[P], Protocol[P]):
    """A task that can also say what a tokenizer of its own is trained on."""

    def corpus(self, count: int, seed: int) -> Iterator[str]:
        """`count` texts, prompt and response, of training problems."""
        ...

    def symbols(self) -> list[str]:
        """The texts that must be one token each."""
        ...


def make_verifier(cfg: Config) -> Verifier:
    """The processes that judge answers: math-verify's, or those of the dataset of reasoning-gym. Close them when done.

    Raises:
      ConfigError: task.gym_options cannot be read.
    """
    return make_gym(cfg) if cfg.task.name == "gym" and not cfg.data.train else Verifier(cfg.verifier)


def make_embedded(cfg: Config, tokens: Tokenizer | None, verifier: Verifier) -> tuple[Task, Tokenizer]:
    """The task cfg.task.name, and `tokens`; if that is None, a tokenizer trained on the task's own text.

    Args:
      verifier: what make_verifier gave.

    Raises:
      ConfigError: the task cannot be made.
    """
    if tokens is None:
        task = _make(cfg, None, verifier)
        texts = task.corpus(cfg.tokenizer.corpus_texts, cfg.seed)
        tokens = tokenizer.SentencePieceTokenizer(
            tokenizer.train_sentencepiece(texts, cfg.model.vocab_size, task.symbols(), cfg.seed)
        )
    task = _make(cfg, tokens, verifier)
    if isinstance(tokens, HFTokenizer) and not isinstance(task, GymTask):
        return ChatTask(task, cfg, tokens), tokens
    return task, tokens


def ask(question: str) -> str:
    """The prompt of an embedded task, without chat, for a question as a person types it."""
    return f"{question.rstrip().removesuffix(chains.OPEN).rstrip()}\n{chains.BEGIN}"


def example(cfg: Config) -> str:
    """A question of the embedded task as a person types it; "" of gym, whose questions come from a package."""
    if cfg.data.train or cfg.task.name == "gym":
        return ""
    task = PairsTask(cfg.task) if cfg.task.name == "pairs" else CountdownTask(cfg.task)
    return task.prompt(task.problem(0, "held_out")).removesuffix(chains.BEGIN).rstrip()


def _make(cfg: Config, tokens: Tokenizer | None, verifier: Verifier) -> Embedded:
    match cfg.task.name:
        case "pairs":
            return PairsTask(cfg.task)
        case "countdown":
            return CountdownTask(cfg.task)
        case "gym":
            return GymTask(cfg, verifier, tokens)
        case name:
            raise ConfigError(f"task.name is {name}; expected pairs, countdown or gym")
