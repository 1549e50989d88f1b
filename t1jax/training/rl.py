# SPDX-License-Identifier: Apache-2.0
"""T1's reinforcement learning: the loop. Each turn is one compiled call, `step.make_train_step`.

Axes: P prompts.
Source: T1 (arXiv 2501.11651) section 2.
Deliberately not here: what a step does (step.py), what a response earns (rewards/, advantages.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from t1jax.checks import profiled
from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.evaluation import journal, saved
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.figures import metrics_row
from t1jax.evaluation.questions import Question, ask_held_out
from t1jax.host.metrics import MetricsWriter, read_rows
from t1jax.host.profiling import Profiler
from t1jax.host.progress import Progress
from t1jax.host.stopping import Signals
from t1jax.prompts import streams
from t1jax.prompts.streams import Stream
from t1jax.rewards.score import make_scorer
from t1jax.tasks.task import Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.training import origin, replicas, step
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.health import Health
from t1jax.training.loop import Saving, StepLog, due
from t1jax.training.setup import RlSetup, rl_setup
from t1jax.types import Adapted, Params, Prompts, TrainState


def train(
    cfg: Config,
    mesh: Mesh,
    task: Task,
    tokenizer: Tokenizer,
    policy: Params | Adapted | None,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    progress: Progress,
    evaluator: Evaluator,
    signals: Signals,
    make_train_step: Callable[..., Any] = step.make_train_step,
) -> TrainState:
    """The state after all of RL, from the cold start's `policy`; goes on from the newest checkpoint that can be read.

    `policy` may be None where there is a checkpoint. `make_train_step`: what compiles the step; studies/trial.py shares
    one.

    Raises:
      Interrupted: `signals` were heard; the last step done is saved.
    """
    setup = rl_setup(cfg, mesh)
    stream = streams.prompt_stream(cfg, task, tokenizer, "train", cfg.rl.drawn, cfg.seed + 1)
    state = _begin(setup, policy, checkpoints, stream)
    start, last = int(state.step), cfg.rl.num_steps
    writer.rewind(start, "rl", "evaluate")
    saved.rewind(writer.workdir, start, last)
    train_step = make_train_step(
        setup,
        make_scorer(task, "train", tokenizer, cfg.rl),
        stop_tokens=tokenizer.stop_ids,
        on_progress=_on_progress(setup, progress),
    )
    questions = ask_held_out(task, tokenizer, cfg.eval.quick_problems, start=cfg.eval.num_problems)
    with (
        contextlib.closing(stream),
        contextlib.closing(Profiler(profiled(cfg.rl), writer.workdir, progress.note)) as profiler,
        progress.stage("reinforcement", total=last, done=start) as stage,
        signals.deferred(),
    ):
        health = Health(cfg, "rl", progress.note)
        if multihost.is_main():  # whose notes are read
            health.recall(read_rows(writer.workdir))
        log = StepLog("rl", writer, stage, health)
        saving = Saving(log, checkpoints, stream, signals)
        saving.begin(start, state)
        for number in range(start + 1, last + 1):
            profiler.begin(number)
            batch = next(stream)
            prompts = multihost.global_batch(batch, setup.layout)
            if number == start + 1:
                progress.doing("compiling")
                replicas.refuse_different(mesh, state=state, batch=prompts)
            state, report = train_step(state, prompts)  # one compiled call; the state is donated
            if report["skipped"].item():
                health.dump(writer.workdir / "sick", number, state, prompts, report, tokenizer)
            log.write(number, report | from_sources(task, batch))
            profiler.end(number)
            score = None
            if cfg.eval.every and number % cfg.eval.every == 0:
                score = _evaluate(evaluator, questions, state.policy, number, writer, log)
            saving.after(number, state, score is not None or due(number, cfg.checkpoint.every, last), score)
    checkpoints.wait()
    return state


def from_sources(task: Task, batch: Prompts) -> dict[str, float]:
    """{source_1: the share of these prompts from the task's first file, and so on}; {} where there are not several."""
    if len(task.sources) < 2:
        return {}
    ends = np.cumsum([source.size for source in task.sources])
    counts = np.bincount(np.searchsorted(ends, batch.problem_P, side="right"), minlength=len(ends))
    return {f"source_{number}": count / len(batch.problem_P) for number, count in enumerate(counts.tolist(), 1)}


def _begin(
    setup: RlSetup, policy: Params | Adapted | None, checkpoints: Checkpoints, stream: Stream[Any]
) -> TrainState:
    """The newest checkpoint's state, and `stream` where it stood then; else a new state from `policy`."""
    base = policy.base if isinstance(policy, Adapted) else origin.base_of(setup.cfg, setup.mesh)
    state = checkpoints.restore(setup.state_shapes(), stream, base=base)
    if state is not None:
        return state
    if policy is None:
        raise ValueError("reinforcement learning needs a policy or a checkpoint, got neither")
    return setup.init_state(policy)


def _on_progress(setup: RlSetup, progress: Progress) -> Callable[[int, int], None]:
    """What shows how far sampling is: in responses where lanes take several, else in tokens. Notes the lanes."""
    rl = setup.cfg.rl
    progress.note(f"sampling {setup.lanes} of a prompt's {rl.responses_per_prompt} responses at a time")
    what, total = "token", rl.max_new_tokens
    if setup.lanes < rl.responses_per_prompt:
        what, total = "response", rl.drawn * rl.responses_per_prompt
    return lambda done, live: progress.sampling(done, total, live, what, then="updating")


def _evaluate(
    evaluator: Evaluator,
    questions: Sequence[Question],
    policy: Params | Adapted,
    number: int,
    writer: MetricsWriter,
    log: StepLog,
) -> float:
    """The accuracy or mean reward on the quick problems after step `number`; its responses and row are written."""
    journal.forget(writer.workdir, but=f"rl-{number:06d}-")
    kept = journal.of_run(writer.workdir, "rl", number)("quick")
    responses = evaluator.respond(policy, "quick", questions, journal=kept)
    saved.save(writer.workdir, responses, "rl", number, evaluator.cfg.eval.keep_responses)
    row = metrics_row(responses) | {"seconds": log.pause(), "tokens": sum(r.tokens for r in responses)}
    writer.write("evaluate", number, row)
    return float(next(row[name] for name in ("accuracy", "mean_reward") if name in row))
