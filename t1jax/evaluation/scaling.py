# SPDX-License-Identifier: Apache-2.0
"""Inference scaling without a verifier: does more thinking give more correct answers?

One generation's thinking is cut at a budget of tokens (cut.py), scaling.answerer writes the answer from the cut thought
(answerer.py), and that is scored; repeated over budgets.

Source: T1 (arXiv 2501.11651) section 3, inference scaling.
Deliberately not here: the plot (plots.py), the figures for files of problems (t1jax/evaluate.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from t1jax.evaluation.answerer import open_answerer
from t1jax.evaluation.cut import ASK_FOR_BOX, BOX_TOKENS, cut_thoughts, padded_length, without_box
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.figures import accuracy
from t1jax.evaluation.journal import Journal
from t1jax.evaluation.questions import Question
from t1jax.evaluation.responses import Response
from t1jax.types import Params


def inference_scaling(
    evaluator: Evaluator,
    params: Params,
    questions: Sequence[Question],
    responses: Sequence[Response],
    stage: str,
    kept: Callable[..., Journal] | None = None,
    tell: Callable[[int, Sequence[Response]], None] | None = None,
) -> list[dict[str, Any]]:
    """[{stage, budget, accuracy, low, high, n, cut, boxed}] over cfg.scaling.budgets, from one generation's responses.

    `cut` is the share of responses whose thinking is cut, `boxed` the share that ends with an answer.

    Args:
      evaluator: samples the answers, by scaling.answer_temperature.
      params: the weights that wrote `responses`.
      responses: one to each question, sampled at temperature 1.
      stage: "sft" or "rl".
      kept: (name, **settings) -> the journal of what is sampled; None: nothing is kept.
      tell: with `kept`, is given a budget and all answers to it so far after each batch.
    """
    cfg, task, tokenizer = evaluator.cfg, evaluator.task, evaluator.tokenizer
    cut = {
        budget: [dataclasses.replace(question, id=place) for place, question in enumerate(asked)]
        for budget, asked in cut_thoughts(task, tokenizer, questions, responses, 1, cfg.scaling.budgets).items()
    }
    points = []
    for budget, answered in answer(
        evaluator, params, cut, lambda budget: f"scaling/{stage}/{budget}", kept=kept, tell=tell
    ):
        judged = {response.problem: response for response in [*responses, *answered]}  # a cut one replaces the whole
        boxed = sum(response.answer is not None for response in judged.values())
        shares = {"cut": len(answered) / max(len(judged), 1), "boxed": boxed / max(len(judged), 1)}
        points.append({"stage": stage, "budget": budget, **accuracy(list(judged.values())), **shares})
    return points


def answer(
    evaluator: Evaluator,
    params: Params,
    cut: Mapping[int, Sequence[Question]],
    name: Callable[[int], str],
    *,
    temperature: float = 1.0,
    truncate: bool = False,
    kept: Callable[..., Journal] | None = None,
    tell: Callable[[int, Sequence[Response]], None] | None = None,
) -> Iterator[tuple[int, list[Response]]]:
    """(budget, the responses whose thinking was cut there, ended by scaling.answerer), for each budget.

    Args:
      params: the weights that wrote the thoughts.
      cut: what to ask at each budget, from `cut_thoughts`.
      name: of a budget's random stream.
      temperature: that of the thinking, and of the answers unless scaling.answer_temperature says another.
      truncate: leave out unlikely tokens, as cfg.rl.top_k, top_p and min_p say.
      kept: (name, **settings) -> the journal of what is sampled; None: nothing is kept.
      tell: with `kept`, is given a budget and all answers to it so far after each batch.
    """
    cfg, prefix, tokenizer = evaluator.cfg, evaluator.task.cut_answer_prefix, evaluator.tokenizer
    if cfg.scaling.answer_temperature >= 0:
        temperature = cfg.scaling.answer_temperature
    by = open_answerer(evaluator, params) if any(cut.values()) else None

    def respond(budget: int, asked: Sequence[Question], new_tokens: int, again: str = "", more: int = 0) -> Any:
        if by is None:  # nothing is cut
            return []
        return evaluator.respond(
            by.params, name(budget) + again, asked, temperature=temperature, truncate=truncate,
            length=padded_length(cfg, budget, prefix, tokenizer, more), new_tokens=new_tokens,
            journal=kept(f"budget-{budget}{by.suffix}{again}", **by.told) if kept else None, generator=by.generator,
            tell=functools.partial(tell, budget) if tell and not again else None,
        )  # fmt: skip

    for budget, asked in cut.items():
        answered = respond(budget, asked, cfg.scaling.answer_tokens)
        if unboxed := without_box(asked, answered, prefix, tokenizer):
            more = cfg.scaling.answer_tokens + len(tokenizer.encode(ASK_FOR_BOX))
            answered += respond(budget, unboxed, BOX_TOKENS, "-box", more)
        last = {(response.problem, response.response): response for response in answered}
        yield budget, list(last.values())
