# SPDX-License-Identifier: Apache-2.0
"""The lines that a run begins with: what it will do, on what, and what that takes.

Deliberately not here: whether it can work at all (validation.py), memory in detail (t1jax.plan).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax

from t1jax.config import Config
from t1jax.host.place import Place
from t1jax.tasks.task import Task
from t1jax.training.memory import size
from t1jax.training.setup import RlSetup, Setup, rl_setup, sft_setup
from t1jax.weights import steps


def lines(cfg: Config, mesh: jax.sharding.Mesh, task: Task, workdir: Place) -> Iterator[str]:
    """The lines. All processes call this together.

    Raises:
      ConfigError: rl.lanes is 0 and not even one lane per prompt fits.
    """
    rl, model = rl_setup(cfg, mesh), cfg.model
    shapes = rl.state_shapes()
    trained, whole = (sum(math.prod(x.shape) for x in jax.tree.leaves(tree)) for tree in (shapes.params, shapes.base))
    yield (
        f"model: {model.num_layers} layers of width {model.hidden_size}, "
        f"{f'{whole:,} parameters and {trained:,} of adapters, ' if whole else f'{trained:,} parameters, '}"
        f"{model.compute_dtype}{f', from {model.checkpoint}' if model.checkpoint else ''}"
    )
    axes = " x ".join(f"{name} {extent}" for name, extent in mesh.shape.items())
    kinds = ", ".join(sorted({device.device_kind for device in mesh.devices.flat}))
    yield f"mesh: {axes}, on {mesh.size} {kinds} in {jax.process_count()} process{'es' * (jax.process_count() > 1)}"
    plan = rl.memory
    yield (
        f"memory planned: {size(plan.total)} of {size(plan.device_bytes)} a device, most in {plan.peak}; "
        f"{rl.lanes} of {cfg.rl.responses_per_prompt} responses of a prompt at a time"
    )
    yield f"problems: {_count(task.size('train'))} to train on, {_count(task.size('held_out'))} held out"
    yield f"phases: {', '.join(_phases(cfg))}"
    yield from disk(cfg, workdir, rl, sft_setup(cfg, mesh) if cfg.sft.num_steps else None)
    for stage, name in (("rl", "reinforcement"), ("sft", "cold start")):
        done = [n for n, path in steps.folders(workdir / "checkpoints" / stage).items() if steps.is_whole(path)]
        if done:
            yield f"goes on from {name} step {done[-1]}"
            return


def disk(cfg: Config, workdir: Place, rl: RlSetup, sft: Setup | None) -> Iterator[str]:
    """What checkpoints take, and for a local workdir whether that fits beside what is there already."""
    stages = {"reinforcement": rl} | ({"cold start": sft} if sft else {})
    each = {name: _bytes(setup) for name, setup in stages.items()}
    kept = cfg.checkpoint.keep + 1  # and the best; evaluations score those of reinforcement alone
    most = sum(amount * kept for amount in each.values()) + max(each.values())  # and the one that is being written
    yield (
        f"checkpoints: {' and '.join(f'{size(amount)} each in {name}' for name, amount in each.items())}; "
        f"at most {kept} kept in each, {size(most)} in all"
    )
    if not isinstance(workdir, Path):
        return
    there = sum(path.stat().st_size for path in (workdir / "checkpoints").rglob("*") if path.is_file())
    free = shutil.disk_usage(next(path for path in (workdir, *workdir.absolute().parents) if path.exists())).free
    if most - there > free:
        yield (
            f"WARNING: {os.fspath(workdir)}: checkpoints may take {size(most - there)} more, {size(free)} are free; "
            "make room, lower checkpoint.keep, or take a larger disk: saves that fail are told, and tried again"
        )


def _bytes(setup: Setup) -> int:
    """Of one checkpoint, before it is compressed."""
    saved = replace(setup.state_shapes(), base=None)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(saved))


def _phases(cfg: Config) -> Iterator[str]:
    if cfg.sft.num_steps:
        yield f"cold start ({cfg.sft.num_steps} updates)"
    yield f"measurement ({cfg.eval.num_problems} problems)"
    if cfg.rl.filter_pass_rate < 1:
        yield f"filter ({cfg.rl.filter_problems} problems, {cfg.rl.filter_samples} attempts each)"
    responses = cfg.rl.prompts_per_step * cfg.rl.responses_per_prompt
    every = f", evaluated every {cfg.eval.every}" if cfg.eval.every else ""
    yield f"reinforcement ({cfg.rl.num_steps} steps of {responses:,} responses{every})"
    yield "measurement, report"


def _count(number: int | None) -> str:
    return "unlimited" if number is None else f"{number:,}"
