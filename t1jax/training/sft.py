# SPDX-License-Identifier: Apache-2.0
"""The cold start: supervised fine-tuning on trial-and-error chains, the loss on the response only.

Axes: B packed rows, T positions, D width.
Source: T1 (arXiv 2501.11651) section 1.
Deliberately not here: chains (tasks/), packing (prompts/streams.py), the loss itself (losses.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t1jax.config import Config
from t1jax.devices import multihost
from t1jax.host.metrics import MetricsWriter
from t1jax.host.progress import Progress
from t1jax.host.stopping import Signals
from t1jax.model import qwen
from t1jax.prompts import streams
from t1jax.tasks.task import Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.training import origin, replicas
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.health import Health
from t1jax.training.loop import Saving, StepLog, due
from t1jax.training.setup import Setup, sft_setup
from t1jax.types import LossScale, Packed, Params, Report, TrainState
from t1jax.update import losses, optim
from t1jax.update.logprobs import predictors, token_logprobs_and_entropy


def split(tree: Any, parts: int) -> Any:
    """Each [B, ...] as [parts, B // parts, ...]: every part takes rows from every shard, so none moves."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree)


def make_sft_step(setup: Setup) -> Callable[[TrainState, Packed], tuple[TrainState, Report]]:
    """The compiled update `state, report = sft_step(state, packed)`; the state is donated."""
    model, cfg = setup.learner, setup.cfg.sft

    def loss(
        trained: Params, read: Params, part: Packed, count: jax.Array, scale: LossScale | None
    ) -> tuple[jax.Array, jax.Array]:
        params, adapters = setup.differentiated(trained, read)
        value = losses.sft_loss(*target_logprobs(model, params, part, cfg.vocab_chunks, adapters), count)
        return optim.scaled(value, scale), value

    def sft_step(state: TrainState, packed: Packed) -> tuple[TrainState, Report]:
        count = losses.sft_counted(packed).sum(dtype=jnp.float32)
        read = setup.read(state.policy)

        def accumulate(total: Any, part: Packed) -> tuple[Any, None]:
            gradient, value = jax.grad(loss, has_aux=True)(state.params, read, part, count, state.loss_scale)
            return jax.tree.map(jnp.add, total, (value, gradient)), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
        (value, gradient), _ = jax.lax.scan(accumulate, zero, split(packed, cfg.micro_batches))
        gradient = optim.unscaled(gradient, state.loss_scale)
        params, opt_state, norm, applied = optim.apply_finite(setup.optimizer, gradient, state.opt_state, state.params)
        report = {
            "loss": value,
            "grad_norm": norm,
            "skipped": 1.0 - applied.astype(jnp.float32),
            "learning_rate": setup.schedule(state.step),
            "tokens": (packed.segment_BT > 0).sum(dtype=jnp.float32),
        }
        scale = optim.next_loss_scale(state.loss_scale, applied)
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state, loss_scale=scale), report

    return jax.jit(sft_step, donate_argnums=0, out_shardings=(setup.state_shardings(), None))


def target_logprobs(
    model: qwen.Transformer, params: Params, packed: Packed, vocab_chunks: int, adapters: Params | None = None
) -> tuple[jax.Array, jax.Array]:
    """log pi(token) at temperature 1, float32[B, T] nats, and bool[B, T] which tokens count: the targets. Else 0.

    `params`, `adapters`: as qwen.forward takes them.
    """
    hidden_BTD, _ = qwen.forward(
        model, params, packed.tokens_BT, packed.position_BT, segment_BT=packed.segment_BT, adapters=adapters
    )
    counted_BT = losses.sft_counted(packed)
    logprob_BT, _ = token_logprobs_and_entropy(
        predictors(hidden_BTD),
        qwen.head(params),
        packed.tokens_BT,
        counted_BT,
        temperature=1.0,
        chunks=vocab_chunks,
        layout=model.layout,
        frozen=adapters is not None,
    )
    return logprob_BT, counted_BT


def train(
    cfg: Config,
    mesh: Mesh,
    task: Task,
    tokenizer: Tokenizer,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    progress: Progress,
    signals: Signals,
) -> TrainState:
    """The state after the whole cold start; goes on from the newest checkpoint that can be read.

    Raises:
      Interrupted: `signals` were heard; the last step done is saved.
    """
    if not cfg.sft.num_steps:
        raise ValueError("sft.num_steps is 0: there is no cold start")
    setup = sft_setup(cfg, mesh)
    stream = streams.sft_stream(cfg, task, tokenizer)
    base = origin.base_of(cfg, mesh)
    state = checkpoints.restore(setup.state_shapes(), stream, base=base)
    if state is None:
        state = setup.init_state(origin.policy(cfg, mesh, base))
    start, last = int(state.step), cfg.sft.num_steps
    writer.rewind(start, "sft")
    sft_step = make_sft_step(setup)
    with (
        contextlib.closing(stream),
        progress.stage("cold start", total=last, done=start) as stage,
        signals.deferred(),
    ):
        log = StepLog("sft", writer, stage, Health(cfg, "sft", progress.note))
        saving = Saving(log, checkpoints, stream, signals)
        saving.begin(start, state)
        for number in range(start + 1, last + 1):
            batch = multihost.global_batch(next(stream), setup.layout)
            if number == start + 1:
                progress.doing("compiling")
                replicas.refuse_different(mesh, state=state, batch=batch)
            state, report = sft_step(state, batch)
            log.write(number, report)
            saving.after(number, state, due(number, cfg.checkpoint.sft_every, last))
    checkpoints.wait()
    return state
