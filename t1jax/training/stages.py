# SPDX-License-Identifier: Apache-2.0
"""The whole of T1, stage by stage: tokenizer, cold start, evaluation, reinforcement learning, evaluation, report.

Every stage saves its results in the workdir, and continues from what it finds there: the same command resumes a run, or
says that it is done.

    config.json           every knob of the run; inputs.json what its files were; lock while it runs (workdir.py)
    tokenizer/            the tokenizer, trained first
    checkpoints/sft, rl   Orbax checkpoints of the two training stages
    compiled/             programs for the next start; may be deleted
    measured/sft, rl.json what was measured after each; journal/ what was sampled for it so far (journal.py)
    responses/            what was sampled for it, and during RL (saved.py)
    filter.json           pass rates that training problems were chosen by (selection.py), if rl.filter_pass_rate < 1
    usage.json            when it ran, on how many chips (usage.py)
    metrics.jsonl         a row a step; tensorboard/ the same for TensorBoard
    results.json          the outcome; report.html and PNGs the same for people

Deliberately not here: flags (main.py), how a stage works (sft.py, rl.py, evaluator.py, scaling.py, run_page.py).
"""

from __future__ import annotations

import time
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
from t1jax.evaluation import figures, journal, saved, scaling
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.questions import ask_held_out
from t1jax.evaluation.responses import Response
from t1jax.host import files, usage
from t1jax.host.metrics import MetricsWriter, read_rows
from t1jax.host.place import Place
from t1jax.host.progress import Progress
from t1jax.host.stopping import Signals
from t1jax.host.workdir import begin, claim, locked, read, refuse_other_processes
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
from t1jax.training import opening, rl, selection, sft
from t1jax.training.checkpoint import Checkpoints
from t1jax.training.results import PACKAGES, collect
from t1jax.training.step import make_train_step
from t1jax.types import Params
from t1jax.weights import load as weights

MEASURED: dict[str, Any] = {"summary": dict, "greedy": dict, "by_difficulty": list, "samples": list, "scaling": list}
MEASURED |= {"seconds": int | float}


def run(
    cfg: Config,
    workdir: Place,
    allow_change: Sequence[str] = (),
    make_train_step: Callable[..., Any] = make_train_step,
) -> Place:
    """Runs what is left to do in `workdir`; returns the path of the report.

    Args:
      allow_change: knobs that may differ from those that the run was started with.
      make_train_step: compiles a step of RL, see step.py.

    Raises:
      ConfigError: the workdir is in use or holds a run with other knobs, or the config cannot work on these devices.
      Stopped: no checkpoint can be read or the last one not written, or training is sick; see stopping.py.
      Interrupted: a signal asked for it.
    """
    validation.validate(cfg, jax.device_count())
    mesh = sharding.make_mesh(cfg.mesh)
    refuse_other_processes(cfg, {name: version(name) for name in PACKAGES})
    changed = claim(cfg, workdir, allow_change)
    done = (workdir / "results.json", workdir / "report.html")
    if not changed and all(path.exists() for path in done):
        if multihost.is_main():
            print(f"{workdir} is done; give another --workdir to run again")
        return done[1]
    with (
        Signals(cfg.checkpoint.grace_seconds) as signals,
        compilation_cache(cfg, workdir),
        Progress() as progress,
        open_task(cfg, workdir, progress.note) as (task, tokens),
    ):
        if jax.process_count() > 1:
            progress.note(multihost.describe(multihost.feeders(sharding.train_layout(mesh))))
        for name, (old, new) in changed.items():
            progress.note(f"{name} is now {new}, was {old}")
        multihost.barrier("all have read the workdir")
        with locked(workdir, note=progress.note):
            if multihost.is_main():
                outdated = (*done, *(measurement(workdir, stage) for stage in ("sft", "rl")))
                begin(cfg, workdir, outdated if changed else ())
                if changed:
                    journal.forget(workdir)
                tokens.save(workdir / "tokenizer")
            multihost.barrier("the workdir is begun")
            for line in opening.lines(cfg, mesh, task, workdir):
                progress.note(line)
            with usage.counted(workdir, mesh.size, mesh.devices.flat[0].device_kind) as lost:
                return stages(cfg, mesh, workdir, task, tokens, progress, signals, lost, make_train_step)


def stages(
    cfg: Config,
    mesh: Mesh,
    workdir: Place,
    task: Task,
    tokens: Tokenizer,
    progress: Progress,
    signals: Signals,
    lost: Callable[[int], None],
    make_train_step: Callable[..., Any] = make_train_step,
) -> Place:
    """What is left of the stages, one after the other; returns the path of the report.

    `lost` is told of tokens whose steps are done again.
    """
    evaluator = Evaluator(cfg, mesh, task, tokens, progress)
    with (
        Checkpoints(workdir / "checkpoints/sft", cfg, tokens, progress.note) as sft_checkpoints,
        Checkpoints(workdir / "checkpoints/rl", cfg, tokens, progress.note) as rl_checkpoints,
        MetricsWriter(workdir, resume_after(sft_checkpoints, rl_checkpoints), lost) as writer,
    ):
        before = None  # weights after the cold start: not needed once RL has a checkpoint of its own
        if rl_checkpoints.latest() is None or not measurement(workdir, "sft").exists():
            if cfg.sft.num_steps:
                before = sft.train(cfg, mesh, task, tokens, sft_checkpoints, writer, progress, signals).params
            else:
                before = sft.initial_params(cfg, mesh)
        first = measured("sft", workdir, progress, lambda: measure(evaluator, task, before, "sft", workdir))
        chosen = selection.select(cfg, mesh, task, tokens, before, workdir, progress)
        kept = (rl_checkpoints, writer, progress, evaluator, signals)
        after = rl.train(cfg, mesh, chosen, tokens, before, *kept, make_train_step=make_train_step).params
        last = measured("rl", workdir, progress, lambda: measure(evaluator, task, after, "rl", workdir))
    return finish(cfg, workdir, first, last)


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


def measure(evaluator: Evaluator, task: Task, params: Params, stage: str, workdir: Place) -> dict[str, Any]:
    """All that is measured of one stage's weights, on the same held-out problems; responses are saved in `workdir`."""
    cfg, before = evaluator.cfg, evaluator.sampled
    questions = ask_held_out(task, evaluator.tokenizer, cfg.eval.num_problems)
    kept = journal.of_run(workdir, stage, cfg.rl.num_steps if stage == "rl" else 0)
    responses = evaluator.respond(params, "held_out", questions, journal=kept("held_out"))
    done, last = (cfg.rl.num_steps, True) if stage == "rl" else (0, False)
    saved.save(workdir, responses, stage, done, cfg.eval.keep_responses, final=last)
    greedy = evaluator.respond(params, "held_out", questions, temperature=0.0, journal=kept("greedy"))
    summary = figures.summary(responses)
    if task.forbid_giving_up(evaluator.tokenizer) is not None:
        forbidden = evaluator.respond(params, "held_out", questions, forbid_giving_up=True, journal=kept("forbidden"))
        summary["forbidden_to_give_up"] = figures.accuracy(forbidden)
    points = scaling.inference_scaling(evaluator, params, questions, responses, stage, kept)
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


def measurement(workdir: Place, stage: str) -> Place:
    """Where what was measured after a stage is kept."""
    return workdir / "measured" / f"{stage}.json"


def measured(stage: str, workdir: Place, progress: Progress, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns, from measured/STAGE.json if it was done before."""
    path = measurement(workdir, stage)
    if not path.exists():
        began = time.perf_counter()
        with progress.stage(f"measure {stage}", total=1):
            outcome = work()
        if multihost.is_main():
            files.write_json(path, outcome | {"seconds": time.perf_counter() - began})
            journal.forget(workdir)
        multihost.barrier(f"measured {stage}")
    found = read(path)
    wrong = [name for name, kind in MEASURED.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]} is {found.get(wrong[0])!r:.60}; expected what t1jax wrote: delete it")
    return found


def finish(cfg: Config, workdir: Place, first: dict[str, Any], last: dict[str, Any]) -> Place:
    """Writes results.json and the report; returns the report's path."""
    path = workdir / "report.html"
    if multihost.is_main():
        rows = read_rows(workdir)
        results = collect(cfg, rows, first, last, selection.tokens(cfg, workdir))
        results["lost_tokens"] = usage.lost_tokens(usage.read(workdir))
        path = run_page.write_report(workdir, results, rows)
        files.write_json(workdir / "results.json", results)
    return path
