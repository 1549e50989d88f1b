# SPDX-License-Identifier: Apache-2.0
"""Responses of a run, saved as they were sampled: WORKDIR/responses/NAME.jsonl, a JSON line each.

    sft-000000.jsonl   after the cold start, on eval.num_problems held-out problems
    rl-000009.jsonl    after 9 steps of RL, on eval.quick_problems others: a file for each evaluation during RL
    rl-final.jsonl     after RL, on the problems of sft-000000.jsonl

All at temperature 1; of each evaluation the first eval.keep_responses. A line:

    stage     sft or rl                         gold      a right answer; null: there is none
    step      updates of RL before it           outcome   right, wrong or unscorable
    problem   number of the held-out problem    tokens    how many, the stop token included
    prompt    that the response continues       overlong  no stop token within the limit
    response  its text                          difficulty  of the problem, as the task names it

A file is whole or absent. A run that goes on first drops the files of steps that will be done again, so it ends with
the files of a run that was never stopped.
Deliberately not here: sampling and judging (evaluator.py), reading the files and what the responses do (transcripts.py,
behaviour.py), files of t1jax.evaluate and t1jax.filter (journal.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from t1jax.devices import multihost
from t1jax.evaluation.evaluator import Evaluator, Response
from t1jax.host import files
from t1jax.rewards.answers import Outcome

FOLDER = "responses"
FINAL = "final"


def path_of(workdir: Path, stage: str, step: int | str) -> Path:
    """Where the responses of a stage after `step` updates of RL are saved; `FINAL` for those of the measurement."""
    return workdir / FOLDER / f"{stage}-{step if isinstance(step, str) else format(step, '06d')}.jsonl"


def save(
    workdir: Path, evaluator: Evaluator, responses: Sequence[Response], stage: str, step: int, final: bool = False
) -> None:
    """Writes the first cfg.eval.keep_responses of `responses`, on process 0 alone; nothing where that is 0.

    Args:
      step: updates of RL that were done.
      final: they belong to the measurement after RL, not to an evaluation during it.
    """
    kept = responses[: evaluator.cfg.eval.keep_responses]
    if multihost.is_main() and kept:
        text = "".join(_line(evaluator, response, stage, step) for response in kept)
        files.write_text(path_of(workdir, stage, FINAL if final else step), text)


def rewind(workdir: Path, step: int, last: int) -> None:
    """RL goes on after `step` of its `last` steps: the files of what will be done again go, on process 0 alone."""
    if not multihost.is_main():
        return
    for path in (workdir / FOLDER).glob("rl-*.jsonl"):
        number = path.stem.partition("-")[2]
        if (number.isdecimal() and int(number) > step) or (number == FINAL and step < last):
            path.unlink()


def _line(evaluator: Evaluator, response: Response, stage: str, step: int) -> str:
    """The response as a JSON line, in ASCII."""
    problem, task = response.problem, evaluator.task
    row = {
        "stage": stage,
        "step": step,
        "problem": problem.index,
        "difficulty": problem.difficulty,
        "prompt": task.prompt(problem),
        "response": response.text,
        "gold": task.gold(problem),
        "outcome": Outcome(response.outcome).name.lower(),
        "tokens": len(response.tokens),
        "overlong": not response.tokens or response.tokens[-1] not in evaluator.tokenizer.stop_ids,
    }
    return json.dumps(files.json_ready(row)) + "\n"
