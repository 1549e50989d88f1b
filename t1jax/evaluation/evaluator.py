# SPDX-License-Identifier: Apache-2.0
"""Held-out problems of a run's task -> sampled and judged responses, with the weights of the moment.

prompts -> rollouts -> rewards, at a temperature, greedy, or forbidden to give up: a baseline that needs no training.
The sampler is the one of training, compiled once for all of these.

Source: T1 (arXiv 2501.11651) section 3.
Deliberately not here: what the responses show (figures.py), cutting the thinking at budgets (scaling.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.evaluation.responses import Response
from t1jax.rewards import answers
from t1jax.rewards.answers import Outcome
from t1jax.rollouts import decode
from t1jax.rollouts.generate import Generator
from t1jax.tasks.task import Problem, Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Params


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
            Response(
                problem=problem.index,
                text=text,
                outcome=Outcome(outcome),
                tokens=len(tokens),
                overlong=not tokens or tokens[-1] not in self.tokenizer.stop_ids,
                answer=answers.final_answer(text),
                gold=self.task.gold(problem),
                difficulty=problem.difficulty,
                prompt=self.task.prompt(problem),
                ids=np.array(tokens, np.int32),
                analysis=self.task.analyse(problem, text),
            )
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
