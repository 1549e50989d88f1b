# SPDX-License-Identifier: Apache-2.0
"""Inference scaling without a verifier: does more thinking give more correct answers?

One generation's thinking is cut at a budget of tokens, the model writes the answer from the cut thought, and that is
scored; repeated over budgets. A response that ends its thinking, or itself, within the budget keeps its own answer.

Source: T1 (arXiv 2501.11651) section 3, inference scaling.
Deliberately not here: the plot (plots.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from t1jax.evaluation.evaluator import Evaluator, Response, accuracy
from t1jax.text.tokenizer import TokenIds, Tokenizer
from t1jax.types import Params

BUCKET = 64  # prompts with cut thoughts are padded to a multiple of this many tokens: few shapes to compile


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
    ends = [end_of(r.tokens, task.thought_end(r.tokens, tokenizer), tokenizer) for r in responses]
    longest_prefix = len(tokenizer.encode(task.cut_answer_prefix))
    points = []
    for budget in cfg.scaling.budgets:
        cut = [i for i, end in enumerate(ends) if end > budget]
        thoughts = [close(responses[i].tokens[:budget], task.cut_answer_prefix, tokenizer) for i in cut]
        questions = [tokenizer.encode(task.prompt(responses[i].problem)) for i in cut]
        longest = cfg.data.prompt_length + min(budget, cfg.rl.max_new_tokens) + longest_prefix
        answers = evaluator.continue_from(
            params,
            [question + thought for question, thought in zip(questions, thoughts, strict=True)],
            f"scaling/{stage}/{budget}",
            length=-(-longest // BUCKET) * BUCKET,
            new_tokens=cfg.scaling.answer_tokens,
        )
        judged = list(responses)
        problems = [responses[i].problem for i in cut]
        completed = [thought + answer for thought, answer in zip(thoughts, answers, strict=True)]
        for i, response in zip(cut, evaluator.judge(problems, completed), strict=True):
            judged[i] = response
        points.append({"stage": stage, "budget": budget, **accuracy(judged)})
    return points


def end_of(tokens: TokenIds, thought_end: int | None, tokenizer: Tokenizer) -> float:
    """Tokens before a response ends its thinking, or itself; infinite if it does neither."""
    stopped = len(tokens) > 0 and tokens[-1] in tokenizer.stop_ids
    return min(math.inf if thought_end is None else thought_end, len(tokens) - 1 if stopped else math.inf)


def close(tokens: TokenIds, prefix: str, tokenizer: Tokenizer) -> list[int]:
    """A cut thought, and the words after which only the answer is left to write. A line that is whole stays whole."""
    text = tokenizer.decode(tokens)
    if not text or text.endswith("\n"):
        prefix = prefix.removeprefix("\n")
    return [*tokens, *tokenizer.encode(prefix)]
