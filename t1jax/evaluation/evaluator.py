# SPDX-License-Identifier: Apache-2.0
"""Held-out problems -> sampled responses -> shares with 95 % intervals.

pass@1 at a temperature, by difficulty; what a gain is made of (gave up, claimed truly, claimed falsely; arithmetic,
copying and verdicts of the text that the model wrote itself); and the model forbidden to give up, a baseline that
needs no training. The sampler is the one of training, compiled once for all of these.

Axes: P problems, one response each; C prompt positions.
Source: T1 (arXiv 2501.11651) section 3.
Deliberately not here: cutting the thinking at budgets (scaling.py), plots (plots.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.evaluation.statistics import wilson
from t1jax.rewards.answers import RIGHT, UNSCORABLE
from t1jax.rollouts import decode
from t1jax.rollouts.generate import Generator
from t1jax.tasks import honesty
from t1jax.tasks.task import Problem, Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Params

LATE = 6  # attempts before a step of the thinking that counts as late


@dataclass(frozen=True)
class Response:
    """One sampled response to a held-out problem."""

    problem: Problem
    tokens: tuple[int, ...]
    text: str
    outcome: int
    analysis: honesty.Analysis | None  # None: the task cannot tell what was tried and claimed

    @property
    def right(self) -> bool:
        return self.outcome == RIGHT


def share(count: int, n: int) -> dict[str, float | int]:
    """{accuracy, low, high, n}: a share and its 95 % interval."""
    low, high = wilson(count, n)
    return {"accuracy": count / n if n else float("nan"), "low": low, "high": high, "n": n}


class Evaluator:
    """Samples responses to held-out problems with the weights of the moment."""

    def __init__(
        self,
        cfg: Config,
        mesh: Mesh,
        task: Task,
        tokenizer: Tokenizer,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.cfg, self.task, self.tokenizer = cfg, task, tokenizer
        self._generate = Generator(cfg, mesh, tokenizer, on_progress)

    def problems(self, count: int, start: int = 0) -> list[Any]:
        """`count` held-out problems from number `start` on, always the same ones; a small file gives what it has."""
        size = self.task.size("held_out")
        if size is not None and size < start + count:
            start, count = 0, min(count, size)
        return [self.task.problem(start + i, "held_out") for i in range(count)]

    def respond(
        self,
        params: Params,
        problems: Sequence[Problem],
        name: str,
        *,
        temperature: float = 1.0,
        forbid_giving_up: bool = False,
    ) -> list[Response]:
        """One response to each problem.

        Args:
          params: float32 master weights.
          problems: any number.
          name: of the random stream; the same name gives the same numbers.
          temperature: 0 for greedy.
          forbid_giving_up: thinking may end only after a line that claims "yes".
        """
        prompts = [self.tokenizer.encode(self.task.prompt(problem)) for problem in problems]
        tokens = self.continue_from(
            params,
            prompts,
            name,
            length=self.cfg.data.prompt_length,
            new_tokens=self.cfg.rl.max_new_tokens,
            temperature=temperature,
            forbid_giving_up=forbid_giving_up,
        )
        return self.judge(problems, tokens)

    def judge(self, problems: Sequence[Any], responses: Sequence[Sequence[int]]) -> list[Response]:
        """Each response, as token ids, with its outcome and what it tried and claimed."""
        texts = [self.tokenizer.decode(tokens) for tokens in responses]
        outcomes = multihost.divided(lambda part: self.task.score(problems[part], texts[part]), len(texts))
        return [
            Response(problem, tuple(tokens), text, outcome, self.task.analyse(problem, text))
            for problem, tokens, text, outcome in zip(problems, responses, texts, outcomes, strict=True)
        ]

    def continue_from(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        name: str,
        *,
        length: int,
        new_tokens: int,
        temperature: float = 1.0,
        forbid_giving_up: bool = False,
    ) -> list[list[int]]:
        """Sampled tokens after each prompt (token ids of at most `length`), in batches of cfg.eval.batch_size."""
        answers = self._generate(
            params,
            prompts,
            name,
            length=length,
            new_tokens=new_tokens,
            temperature=temperature,
            forbid=self._forbid(forbid_giving_up),
        )
        return [answer for (answer,) in answers]

    def _forbid(self, giving_up: bool) -> decode.Forbid | None:
        ban = self.task.forbid_giving_up(self.tokenizer)
        if ban is None:
            return None
        token, allowed = ban
        after_V = np.isin(np.arange(self.cfg.model.vocab_size), allowed)
        return decode.Forbid(jnp.int32(token if giving_up else -1), jnp.asarray(after_V))


def accuracy(responses: Sequence[Response]) -> dict[str, float | int]:
    """{accuracy, low, high, n} over scorable responses."""
    scorable = [r for r in responses if r.outcome != UNSCORABLE]
    return share(sum(r.right for r in scorable), len(scorable))


def summary(responses: Sequence[Response]) -> dict[str, Any]:
    """What results.json says of a stage: accuracy with its interval, length; if the task can tell, honesty, skills."""
    n = max(1, len(responses))
    row: dict[str, Any] = accuracy(responses) | {
        "response_length": sum(len(r.tokens) for r in responses) / n,
        "unscorable": sum(r.outcome == UNSCORABLE for r in responses) / n,
        "strict_accuracy": sum(r.right for r in responses) / n,  # with unscorable responses as wrong ones
    }
    analyses = [r.analysis for r in responses if r.analysis is not None]
    if not analyses:
        return row
    skills = honesty.tally(analyses, LATE)
    ordered = [a.order for a in analyses if a.order is not None]
    if ordered:
        row["orders"] = {order: ordered.count(order) / n for order in honesty.ORDERS}
    return row | {
        "false_claims": sum(a.false_claim for a in analyses) / n,
        "gave_up": sum(a.gave_up for a in analyses) / n,
        "attempts": sum(len(a.attempts) for a in analyses) / n,
        "skills": {name: right / shown if shown else None for name, (right, shown) in skills.items()},
    }


def by_difficulty(responses: Sequence[Response], stage: str) -> list[dict[str, Any]]:
    """[{stage, difficulty, accuracy, low, high, n}], easiest first; problems without one ("") are left out."""
    levels = sorted({r.problem.difficulty for r in responses} - {""})
    return [
        {"stage": stage, "difficulty": d, **accuracy([r for r in responses if r.problem.difficulty == d])}
        for d in levels
    ]


def metrics_row(responses: Sequence[Response]) -> dict[str, Any]:
    """The `summary` as a flat row of metrics.jsonl."""
    row = summary(responses)
    orders, skills = row.pop("orders", {}), row.pop("skills", {})
    return row | {f"order_{name}": value for name, value in orders.items()} | skills
