# SPDX-License-Identifier: Apache-2.0
"""Thoughts cut at a budget of tokens, and closed so that only the answer is left to write.

A response whose thinking ends within the budget, or that ends itself, is not cut: it keeps its own answer.
If the prefix opens no box, the answer is free to explain itself first. One that ends without a box is continued once
more, with a box opened, so that no point is low for the form of its answers alone.
Source: T1 (arXiv 2501.11651) section 3, inference scaling; asking for a box is ours.
Deliberately not here: sampling the answers (scaling.py), who writes them (answerer.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from t1jax.config import Config
from t1jax.evaluation.questions import Question
from t1jax.evaluation.responses import Response
from t1jax.rewards import answers
from t1jax.tasks.task import Grader
from t1jax.text.tokenizer import TokenIds, Tokenizer

ASK_FOR_BOX = f"\n\nThe final answer is {answers.BOX}"  # continues an answer that has no box
BOX_TOKENS = 64  # for what is in it
BUCKET = 64  # prompts with cut thoughts are padded to a multiple of this many tokens: few shapes to compile


def cut(
    responses: Sequence[TokenIds],
    budgets: Iterable[int],
    thought_end: Callable[[TokenIds], int | None],
    prefix: str,
    tokenizer: Tokenizer,
) -> dict[int, dict[int, list[int]]]:
    """{budget: {i: the thought of responses[i], cut and closed}}, where its thinking does not end within the budget.

    Args:
      responses: token ids of each, the stop token included.
      thought_end: how many tokens of a response come before the end of its thinking; None: it does not end.
      prefix: text that ends a thought and begins the answer.
    """
    budgets = list(budgets)
    ends = [_end(ids, thought_end(ids), tokenizer) for ids in responses] if budgets else []
    return {
        budget: {
            i: _close(ids[:budget], prefix, tokenizer)
            for i, (ids, end) in enumerate(zip(responses, ends, strict=True))
            if end > budget
        }
        for budget in budgets
    }


def cut_thoughts(
    task: Grader,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    responses: Sequence[Response],
    samples: int,
    budgets: Iterable[int],
) -> dict[int, list[Question]]:
    """{budget: what to ask where the thinking does not end within it: prompt, cut thought, answer prefix}.

    Args:
      responses: at most `samples` to each question, with their ids.
    """
    asked = {question.problem.index: question for question in questions}
    ids = [response.ids.tolist() for response in responses]
    thoughts = cut(ids, budgets, lambda ids: task.thought_end(ids, tokenizer), task.cut_answer_prefix, tokenizer)

    def to_ask(response: Response, thought: list[int]) -> Question:
        question = asked[response.problem]
        return dataclasses.replace(
            question,
            id=question.id * samples + response.response,
            prompt=(*question.prompt, *thought),
            response=response.response,
            begun=tuple(thought),
        )

    return {
        budget: [to_ask(responses[i], thought) for i, thought in found.items()] for budget, found in thoughts.items()
    }


def without_box(
    questions: Sequence[Question], answered: Sequence[Response], prefix: str, tokenizer: Tokenizer
) -> list[Question]:
    """What to ask where the answer to a cut thought holds no box: all of it, and ASK_FOR_BOX.

    A box in the thought itself does not count. None if the prefix opens a box: the answer then is what fills it.

    Args:
      questions: as from `cut_thoughts`, each with the response beside it.
    """
    if prefix.endswith(answers.BOX):
        return []
    asked = []
    for question, response in zip(questions, answered, strict=True):
        new = [token for token in response.ids.tolist()[len(question.begun) :] if token not in tokenizer.stop_ids]
        if answers.final_answer(tokenizer.decode(new)) is None:
            begun = (*question.begun, *new, *tokenizer.encode(ASK_FOR_BOX))
            prompt = (*question.prompt[: len(question.prompt) - len(question.begun)], *begun)
            asked.append(dataclasses.replace(question, prompt=prompt, begun=begun))
    return asked


def padded_length(cfg: Config, budget: int, prefix: str, tokenizer: Tokenizer, more: int = 0) -> int:
    """Positions, in tokens, that prompts with thoughts cut at `budget` are padded to; `more`: what follows them."""
    longest = cfg.data.prompt_length + min(budget, cfg.rl.max_new_tokens) + len(tokenizer.encode(prefix)) + more
    return -(-longest // BUCKET) * BUCKET


def _end(tokens: TokenIds, thought_end: int | None, tokenizer: Tokenizer) -> float:
    """Tokens before a response ends its thinking, or itself; infinite if it does neither."""
    stopped = len(tokens) > 0 and tokens[-1] in tokenizer.stop_ids
    return min(math.inf if thought_end is None else thought_end, len(tokens) - 1 if stopped else math.inf)


def _close(tokens: TokenIds, prefix: str, tokenizer: Tokenizer) -> list[int]:
    """The thought and the prefix. A line that is whole stays whole: the prefix does not end it again."""
    text = tokenizer.decode(tokens)
    if not text or text.endswith("\n"):
        prefix = prefix.removeprefix("\n")
    return [*tokens, *tokenizer.encode(prefix)]
