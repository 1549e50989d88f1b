# SPDX-License-Identifier: Apache-2.0
"""Inference scaling without a verifier: does more thinking give more correct answers?

One generation's thinking is cut at a budget of tokens (cut.py), the model writes the answer from the cut thought, and
that is scored; repeated over budgets.

Source: T1 (arXiv 2501.11651) section 3, inference scaling.
Deliberately not here: the plot (plots.py), the same for files of problems (evaluate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t1jax.evaluation.cut import cut, padded_length
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.figures import accuracy
from t1jax.evaluation.responses import Response
from t1jax.types import Params


def inference_scaling(
    evaluator: Evaluator, params: Params, responses: Sequence[Response], stage: str
) -> list[dict[str, Any]]:
    """[{stage, budget, accuracy, low, high, n}] over cfg.scaling.budgets, from one generation's responses.

    Args:
      evaluator: samples the answers, at temperature 1.
      params: the weights that wrote `responses`.
      responses: one a problem, sampled at temperature 1.
      stage: "sft" or "rl".
    """
    cfg, task, tokenizer = evaluator.cfg, evaluator.task, evaluator.tokenizer
    prefix = task.cut_answer_prefix
    written = [response.ids.tolist() for response in responses]
    points = []
    for budget, thoughts in cut(
        written, cfg.scaling.budgets, lambda ids: task.thought_end(ids, tokenizer), prefix, tokenizer
    ).items():
        problems = [task.problem(responses[i].problem, "held_out") for i in thoughts]
        answers = evaluator.continue_from(
            params,
            [
                tokenizer.encode(task.prompt(p)) + thought
                for p, thought in zip(problems, thoughts.values(), strict=True)
            ],
            f"scaling/{stage}/{budget}",
            length=padded_length(cfg, budget, prefix, tokenizer),
            new_tokens=cfg.scaling.answer_tokens,
        )
        judged = list(responses)
        completed = [thought + answer for thought, answer in zip(thoughts.values(), answers, strict=True)]
        for i, response in zip(thoughts, evaluator.judge(problems, completed), strict=True):
            judged[i] = response
        points.append({"stage": stage, "budget": budget, **accuracy(judged)})
    return points
