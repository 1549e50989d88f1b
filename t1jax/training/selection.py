# SPDX-License-Identifier: Apache-2.0
"""T1's filter of problems, inside a run: reinforcement learning is given what the cold start rarely solves.

Once, between the cold start and reinforcement learning, the model tries rl.filter_problems training problems
rl.filter_samples times each, at the temperature of training; problems solved in more than rl.filter_pass_rate of the
tries are dropped. WORKDIR/filter.json holds what was found, is written whole, and is found again on resume.
Raw correctness counts, or the mean reward where reward.function knows no right and wrong; penalties do not. Tries that
cannot be scored are left out of the rate, and a problem without any other is dropped.
Source: T1 (arXiv 2501.11651) section 3: at most 0.3 of 16 tries.
Deliberately not here: the same for a file of problems and any checkpoint, by itself (filter.py).
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from t1jax.checks import a_step
from t1jax.config import Config, ConfigError
from t1jax.devices import multihost
from t1jax.evaluation import figures, journal
from t1jax.evaluation.evaluator import Evaluator
from t1jax.evaluation.questions import ask
from t1jax.host import files
from t1jax.host.place import Place
from t1jax.host.progress import Progress
from t1jax.host.workdir import read
from t1jax.prompts import streams
from t1jax.tasks.task import P, Source, Task, Wrapped
from t1jax.text.tokenizer import Tokenizer
from t1jax.types import Params

FILE_NAME = "filter.json"


class Selected(Wrapped[P]):
    """A task whose training problems are some of another's, numbered from 0 on. All else is as the other has it."""

    def __init__(self, task: Task[P], kept: Sequence[int]) -> None:
        """`kept`: their indices, ascending."""
        super().__init__(task)
        self._kept = list(kept)
        ends = [0, *itertools.accumulate(source.size for source in task.sources)]
        places = itertools.pairwise(bisect.bisect_left(self._kept, end) for end in ends)
        self._sources = [
            dataclasses.replace(source, size=after - before)
            for source, (before, after) in zip(task.sources, places, strict=True)
        ]

    def size(self, split: str) -> int | None:
        """Problems of a split."""
        return len(self._kept) if split == "train" else self._task.size(split)

    @property
    def sources(self) -> Sequence[Source]:
        """The other's files, with as many problems as are kept of each."""
        return self._sources

    def problem(self, index: int, split: str) -> P:
        """The problem with this index; of training, among those kept."""
        return self._task.problem(self._kept[index] if split == "train" else index, split)


def select(
    cfg: Config, mesh: Mesh, task: Task, tokenizer: Tokenizer, params: Params | None, workdir: Place, progress: Progress
) -> Task:
    """The task that reinforcement learning draws from: `task` itself where rl.filter_pass_rate is 1.

    `params`: weights after the cold start; None where reinforcement learning has begun, and filter.json is there.

    Raises:
      ConfigError: fewer problems are kept than a step has prompts, or filter.json is gone or not ours.
    """
    if cfg.rl.filter_pass_rate == 1:
        return task
    path = workdir / FILE_NAME
    if not path.exists():
        if params is None:
            raise ConfigError(f"{path}: not found, but reinforcement learning has begun; expected it: put it back")
        rates, tokens = pass_rates(cfg, mesh, task, tokenizer, params, workdir, progress)
        if multihost.is_main():
            files.write_json(path, {"pass_rates": [[index, rate] for index, rate in rates.items()], "tokens": tokens})
            journal.forget(workdir)
        multihost.barrier("the problems are filtered")
    chosen = choose(cfg, task, workdir)
    kept, tried = chosen.size("train"), len(_rates(path))
    progress.note(f"{kept} of {tried} problems solved in at most {cfg.rl.filter_pass_rate:g} of the tries")
    return chosen


def choose(cfg: Config, task: Task, folder: Place) -> Task:
    """The task that reinforcement learning drew from, by `folder`/filter.json; `task` where nothing was filtered.

    Raises:
      ConfigError: fewer problems are kept than a step has prompts, or filter.json is gone or not ours.
    """
    if cfg.rl.filter_pass_rate == 1:
        return task
    path = folder / FILE_NAME
    rates = _rates(path)
    kept = [index for index, rate in rates.items() if rate is not None and rate <= cfg.rl.filter_pass_rate]
    if len(kept) < cfg.rl.drawn:
        raise ConfigError(
            f"{path}: rl.filter_pass_rate = {cfg.rl.filter_pass_rate} keeps {len(kept)} of {len(rates)} problems; "
            f"expected at least {a_step(cfg.rl)}: raise rl.filter_pass_rate or rl.filter_problems in another --workdir"
        )
    chosen = Selected(task, kept)
    try:
        streams.refuse_too_few(chosen, "train", cfg.rl.drawn)
    except ConfigError as error:
        raise ConfigError(
            f"{path}: of what rl.filter_pass_rate keeps: {error}; raise rl.filter_problems in another --workdir"
        ) from error
    return chosen


def tokens(cfg: Config, folder: Place) -> int:
    """Tokens that were sampled for the filter, by `folder`/filter.json."""
    if cfg.rl.filter_pass_rate == 1:
        return 0
    return int(read(folder / FILE_NAME).get("tokens", 0))


def _rates(path: Place) -> dict[int, float | None]:
    """What filter.json says: index -> pass rate."""
    try:
        return {int(index): rate for index, rate in json.loads(path.read_text(encoding="utf-8"))["pass_rates"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: {error}; expected what t1jax wrote: put it back") from error


def pass_rates(
    cfg: Config, mesh: Mesh, task: Task, tokenizer: Tokenizer, params: Params, workdir: Place, progress: Progress
) -> tuple[dict[int, float | None], int]:
    """index -> share of right tries at that training problem among those that can be scored, None if there is none; and
    how many tokens were sampled for it.
    """
    evaluator = Evaluator(cfg, mesh, task, tokenizer, lenient=False)
    indices = candidates(task.size("train"), cfg.rl.filter_problems, cfg.seed, task.sources)
    questions = ask(task, tokenizer, [task.problem(index, "train") for index in indices])
    with progress.stage("filter", total=len(indices)) as stage:
        tries = evaluator.respond(
            params,
            "filter",
            [dataclasses.replace(question, id=question.problem.index) for question in questions],
            samples=cfg.rl.filter_samples,
            temperature=cfg.rl.temperature,
            truncate=True,
            journal=journal.of_run(workdir, "filter", 0)("tries"),
            tell=lambda done: stage.update(len(done) // cfg.rl.filter_samples),
        )
    return figures.pass_rates(tries, lambda response: response.problem), evaluator.sampled


def candidates(size: int | None, count: int, seed: int, sources: Sequence[Source] = ()) -> list[int]:
    """The training problems that are tried: the first `count`; of a file as many at random, all if it has fewer.

    Of several files with weights, of each its share, rounded up: a batch takes no more of one (streams.refuse_too_few).
    """
    if size is None:
        return list(range(count))
    random = np.random.default_rng(seed)
    if all(source.weight is None for source in sources):
        return sorted(random.permutation(size)[:count].tolist())
    found: list[int] = []
    start = 0
    for source in sources:
        tried = random.permutation(source.size)[: math.ceil((source.weight or 0.0) * count - 1e-9)]
        found += (start + tried).tolist()
        start += source.size
    return sorted(found)
