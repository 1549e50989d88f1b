# SPDX-License-Identifier: Apache-2.0
"""The whole of T1, stage by stage: tokenizer, cold start, evaluation, reinforcement learning, evaluation, report.

Every stage saves its results in the workdir, and continues from what it finds there: the same command resumes a run, or
says that it is done.

    config.json           every knob of the run; inputs.json what its files were; lock while it runs (workdir.py)
    tokenizer/            the tokenizer, trained first
    checkpoints/sft, rl   Orbax checkpoints of the two training stages
    compiled/             programs for the next start; may be deleted
    measured/sft, rl.json what was measured after each (measurement.py); journal/ what was sampled for it so far
    responses/            what was sampled for it, and during RL (saved.py)
    filter.json           pass rates that training problems were chosen by (selection.py), if rl.filter_pass_rate < 1
    usage.json            when it ran, on how many chips (usage.py)
    metrics.jsonl         a row a step; tensorboard/ the same for TensorBoard; loggers.json the run's id elsewhere
    profile/              a trace of some steps, if rl.profile names any (host/profiling.py)
    results.json          the outcome; report.html and PNGs the same for people

Deliberately not here: flags (main.py), how a stage works (sft.py, rl.py, measurement.py, run_page.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as cache
from jax.sharding import Mesh

from t1jax import validation
from t1jax.config import Config, ConfigError
from t1jax.devices import multihost, sharding
from t1jax.evaluation import answerer, journal, measurement
from t1jax.evaluation.evaluator import Evaluator
from t1jax.host import files, usage
from t1jax.host.loggers.loggers import Loggers, refuse_missing
from t1jax.host.metrics import MetricsWriter, read_rows
from t1jax.host.place import Place
from t1jax.host.progress import Progress
from t1jax.host.stopping import Signals
from t1jax.host.workdir import begin, claim, locked, refuse_other_processes
from t1jax.prompts import streams
from t1jax.reports import run_page
from t1jax.rewards.verifier import Verifier
from t1jax.tasks.embedded import make_embedded, make_verifier
from t1jax.tasks.files.task import ProblemsTask
from t1jax.tasks.rewarded import rewarded
from t1jax.tasks.task import Task
from t1jax.tasks.written import read_written
from t1jax.text import tokenizer
from t1jax.text.huggingface import HFTokenizer
from t1jax.text.tokenizer import Tokenizer
from t1jax.training import opening, origin, rl, selection, sft
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.results import PACKAGES, collect
from t1jax.training.setup import RlSetup
from t1jax.training.step import make_train_step
from t1jax.types import Adapted, Params
from t1jax.weights import load as weights


def run(
    cfg: Config,
    workdir: Place,
    allow_change: Sequence[str] = (),
    paces: Callable[[RlSetup], opening.Paces | None] = lambda setup: None,
    make_train_step: Callable[..., Any] = make_train_step,
) -> Place:
    """Runs what is left to do in `workdir`; returns the path of the report.

    Args:
      allow_change: knobs that may differ from those that the run was started with.
      paces: what the parts of the run are expected to take, before any is measured.
      make_train_step: compiles a step of RL, see step.py.

    Raises:
      ConfigError: the workdir is in use or holds a run with other knobs, or the config cannot work on these devices.
      Stopped: no checkpoint can be read or the last one not written, or training is sick; see stopping.py.
      Interrupted: a signal asked for it.
    """
    validation.validate(cfg, jax.device_count())
    refuse_missing(cfg)
    mesh = sharding.make_mesh(cfg.mesh)
    refuse_other_processes(cfg, {name: version(name) for name in PACKAGES})
    changed = claim(cfg, workdir, allow_change)
    done = (workdir / "results.json", workdir / "report.html")
    if not changed and all(path.exists() for path in done):
        with Loggers(cfg, workdir, print):  # what they lack is sent: the run may have ended before all was
            if multihost.is_main():
                print(f"{workdir} is done; give another --workdir to run again")
        return done[1]
    with (
        Signals(cfg.checkpoint.grace_seconds) as signals,
        compilation_cache(cfg, workdir),
        Progress() as progress,
        open_task(cfg, workdir, progress.note) as (task, tokens),
    ):
        streams.refuse_too_few(task, "train", cfg.rl.drawn)
        if cfg.scaling.budgets:
            answerer.check(cfg, tokens)
        if jax.process_count() > 1:
            progress.note(multihost.describe(multihost.feeders(sharding.train_layout(mesh))))
        for name, (old, new) in changed.items():
            progress.note(f"{name} is now {new}, was {old}")
        multihost.barrier("all have read the workdir")
        with locked(workdir, note=progress.note):
            if multihost.is_main():
                others = [stage for stage in ("sft", "rl") if measurement.depends(stage, changed)]
                outdated = (*done, *(measurement.path_of(workdir, stage) for stage in others))
                if changed:  # before config.json says so: a kill in between must not leave the old ones
                    journal.forget(workdir)
                begin(cfg, workdir, outdated if changed else ())
                tokens.save(workdir / "tokenizer")
            multihost.barrier("the workdir is begun")
            for line in opening.lines(cfg, mesh, task, tokens, workdir, paces):
                progress.note(line)
            with (
                usage.counted(workdir, mesh.size, mesh.devices.flat[0].device_kind) as lost,
                Loggers(cfg, workdir, progress.note) as loggers,
            ):
                return stages(cfg, mesh, workdir, task, tokens, progress, signals, lost, loggers, make_train_step)


def stages(
    cfg: Config,
    mesh: Mesh,
    workdir: Place,
    task: Task,
    tokens: Tokenizer,
    progress: Progress,
    signals: Signals,
    lost: Callable[[int], None],
    loggers: Loggers,
    make_train_step: Callable[..., Any] = make_train_step,
) -> Place:
    """What is left of the stages, one after the other; returns the path of the report.

    `lost` is told of tokens whose steps are done again; `loggers` of rows, responses and the report.
    """
    evaluator = Evaluator(cfg, mesh, task, tokens, progress)
    with (
        Checkpoints(workdir / "checkpoints/sft", cfg, tokens, progress.note) as sft_checkpoints,
        Checkpoints(workdir / "checkpoints/rl", cfg, tokens, progress.note) as rl_checkpoints,
        MetricsWriter(
            workdir, resume_after(sft_checkpoints, rl_checkpoints), lost, cfg.tensorboard_mib << 20, loggers.row
        ) as writer,
    ):
        progress.doing("reading the weights")
        before: Params | Adapted | None = None  # the policy after the cold start: not needed once RL has a checkpoint
        first = None
        due = cfg.eval.before and not measurement.path_of(workdir, "sft").exists()
        if rl_checkpoints.latest() is None or due:
            if cfg.sft.num_steps:
                before = sft.train(cfg, mesh, task, tokens, sft_checkpoints, writer, progress, signals).policy
            else:
                before = origin.policy(cfg, mesh)
        if cfg.eval.before:
            first = measurement.measured("sft", workdir, progress, evaluator, task, before)
            loggers.responses()
        chosen = selection.select(cfg, mesh, task, tokens, before, workdir, progress)
        kept = (rl_checkpoints, writer, progress, evaluator, signals)
        after = rl.train(cfg, mesh, chosen, tokens, before, *kept, make_train_step=make_train_step).policy
        last = measurement.measured("rl", workdir, progress, evaluator, task, after)
    progress.doing("writing the report")
    report = finish(cfg, workdir, first, last)
    loggers.report()
    progress.doing("sending the last rows to loggers")
    return report


@contextmanager
def compilation_cache(cfg: Config, workdir: Place) -> Iterator[None]:
    """Keeps compiled programs in the workdir meanwhile, unless JAX was told another place or cfg says no.

    JAX never keeps a program that calls the host: the RL step and sampling with a progress bar are compiled each time.
    """
    if not cfg.compilation_cache or jax.config.values["jax_compilation_cache_dir"]:
        yield
        return
    if multihost.is_main():
        files.shrink(workdir / "compiled", cfg.compilation_cache_mib << 20)
    try:
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compiled"))
        cache.reset_cache()
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        cache.reset_cache()


@contextmanager
def open_task(cfg: Config, folder: Place, note: Callable[[str], None]) -> Iterator[tuple[Task, Tokenizer]]:
    """The task and its tokenizer, and meanwhile the processes that judge: for a run, a trial and a replay alike.

    Args:
      folder: holds the tokenizer; see make_task.
      note: is told what the task leaves out.

    Raises:
      ConfigError: from make_task; or a reward function cannot be used.
    """
    with make_verifier(cfg) as verifier:
        plain, tokens = make_task(cfg, folder, verifier)
        for line in (*getattr(tokens, "notes", ()), *plain.notes):
            note(line)
        with rewarded(plain, cfg, lambda: plain.problem(0, "train")) as task:
            yield task, tokens


def make_task(cfg: Config, workdir: Place, verifier: Verifier) -> tuple[Task, Tokenizer]:
    """The task and its tokenizer: problems from files, or an embedded task.

    The tokenizer is the workdir's; the first time, that of cfg.model.checkpoint, or one trained on the embedded task's
    own text, the same on every process.

    Raises:
      ConfigError: the checkpoint, its tokenizer or a file of problems cannot be used.
    """
    tokens = None
    if tokenizer.is_saved(workdir / "tokenizer"):
        tokens = tokenizer.load(workdir / "tokenizer")
    elif cfg.model.checkpoint:
        source = weights.find(cfg.model.checkpoint, "model.checkpoint")
        weights.refuse_mismatch(source, cfg.model)
        tokens = tokenizer.load(source.folder)
    if tokens is not None:
        tokenizer.refuse_too_big(tokens, cfg.model.vocab_size, cfg.model.checkpoint)
        tokenizer.refuse_too_long(tokens, cfg, cfg.scaling.budgets)
    if cfg.data.train:
        if not isinstance(tokens, HFTokenizer):
            raise ConfigError(f"model.checkpoint is {cfg.model.checkpoint}; expected one with a tokenizer.json")
        return ProblemsTask(cfg, tokens, verifier), tokens
    task, tokens = make_embedded(cfg, tokens, verifier)
    if cfg.data.sft and cfg.sft.num_steps:
        return read_written(cfg.data.sft, task, tokens), tokens
    return task, tokens


def resume_after(sft_checkpoints: Checkpoints, rl_checkpoints: Checkpoints) -> dict[str, int]:
    """The last row of each stage that stands: later steps are done again."""
    done = {"sft": sft_checkpoints.latest(), "rl": rl_checkpoints.latest(), "evaluate": rl_checkpoints.latest()}
    return {stage: step for stage, step in done.items() if step is not None}


def finish(cfg: Config, workdir: Place, first: dict[str, Any] | None, last: dict[str, Any]) -> Place:
    """Writes results.json and the report; returns the report's path. `first` is None where eval.before is False."""
    path = workdir / "report.html"
    if multihost.is_main():
        rows = read_rows(workdir)
        results = collect(cfg, rows, first, last, selection.tokens(cfg, workdir))
        results["lost_tokens"] = usage.lost_tokens(usage.read(workdir))
        path = run_page.write_report(workdir, results, rows)
        files.write_json(workdir / "results.json", results)
    return path
