# SPDX-License-Identifier: Apache-2.0
"""The lines that a run begins with: what it will do, on what, and what that takes.

Deliberately not here: whether it can work at all (validation.py), memory in detail (t1jax.plan), what its parts are
expected to take (planning/phases.py).
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from t1jax.config import Config
from t1jax.evaluation.measurement import amount, path_of
from t1jax.host.metrics import read_rows
from t1jax.host.place import Place
from t1jax.host.progress import duration
from t1jax.host.workdir import read
from t1jax.model import experts, heads
from t1jax.tasks.task import Source, Task
from t1jax.text.tokenizer import Tokenizer
from t1jax.training.memory import size
from t1jax.training.selection import FILE_NAME as FILTERED
from t1jax.training.setup import RlSetup, Setup, rl_setup, sft_setup
from t1jax.weights import steps

RECENT = 20  # steps, evaluations, whose median is the pace of a run


@dataclass(frozen=True)
class Paces:
    """Seconds that the parts of a run are expected to take."""

    update: float  # of the cold start
    step: float  # of RL
    response: float  # of an evaluation
    answer: float  # to a cut thought
    source: str  # in words


def lines(
    cfg: Config,
    mesh: jax.sharding.Mesh,
    task: Task,
    tokenizer: Tokenizer,
    workdir: Place,
    paces: Callable[[RlSetup], Paces | None] = lambda setup: None,
) -> Iterator[str]:
    """The lines. All processes call this together. `paces`: where the run itself does not tell yet.

    Raises:
      ConfigError: rl.lanes is 0 and not even one lane per prompt fits; or a file of the run is damaged.
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
    if copied := heads.note(model, mesh.shape["tensor"]):
        yield copied
    if told := experts.note(model, mesh.devices.flat[0].platform):
        yield told
    plan = rl.memory
    yield (
        f"memory planned: {size(plan.total)} of {size(plan.device_bytes)} a device, most in {plan.peak}; "
        f"{rl.lanes} of {cfg.rl.responses_per_prompt} responses of a prompt at a time"
    )
    yield f"problems: {_count(task.size('train'))} to train on, {_count(task.size('held_out'))} held out"
    yield from _sources(task.sources)
    yield from _phases(cfg, task, tokenizer, workdir, paces(rl))
    yield from disk(cfg, workdir, rl, sft_setup(cfg, mesh) if cfg.sft.num_steps else None)
    for stage, name in (("rl", "reinforcement"), ("sft", "cold start")):
        if newest := _newest(workdir, stage):
            yield f"goes on from {name} step {newest}"
            return


def _sources(sources: Sequence[Source]) -> Iterator[str]:
    """A line for each of several files: how many problems, and which share of the prompts."""
    total = sum(source.size for source in sources)
    for source in sources if len(sources) > 1 else ():
        share = source.size / total if source.weight is None else source.weight
        yield f"  {source.name}: {source.size:,} problems, {share:.1%} of the prompts"


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


def _phases(cfg: Config, task: Task, tokenizer: Tokenizer, workdir: Place, expected: Paces | None) -> Iterator[str]:
    """What comes, how much of it there is and how long it takes: by this run so far, else as `expected`."""
    found: list[tuple[str, float | None]] = []  # words, seconds; None: unknown
    used: set[str] = set()  # what times are by
    pace, done = _measured(cfg, workdir), _newest(workdir, "rl")

    def add(words: str, left: int, *ways: tuple[float | None, str]) -> None:
        """A phase of which this much is left, and (seconds of all that is left, by what), the better way first."""
        seconds, source = next((way for way in ways if way[0] is not None), (None, ""))
        found.append((words, seconds) if left else (f"{words} done", 0.0))
        used.update([source] if left and source else [])

    def planned(seconds: Callable[[Paces], float]) -> tuple[float | None, str]:
        return (seconds(expected), expected.source) if expected else (None, "")

    def own(name: str, times: int) -> float | None:
        return times * pace[name] if name in pace else None

    here, batch = "by this run so far", cfg.eval.batch_size
    problems, whole = amount(cfg, task, tokenizer)
    asked, cuts = _rounded(problems, batch), len(cfg.scaling.budgets)
    measuring = planned(lambda p: asked * (whole * p.response + cuts * p.answer))
    rl, left = cfg.rl, cfg.rl.num_steps - done
    if cfg.sft.num_steps:
        todo = 0 if done else cfg.sft.num_steps - _newest(workdir, "sft")
        times = (own("sft", todo), here), planned(lambda p: todo * p.update)
        add(f"cold start ({cfg.sft.num_steps} updates)", todo, *times)
    if cfg.eval.before:
        add(f"measurement ({problems} problems)", int("measure" not in pace), measuring)
    if rl.filter_pass_rate < 1:
        tried = min(rl.filter_problems, task.size("train") or rl.filter_problems)
        tries = _rounded(tried * rl.filter_samples, batch)
        words = f"filter ({tried} problems, {rl.filter_samples} attempts each)"
        add(words, int(not (workdir / FILTERED).exists()), planned(lambda p: tries * p.response))
    every, quick = cfg.eval.every, _rounded(cfg.eval.quick_problems, batch)
    evaluations = rl.num_steps // every - done // every if every else 0
    times = (
        (_sum(own("rl", left), own("evaluate", evaluations) if evaluations else 0.0), here),
        planned(lambda p: left * p.step + evaluations * quick * p.response),
    )
    drawn, kept = (prompts * rl.responses_per_prompt for prompts in (rl.drawn, rl.prompts_per_step))
    words = f"reinforcement ({rl.num_steps} steps of {drawn:,} responses"
    words += f", of which {kept:,} are learnt from" if drawn > kept else ""
    add(f"{words}{f', evaluated every {every}' if every else ''})", left, *times)
    add("measurement, report", 1, (own("measure", 1), here), measuring)
    yield f"phases: {', '.join(f'{words}{_time(seconds)}' for words, seconds in found)}"
    unknown = [seconds for _, seconds in found if seconds is None]
    total = [] if unknown else [f"about {duration(sum(seconds or 0.0 for _, seconds in found))} in all"]
    tells = ["a phase of unknown time tells it from its second step, or batch, on"] if unknown else []
    yield f"times: {'; '.join([*total, *sorted(used), *tells])}"


def _measured(cfg: Config, workdir: Place) -> dict[str, float]:
    """Seconds of an update, a step, an evaluation during RL and a measurement, as far as this run has done some.

    The first step after a start compiles: a pace is known from the second on.
    """
    rows = read_rows(workdir)
    pace: dict[str, float] = {}
    for stage in ("sft", "rl", "evaluate"):
        took = [float(row["seconds"]) for row in rows if row["stage"] == stage and row.get("seconds")]
        if recent := took[1:][-RECENT:]:
            pace[stage] = statistics.median(recent)
    path = path_of(workdir, "sft")
    if path.exists() and isinstance(seconds := read(path).get("seconds"), int | float):
        pace["measure"] = float(seconds)
        pace.setdefault("evaluate", pace["measure"] * cfg.eval.quick_problems / cfg.eval.num_problems)  # at most
    return pace


def _newest(workdir: Place, stage: str) -> int:
    """The step of a stage's newest whole checkpoint; 0: there is none."""
    found = steps.folders(workdir / "checkpoints" / stage)
    return max((step for step, path in found.items() if steps.is_whole(path)), default=0)


def _rounded(count: int, batch: int) -> int:
    """Responses that are sampled, in whole batches, where `count` are asked for."""
    return -(-count // batch) * batch


def _sum(*seconds: float | None) -> float | None:
    """None where one is not known."""
    known = [each for each in seconds if each is not None]
    return sum(known) if len(known) == len(seconds) else None


def _time(seconds: float | None) -> str:
    return ": unknown" if seconds is None else f": about {duration(seconds)}" if seconds else ""


def _count(number: int | None) -> str:
    return "unlimited" if number is None else f"{number:,}"
