# SPDX-License-Identifier: Apache-2.0
"""One run of a study: a cold start that other runs share, or RL from it with its evaluations.

    python -m t1jax.studies.trial OUT NAME PARENT   called by study.py; OUT/NAME/job.json describes the job

    cold     OUT/NAME: checkpoints/sft, metrics.jsonl, then done.json
    trial    OUT/NAME/seedN, for each seed: checkpoints/rl, metrics.jsonl, then trial.json

Both resume after an interruption. They use the stages of an ordinary run, with other evaluations: held-out accuracy,
length and honesty at several steps of RL, the KL from the start of RL and, for the run that all studies share, thinking
against votes.
Source: T1 (arXiv 2501.11651) section 4.
Deliberately not here: which runs (studies/claims.py), several at a time (study.py), comparing them (findings.py).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from t1jax.config import Config, load
from t1jax.devices import sharding
from t1jax.devices.sharding import train_layout
from t1jax.evaluation import answerer, figures, journal, scaling
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.questions import Question, ask_held_out
from t1jax.evaluation.responses import Response
from t1jax.evaluation.statistics import majority_at_k
from t1jax.host import command_line, files, workdir
from t1jax.host.metrics import MetricsWriter, read_rows
from t1jax.host.progress import Progress
from t1jax.host.stopping import Signals, end_with_parent
from t1jax.model import qwen
from t1jax.rewards import answers
from t1jax.studies.divergence import make_divergence
from t1jax.tasks.task import Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.training import origin, rl, selection, sft, stages, step
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.scoring import Scorer
from t1jax.training.setup import RlSetup, rl_setup
from t1jax.types import Params
from t1jax.weights import load as weights

SHARES = (0.3, 0.6)  # of RL that are measured, besides none and all of it
VOTES = (1, 2, 4, 8)  # responses that vote
VOTERS = 256  # problems that are voted on
LAST = 5  # steps of RL whose mean stands for the end of training


@dataclass(frozen=True)
class Open:
    """What both kinds of work need."""

    cfg: Config
    mesh: Mesh
    task: Task
    tokenizer: Tokenizer
    progress: Progress
    signals: Signals

    def params(self, folder: Path) -> Params:
        """The newest weights in `folder`, float32, sharded for training."""
        return weights.load(weights.find(folder), qwen.Transformer(self.cfg.model, train_layout(self.mesh)))

    def initial(self, folder: Path) -> Params:
        """What RL starts from: the cold start in `folder`, or what there is without one."""
        return self.params(folder) if self.cfg.sft.num_steps else origin.policy(self.cfg, self.mesh)


class SharedStep:
    """Compiles the step of RL once for runs that differ in their seed only: the seed is part of the state.

    Not for runs whose problems were filtered: a problem's number means another one with each seed.
    """

    def __init__(self) -> None:
        self._made: tuple[Config, Any] | None = None

    def __call__(self, setup: RlSetup, scorer: Scorer, *, stop_tokens: tuple[int, ...], **_: Any) -> Any:
        """As step.make_train_step, without progress. The first run's scorer judges for all: the task is the same."""
        cfg = dataclasses.replace(setup.cfg, seed=0)
        if self._made is None:
            self._made = cfg, step.make_train_step(setup, scorer, stop_tokens=stop_tokens)
        if self._made[0] != cfg or cfg.rl.filter_pass_rate < 1:
            raise ValueError(
                "a shared step was asked for by runs that differ in more than their seed, or filter their problems"
            )
        return self._made[1]


@contextmanager
def opened(cfg: Config, out: Path) -> Iterator[Open]:
    """Devices, the task and a tokenizer; in `out` lie the tokenizer of all runs and compiled programs."""
    with ExitStack() as stack:
        signals = stack.enter_context(Signals(cfg.checkpoint.grace_seconds))
        stack.enter_context(stages.compilation_cache(cfg, out))
        progress = stack.enter_context(Progress())
        task, tokens = stack.enter_context(stages.open_task(cfg, out, progress.note))
        yield Open(cfg, sharding.make_mesh(cfg.mesh), task, tokens, progress, signals)


def cold(cfg: Config, folder: Path, out: Path) -> None:
    """The cold start of `cfg`, in `folder`."""
    with opened(cfg, out) as work:
        if cfg.sft.num_steps:
            with (
                Checkpoints(folder / "checkpoints/sft", cfg, work.tokenizer, work.progress.note) as checkpoints,
                MetricsWriter(folder, {"sft": checkpoints.latest() or 0}) as writer,
            ):
                sft.train(cfg, work.mesh, work.task, work.tokenizer, checkpoints, writer, work.progress, work.signals)
        files.write_json(folder / "done.json", {"config": cfg.to_dict()})


def trial(cfg: Config, cold_folder: Path, folder: Path, thinking: bool, out: Path, shared: SharedStep) -> None:
    """RL from the cold start in `cold_folder`, measured before, in between and after.

    Args:
      thinking: also measure inference scaling and majority votes at these steps.
      shared: the compiled step of runs that differ in their seed only.
    """
    with opened(cfg, out) as work:
        before = work.initial(cold_folder)
        mark = Marks(work, before, thinking)
        chosen = selection.select(cfg, work.mesh, work.task, work.tokenizer, before, folder, work.progress)
        make_step = shared if chosen is work.task else step.make_train_step  # a filter's problems are of one seed
        with (
            Checkpoints(folder / "checkpoints/rl", _keep_all(cfg), work.tokenizer, work.progress.note) as checkpoints,
            MetricsWriter(folder, dict.fromkeys(("rl", "evaluate"), checkpoints.latest() or 0)) as writer,
        ):
            last = rl.train(
                cfg, work.mesh, chosen, work.tokenizer, work.initial(cold_folder), checkpoints, writer,
                work.progress, mark.evaluator, work.signals, make_step,
            )  # fmt: skip
            shapes = rl_setup(cfg, work.mesh).state_shapes()
            marks = [_before(mark, cold_folder)]
            for number in between(checkpoints.steps(), cfg.rl.num_steps, cfg.checkpoint.every):
                if (state := checkpoints.restore(shapes, step=number)) is not None:
                    marks.append(mark(state.params, number))
            marks.append(mark(last.params, cfg.rl.num_steps))
        rows = [row for row in read_rows(folder) if row["stage"] == "rl"]
        ends = {name: float(np.mean([row[name] for row in rows[-LAST:]])) for name in ("entropy", "reward", "overlong")}
        done = {
            "config": cfg.to_dict(),
            "marks": marks,
            "training": {
                **ends,
                "seconds": sum(row["seconds"] for row in rows),
                "tokens": sum(r["tokens"] for r in rows),
            },
        }
        files.write_json(folder / "trial.json", done)
        journal.forget(folder)


class Marks:
    """Measures a policy at several steps, always on the same problems."""

    def __init__(self, work: Open, start: Params, thinking: bool) -> None:
        """`start`: the weights from which `kl_start` is counted."""
        self.start, self.evaluator = start, Evaluator(work.cfg, work.mesh, work.task, work.tokenizer)
        self._work, self.thinking = work, thinking
        if thinking:
            answerer.check(work.cfg, work.tokenizer)
        self._divergence = make_divergence(work.cfg, work.mesh)
        self._questions = ask_held_out(work.task, work.tokenizer, work.cfg.eval.num_problems)

    def __call__(self, params: Params, number: int) -> dict[str, Any]:
        """What is measured of the weights after `number` steps of RL."""
        work = self._work
        with work.progress.stage(f"measure step {number}", total=1):
            responses = self.evaluator.respond(params, "held_out", self._questions)
            prompts = [question.prompt for question in self._questions]
            drawn = [response.ids.tolist() for response in responses]
            found = figures.summary(responses) | {
                "step": number,
                "overlong": sum(response.overlong for response in responses) / len(responses),
                "kl_start": self._divergence(params, self.start, prompts, drawn) if number else 0.0,
            }
            if self.thinking:
                stage = f"rl{number}" if number else "sft"
                points = scaling.inference_scaling(self.evaluator, params, self._questions, responses, stage)
                found["scaling"] = [point | {"tokens": _spent(responses, point["budget"])} for point in points]
                found["votes"] = vote(self.evaluator, params, self._questions[:VOTERS])
        return found


def _keep_all(cfg: Config) -> Config:
    """`cfg`, with no checkpoint of RL deleted: a run that was stopped has more of them, and is measured at the same."""
    return dataclasses.replace(cfg, checkpoint=dataclasses.replace(cfg.checkpoint, keep=cfg.rl.num_steps))


def between(kept: Sequence[int], last: int, every: int) -> list[int]:
    """The regular kept steps before the last that are nearest to SHARES of RL, ascending."""
    inner = [number for number in kept if 0 < number < last and number % every == 0]
    return sorted({min(inner, key=lambda number: abs(number - share * last)) for share in SHARES}) if inner else []


def _before(mark: Marks, cold_folder: Path) -> dict[str, Any]:
    """What is measured before RL: the same for all runs that share a cold start, so it is kept beside it."""
    path = cold_folder / ("thinking.json" if mark.thinking else "start.json")
    if not path.exists():
        files.write_json(path, mark(mark.start, 0))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _spent(responses: Sequence[Response], budget: int) -> float:
    """Mean tokens of a response whose thinking is cut at a budget; the answer after the cut is not counted."""
    return sum(min(r.tokens, budget) for r in responses) / len(responses)


def vote(evaluator: Evaluator, params: Params, questions: Sequence[Question]) -> list[dict[str, float]]:
    """[{k, accuracy, tokens}]: maj@k of k of the responses to a question, at temperature 1, and their mean tokens."""
    voters = max(VOTES)
    responses = evaluator.respond(params, "votes", questions, samples=voters)
    plain = [dataclasses.replace(r, answer=_plain(answers.last_box(r.text))) for r in responses]
    parts = [plain[start : start + voters] for start in range(0, len(plain), voters)]
    won = [majority_at_k(*figures.votes(part), VOTES) for part in parts]
    length = sum(response.tokens for response in responses) / len(responses)
    return [
        {"k": k, "accuracy": float(np.mean([row[i] for row in won])), "tokens": k * length} for i, k in enumerate(VOTES)
    ]


def _plain(answer: str | None) -> str | None:
    """An answer for the vote: a + b is b + a."""
    return None if answer is None else "+".join(sorted("".join(answer.split()).split("+")))


def main(argv: list[str]) -> int:
    """Does the job of folder argv[2] below argv[1] for the process argv[3]; returns the exit code."""
    usage = "usage: python -m t1jax.studies.trial OUT NAME PARENT\n"
    beside = [f"--out={'/'.join(argv[1:3])}"]  # where the traceback of an error goes
    return command_line.call("t1jax.studies.trial", usage, _run, [*argv, *beside])


def _run(argv: list[str]) -> None:
    out, name = Path(argv[1]), argv[2]
    end_with_parent(int(argv[3]))
    told = json.loads((out / name / "job.json").read_text(encoding="utf-8"))
    cfg, shared = load(told["config"]), SharedStep()
    with workdir.locked(out / name, "--out"):  # one that a killed study left behind may still be at work
        if "cold" not in told:
            cold(cfg, out / name, out)
            return
        for seed, begun in told["cold"].items():
            folder = out / name / f"seed{seed}"
            if not (folder / "trial.json").exists():
                trial(dataclasses.replace(cfg, seed=int(seed)), out / begun, folder, told["thinking"], out, shared)


if __name__ == "__main__":
    command_line.leave(main(sys.argv))
