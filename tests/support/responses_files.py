# SPDX-License-Identifier: Apache-2.0
"""Folders of saved responses for tests: of a run on the embedded task, and of t1jax.filter."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from configs import tiny
from t1jax import config
from t1jax.host import files
from t1jax.rewards.answers import final_answer
from t1jax.tasks.pairs.task import PairsTask

CFG = config.load(tiny.get_config())
TASK = PairsTask(CFG.task)


def row(index: int, text: str, stage: str, step: int, **more: Any) -> dict[str, Any]:
    """A line of a run's file; `index` is the held-out problem's number."""
    problem = TASK.problem(index, "held_out")
    (outcome,) = TASK.score([problem], [text])
    return {
        "stage": stage,
        "step": step,
        "problem": index,
        "difficulty": problem.difficulty,
        "prompt": TASK.prompt(problem),
        "response": 0,
        "outcome": outcome.name.lower(),
        "answer": final_answer(text),
        "gold": TASK.gold(problem),
        "tokens": len(text) // 2,
        "overlong": False,
        "text": text,
    } | more


def chains(count: int, stage: str, step: int, start: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Responses by the writer of chains."""
    rng = random.Random(f"{stage} {step} {seed}")
    return [row(i, TASK.chain(TASK.problem(i, "held_out"), rng), stage, step) for i in range(start, start + count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    return files.write_text(path, "".join(json.dumps(one) + "\n" for one in rows))


def workdir(folder: Path, more: list[dict[str, Any]] | None = None) -> Path:
    """A run's workdir with 40 + 15 + 15 + 40 responses, and `more` in sft-000000."""
    files.write_json(folder / "config.json", CFG.to_dict())
    write(folder / "responses/sft-000000.jsonl", chains(40, "sft", 0) + (more or []))
    for step in (3, 12):
        write(folder / f"responses/rl-{step:06d}.jsonl", chains(15, "rl", step, start=40))
    write(folder / "responses/rl-final.jsonl", chains(40, "rl", 12))
    return folder


def journal(folder: Path, texts: list[tuple[str, str]], name: str = "kept.responses") -> Path:
    """What t1jax.filter leaves: (text, outcome) of responses to "What is 6 times 7?", two to a problem."""
    write(folder / "math.jsonl", [{"problem": f"What is {6 + i} times 7?", "answer": "42"} for i in range(len(texts))])
    files.write_json(folder / f"{name}.settings.json", {"format": 1, "data": str(folder / "math.jsonl")})
    rows = [
        {"problem": i // 2, "row": i // 2 + 1, "response": i % 2, "outcome": outcome, "answer": None, "gold": "42",
         "tokens": 7, "overlong": False, "text": text, "ids": [1] * 7}
        for i, (text, outcome) in enumerate(texts)
    ]  # fmt: skip
    return write(folder / f"{name}.jsonl", rows)
