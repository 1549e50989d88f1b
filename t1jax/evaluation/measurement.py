# SPDX-License-Identifier: Apache-2.0
"""All that a run measures of its weights, before and after RL: WORKDIR/measured/sft.json and rl.json.

Sampled at temperature 1 and greedily, by difficulty, honesty, inference scaling: on the same held-out problems.
Source: T1 (arXiv 2501.11651) section 3.
Deliberately not here: sampling and judging (evaluator.py), the curve (scaling.py), evaluations during RL
(training/rl.py), what results.json says (training/results.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from t1jax.config import Config, ConfigError
from t1jax.devices import multihost
from t1jax.evaluation import figures, journal, saved, scaling
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.questions import ask_held_out
from t1jax.evaluation.responses import Response
from t1jax.host import files
from t1jax.host.place import Place
from t1jax.host.progress import Progress, Stage
from t1jax.host.workdir import read
from t1jax.tasks.task import Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Adapted, Params

FIELDS: dict[str, Any] = {"summary": dict, "greedy": dict, "by_difficulty": list, "samples": list, "scaling": list}
FIELDS |= {"seconds": int | float}
LATER = ("rl.", "checkpoint.", "eval.before", "eval.every", "eval.quick_problems")  # knobs that RL alone goes by
SAMPLED = ("rl.max_new_tokens",)  # ... but for these


def path_of(workdir: Place, stage: str) -> Place:
    """Where what was measured after a stage is kept."""
    return workdir / "measured" / f"{stage}.json"


def depends(stage: str, knobs: Iterable[str]) -> bool:
    """Whether what is measured after a stage is another if these knobs are."""
    return any(stage == "rl" or not knob.startswith(LATER) or knob in SAMPLED for knob in knobs)


def measured(
    stage: str, workdir: Place, progress: Progress, evaluator: Evaluator, task: Task, params: Params | Adapted | None
) -> dict[str, Any]:
    """What measured/STAGE.json holds; it is measured first if it is not there. `params` may be None where it is.

    Raises:
      ConfigError: the file is damaged.
    """
    path = path_of(workdir, stage)
    if not path.exists():
        began, cfg = time.perf_counter(), evaluator.cfg
        problems, times = amount(cfg, task, evaluator.tokenizer)
        whole, answers = problems * times, problems * len(cfg.scaling.budgets)
        skip = ", eval.before = False skips it" if stage == "sft" else ""
        progress.note(
            f"measure {stage}: {whole:,} responses of at most {cfg.rl.max_new_tokens:,} tokens, at most {answers:,} "
            f"answers of at most {cfg.scaling.answer_tokens:,}; eval.num_problems bounds it{skip}"
        )
        with progress.stage(f"measure {stage}", total=int(whole + answers * share(cfg))) as shown:
            progress.doing("compiling")
            outcome = _measure(evaluator, task, params, stage, workdir, shown)
        if multihost.is_main():
            files.write_json(path, outcome | {"seconds": time.perf_counter() - began})
            journal.forget(workdir)
        multihost.barrier(f"measured {stage}")
    found = read(path)
    wrong = [name for name, kind in FIELDS.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]} is {found.get(wrong[0])!r:.60}; expected what t1jax wrote: delete it")
    return found


def amount(cfg: Config, task: Task, tokenizer: Tokenizer) -> tuple[int, int]:
    """(problems, whole responses to each of them) of a measurement, beside at most an answer a budget of thinking."""
    size, asked = task.size("held_out"), cfg.eval.num_problems
    return asked if size is None else min(asked, size), 2 if task.forbid_giving_up(tokenizer) is None else 3


def share(cfg: Config) -> float:
    """How much of a whole response's tokens the answer to a cut thought has at most."""
    return min(1.0, cfg.scaling.answer_tokens / cfg.rl.max_new_tokens)


def _measure(
    evaluator: Evaluator, task: Task, params: Params | Adapted | None, stage: str, workdir: Place, shown: Stage
) -> dict[str, Any]:
    """What is measured of one stage's weights; responses are saved in `workdir`.

    `shown` counts whole responses; the answer to a cut thought counts as its `share` of one.
    """
    cfg, before = evaluator.cfg, evaluator.sampled
    questions = ask_held_out(task, evaluator.tokenizer, cfg.eval.num_problems)
    kept = journal.of_run(workdir, stage, cfg.rl.num_steps if stage == "rl" else 0)
    calls = 0  # done, of all questions each

    def respond(name: str, **how: Any) -> list[Response]:
        nonlocal calls
        past, calls = calls * len(questions), calls + 1
        return evaluator.respond(
            params, "held_out", questions, journal=kept(name), tell=lambda now: shown.update(past + len(now)), **how
        )

    responses = respond("held_out")
    done, last = (cfg.rl.num_steps, True) if stage == "rl" else (0, False)
    saved.save(workdir, responses, stage, done, cfg.eval.keep_responses, final=last)
    greedy = respond("greedy", temperature=0.0)
    summary = figures.summary(responses)
    if task.forbid_giving_up(evaluator.tokenizer) is not None:
        summary["forbidden_to_give_up"] = figures.accuracy(respond("forbidden", forbid_giving_up=True))

    def answered(budget: int, now: Sequence[Response]) -> None:
        cuts = cfg.scaling.budgets.index(budget) * len(questions) + len(now)
        shown.update(int(calls * len(questions) + cuts * share(cfg)))

    points = scaling.inference_scaling(evaluator, params, questions, responses, stage, kept, answered)
    return {
        "summary": summary,
        "greedy": figures.accuracy(greedy),
        "by_difficulty": figures.by_difficulty(responses, stage),
        "samples": [sample(response, stage) for response in responses[: cfg.eval.samples]],
        "scaling": points,
        "tokens": evaluator.sampled - before,
    }


def sample(response: Response, stage: str) -> dict[str, Any]:
    """A response as the report shows it."""
    return {
        "stage": stage,
        "prompt": response.prompt,
        "response": response.text,
        "correct": response.right if response.graded else None,
        **({} if response.reward is None else {"reward": files.json_ready(response.reward)}),
        "gold": response.gold,
        "difficulty": response.difficulty,
    }
