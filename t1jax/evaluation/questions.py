# SPDX-License-Identifier: Apache-2.0
"""A file of problems -> what to ask the model: token ids, and the answers to judge by.

**prompts** -> rollouts -> ..., for evaluation and for the filter.
Deliberately not here: the checkpoint (opened.py), the command lines (evaluate.py, filter.py), sampling (respond.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from t1jax.config import Config
from t1jax.devices import sharding
from t1jax.evaluation.cut import cut
from t1jax.evaluation.opened import Opened
from t1jax.evaluation.respond import Question, Responder
from t1jax.evaluation.responses import Response
from t1jax.host.progress import Progress
from t1jax.tasks.files.problems import Checker, Problem, comparable, read_problems, thought_end, usable, verifiable
from t1jax.tasks.files.prompts import render
from t1jax.text.huggingface import HFTokenizer


def make_responder(opened: Opened, verifier: Checker, progress: Progress) -> Responder:
    """Reads the checkpoint's weights, to answer questions with."""
    for note in getattr(opened.tokenizer, "notes", ()):
        progress.note(note)
    mesh = sharding.make_mesh(opened.cfg.mesh)
    return Responder(opened.cfg, mesh, opened.params(mesh), opened.tokenizer, verifier, progress, opened.where)


def read_questions(
    path: str, cfg: Config, tokens: HFTokenizer, verifier: Checker, limit: int | None = None
) -> tuple[list[Problem], list[Question], list[str]]:
    """(the problems of a file that can be asked, what to ask, a line for each reason to leave some out).

    A problem whose answer does not verify against itself is asked, and all its responses are unscorable. For one whose
    answer cannot be compared by value see data.text_golds.

    Args:
      limit: at most so many problems, the first ones.

    Raises:
      ConfigError: the file cannot be used.
    """
    problems, notes = read_problems(path, cfg.data, "held_out")
    problems, unusable = usable(problems[:limit], cfg.data, tokens)
    problems, as_text = comparable(problems, verifier, cfg.data.text_golds)
    scorable, unscorable = verifiable(problems, verifier, "unscorable")
    known = {problem.index for problem in scorable}
    questions = [
        Question(
            id=problem.index,
            problem=problem.index,
            row=problem.row,
            prompt=tuple(tokens.encode(render(problem.text, cfg.data, tokens, problem.before))),
            gold=problem.gold if problem.index in known else None,
        )
        for problem in problems
    ]
    return problems, questions, [*notes, *unusable, *as_text, *unscorable]


def cut_thoughts(
    responder: Responder,
    questions: Sequence[Question],
    responses: Sequence[Response],
    samples: int,
    budgets: Sequence[int],
) -> dict[int, list[Question]]:
    """For each budget, what to ask where the thinking does not end within it: prompt, cut thought, answer prefix."""
    tokens, prefix = responder.tokenizer, responder.cfg.scaling.answer_prefix
    asked = {question.problem: question for question in questions}
    thoughts = cut([r.ids.tolist() for r in responses], budgets, lambda ids: thought_end(ids, tokens), prefix, tokens)

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
