# SPDX-License-Identifier: Apache-2.0
"""`t1jax.train`: all of T1 from Python, and what it gives back. The command `t1jax train` calls it.

Deliberately not here: the stages (training/stages.py), flags (main.py), what knobs mean (configs/base.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t1jax.api import given
from t1jax.api.given import Given, Reward, Row
from t1jax.config import Config, ConfigError
from t1jax.host import command_line, place
from t1jax.host.place import Place

if TYPE_CHECKING:
    from t1jax.api.model import Model


@dataclass(frozen=True)
class Run:
    """A finished run."""

    workdir: Place
    report: Place  # report.html

    @property
    def results(self) -> dict[str, Any]:
        """What results.json says: figures before and after RL (`sft`, `rl`), and all else of the report."""
        found: dict[str, Any] = json.loads((self.workdir / "results.json").read_text(encoding="utf-8"))
        return found

    def load(self) -> Model:
        """The trained model, to sample from and to evaluate."""
        from t1jax.api.model import load

        return load(self.workdir)


def train(
    config: Given = "tiny",
    *,
    workdir: str | os.PathLike[str] | None = None,
    reward: Reward | Sequence[Reward] = (),
    weights: Sequence[float] = (),
    problems: Sequence[Row] | None = None,
    held_out: Sequence[Row] | None = None,
    knobs: Mapping[str, Any] | None = None,
    allow_change: Sequence[str] = (),
    make_train_step: Callable[..., Any] | None = None,
) -> Run:
    """Runs what is left to do in `workdir`: cold start, RL, evaluation, report. The same call resumes it.

    Args:
      config: the name of a config that comes with t1jax, a Python file with get_config(), a ConfigDict, or a Config.
      workdir: where the run writes; workdirs/NAME for a config that is named.
      reward: a function score(prompt, response, row) -> float | None, or score(prompts, responses, rows) -> a list of
        them, which a .py file defines at its top; "FILE.py:NAME"; "correct"; or several of these. Other processes load
        that file, so what it does beside stands under `if __name__ == "__main__":`. Default: the config's, "correct".
      weights: one for each reward.
      problems: rows with columns as those of a file (docs/tasks.md), instead of the config's; they need a model with a
        tokenizer, `model.checkpoint`.
      held_out: rows that training never sees. Without them every tenth of `problems` is held out.
      knobs: dotted names -> values, such as {"rl.num_steps": 5}.
      allow_change: knobs that may differ from those that the run was started with.
      make_train_step: compiles a step of RL in place of training.step.make_train_step, with its arguments.

    Raises:
      ConfigError: a mistake in what is given; its message is one line.
      Stopped, Interrupted: as training/stages.py says.
    """
    given.refuse_reward_process("t1jax.train")
    cfg = given.config_of(config, knobs)
    if workdir is None:
        if not isinstance(config, str | Path):
            raise ConfigError("workdir is missing; expected a folder, because the config has no name")
        workdir = f"workdirs/{Path(config).stem}"
    folder = place.of(workdir, "workdir")
    more: dict[str, Any] = {}
    if callable(reward) or reward:
        more |= given.reward_knobs(reward, weights)
    elif weights:
        raise ConfigError(f"weights is {tuple(weights)}; expected reward to be given with it")
    if problems is not None:
        more |= given.problem_knobs(problems, held_out, folder)
    elif held_out is not None:
        raise ConfigError("held_out is given; expected problems too")
    if more:
        cfg = given.config_of(cfg, more)
    from t1jax.planning import phases
    from t1jax.training import stages
    from t1jax.weights.load import NOT_STORED

    if not isinstance(config, Config):  # whoever gives one has set its sizes
        set_here = {knob.removeprefix("model.") for knob in knobs or () if knob.startswith("model.")}
        sizes = command_line.sizes_set(cfg, []) | (set_here - {*NOT_STORED})
        cfg = given.sized(cfg, folder, sizes)
    pieces = {} if make_train_step is None else {"make_train_step": make_train_step}
    return Run(folder, stages.run(cfg, folder, list(allow_change), phases.paces, **pieces))
