# SPDX-License-Identifier: Apache-2.0
"""One file of problems, sampled and judged: its figures, also with thoughts cut at budgets of tokens.

    FOLDER/responses.jsonl     every response and verdict, see responses.py
    FOLDER/budget-N.jsonl      likewise, of those whose thinking was cut after N tokens

Deliberately not here: sampling and judging (evaluator.py), figures (figures.py), tables (tables.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.config import BenchmarkConfig
from t1jax.evaluation.cut import cut_thoughts
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.figures import LENIENT, STRICT, measure
from t1jax.evaluation.journal import Journal
from t1jax.evaluation.questions import ask_file
from t1jax.evaluation.scaling import answer
from t1jax.host.place import Place
from t1jax.tasks.files.problems import Problem
from t1jax.types import Params


def evaluate(
    evaluator: Evaluator,
    params: Params,
    origin: Mapping[str, Any],
    name: str,
    benchmark: BenchmarkConfig,
    problems: Sequence[Problem],
    folder: Place,
    temperature: float,
    budgets: Sequence[int],
) -> dict[str, Any]:
    """What results.json says of a benchmark; its files are in `folder`. `origin`: see Opened.evaluator."""
    task, tokenizer, samples = evaluator.task, evaluator.tokenizer, benchmark.samples
    folder.mkdir(parents=True, exist_ok=True)

    def journal(file: str, **more: Any) -> Journal:
        return Journal(folder / f"{file}.jsonl", {**origin, "data": benchmark.data, **more})

    questions = ask_file(task, tokenizer, problems)
    responses = evaluator.respond(
        params, name, questions, samples=samples, temperature=temperature, truncate=True,
        journal=journal("responses"),
    )  # fmt: skip
    result = {"data": benchmark.data, **measure(problems, responses, samples), "budgets": []}
    cut = cut_thoughts(task, tokenizer, questions, responses, samples, budgets)

    def stream(budget: int) -> str:
        return f"{name} at {budget}"

    for budget, answered in answer(
        evaluator, params, cut, stream, temperature=temperature, truncate=True, kept=journal
    ):  # fmt: skip
        judged = {(r.problem, r.response): r for r in [*responses, *answered]}  # a cut response replaces the whole one
        point = measure(problems, list(judged.values()), samples)
        result["budgets"].append(
            {
                "budget": budget,
                "cut": len(answered) / len(responses),
                **{key: point[key] for key in ("mean_reward", "pass@1", STRICT, LENIENT, "no_answer") if key in point},
                **({"majority": point["majority_at_k"][-1]} if point["majority_at_k"] else {}),
                "response_length": point["response_length"],
            }
        )
    return result
