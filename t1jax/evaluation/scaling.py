# SPDX-License-Identifier: Apache-2.0
"""Inference scaling without a verifier: does more thinking give more correct answers?

One generation's thinking is cut at a budget of tokens (cut.py), the model writes the answer from the cut thought, and
that is scored; repeated over budgets.

Source: T1 (arXiv 2501.11651) section 3, inference scaling.
Deliberately not here: the plot (plots.py), the same for files of problems (t1jax/evaluate.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from t1jax.evaluation.cut import cut_thoughts, padded_length
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
    kept: Callable[[str], Journal] | None = None,
    tell: Callable[[int, Sequence[Response]], None] | None = None,
) -> list[dict[str, Any]]:
    """[{stage, budget, accuracy, low, high, n}] over cfg.scaling.budgets, from one generation's responses.

    Args:
      evaluator: samples the answers, at temperature 1.
      params: the weights that wrote `responses`.
      responses: one to each question, sampled at temperature 1.
      stage: "sft" or "rl".
      kept: name -> the journal of what is sampled; None: nothing is kept.
      tell: with `kept`, is given a budget and all answers to it so far after each batch.
    """
    cfg, task, tokenizer = evaluator.cfg, evaluator.task, evaluator.tokenizer
    points = []
    for budget, asked in cut_thoughts(task, tokenizer, questions, responses, 1, cfg.scaling.budgets).items():
        answered = evaluator.respond(
            params,
            f"scaling/{stage}/{budget}",
            [dataclasses.replace(question, id=place) for place, question in enumerate(asked)],
            length=padded_length(cfg, budget, task.cut_answer_prefix, tokenizer),
            new_tokens=cfg.scaling.answer_tokens,
            journal=kept(f"budget-{budget}") if kept else None,
            tell=functools.partial(tell, budget) if tell else None,
        )
        judged = {response.problem: response for response in [*responses, *answered]}  # a cut one replaces the whole
        points.append({"stage": stage, "budget": budget, **accuracy(list(judged.values()))})
    return points
