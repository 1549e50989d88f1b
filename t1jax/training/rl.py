# SPDX-License-Identifier: Apache-2.0
"""T1's reinforcement learning: the loop. Each turn is one compiled call, `step.make_train_step`.

Source: T1 (arXiv 2501.11651) section 2.
Deliberately not here: what a step does (step.py), what a response earns (rewards/, advantages.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import optax
from jax.sharding import Mesh

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.devices.sharding import train_layout
from t1jax.evaluation import saved
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.figures import metrics_row
from t1jax.host.metrics import MetricsWriter
from t1jax.host.progress import Progress
from t1jax.host.stopping import Signals
from t1jax.prompts import streams
from t1jax.rewards.score import make_scorer
from t1jax.tasks.task import Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.training import memory, replicas, step
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.health import Health
from t1jax.training.loop import Saving, StepLog, due
from t1jax.types import Params, TrainState
from t1jax.update import optim


def make_optimizer(cfg: Config) -> optax.GradientTransformation:
    """AdamW with warm-up and a constant rate."""
    return optim.make_optimizer(cfg.rl, cfg.rl.num_steps, "constant")


def train(
    cfg: Config,
    mesh: Mesh,
    task: Task,
    tokenizer: Tokenizer,
    params: Params | None,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    progress: Progress,
    evaluator: Evaluator,
    signals: Signals,
    make_train_step: Callable[..., Any] = step.make_train_step,
) -> TrainState:
    """The state after all of RL, from the cold start's `params`; goes on from the newest checkpoint that can be read.

    `params` may be None where there is a checkpoint. `make_train_step`: what compiles the step; studies/trial.py shares
    one.

    Raises:
      Interrupted: `signals` were heard; the last step done is saved.
    """
    layout, optimizer = train_layout(mesh), make_optimizer(cfg)
    stream = streams.prompt_stream(cfg, task, tokenizer, "train", cfg.rl.prompts_per_step, cfg.seed + 1)
    state = checkpoints.restore(step.state_shapes(cfg, mesh, optimizer, anchor=True), stream)
    if state is None:
        if params is None:
            raise ValueError("reinforcement learning needs params or a checkpoint, got neither")
        state = step.init_state(cfg, mesh, optimizer, params, anchor=True)
    start, last = int(state.step), cfg.rl.num_steps
    writer.rewind(start, "rl", "evaluate")
    saved.rewind(writer.workdir, start, last)
    rows = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt
    lanes = memory.lanes(cfg, mesh)
    progress.note(f"sampling {lanes} of a prompt's {cfg.rl.responses_per_prompt} responses at a time")
    refill = lanes < cfg.rl.responses_per_prompt
    what, total = ("response", rows) if refill else ("token", cfg.rl.max_new_tokens)
    train_step = make_train_step(
        cfg,
        mesh,
        make_scorer(task, "train", tokenizer, cfg.rl),
        stop_tokens=tokenizer.stop_ids,
        on_progress=lambda done, live: progress.sampling(done, total, live, what),
    )
    problems = evaluator.problems(cfg.eval.quick_problems, start=cfg.eval.num_problems)
    with (
        contextlib.closing(stream),
        progress.stage("reinforcement", total=last, done=start) as stage,
        signals.deferred(),
    ):
        health = Health(cfg, "rl", progress.note)
        log = StepLog("rl", writer, stage, health)
        saving = Saving(log, checkpoints, stream, signals)
        saving.begin(start, state)
        for number in range(start + 1, last + 1):
            batch = multihost.global_batch(next(stream), layout)
            if number == start + 1:
                replicas.refuse_different(mesh, state=state, batch=batch)
            state, report = train_step(state, batch)
            if report["skipped"].item():  # waits for the step, which itself waits for the host to score
                health.dump(writer.workdir / "sick", number, state, batch, report, tokenizer)
            log.push(number, report)
            score = None
            if cfg.eval.every and number % cfg.eval.every == 0:
                log.flush()
                responses = evaluator.respond(state.params, problems, "quick")
                saved.save(writer.workdir, responses, "rl", number, cfg.eval.keep_responses)
                row = metrics_row(responses) | {"seconds": log.pause()}
                writer.write("evaluate", number, row)
                score = row["accuracy"]
            saving.after(number, state, score is not None or due(number, cfg.checkpoint.every, last), score)
    checkpoints.wait()
    return state
