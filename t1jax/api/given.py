# SPDX-License-Identifier: Apache-2.0
"""What Python gives instead of files: a config, knobs, problems, reward functions -> a typed Config, and files.

Problems become files of the workdir and functions FILE.py:NAME, so that a run is described by its config alone, and
can be resumed.

Deliberately not here: what is done with them (training.py, model.py).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from t1jax import config as configs
from t1jax.checks import CORRECT
from t1jax.config import Config, ConfigError
from t1jax.host import command_line, config_files, files
from t1jax.host.place import Place
from t1jax.rewards.function_worker import REWARD_PROCESS

Given: TypeAlias = str | Path | Config | Mapping[str, Any]  # or a ConfigDict
Reward: TypeAlias = str | Callable[..., Any]
Row = Mapping[str, Any]

HELD_OUT = 10  # of so many problems one is held out where nobody says which


def config_of(given: Given, knobs: Mapping[str, Any] | None = None) -> Config:
    """The typed config.

    Args:
      given: the name of a config that comes with t1jax, a Python file with get_config(), a ConfigDict, nested dicts, or
        a Config.
      knobs: dotted names -> values that it is to have instead.

    Raises:
      ConfigError: there is no such config or knob, or one or a value has the wrong type.
    """
    found: Any = config_files.load(config_files.find(str(given))) if isinstance(given, str | Path) else given
    tree = found.to_dict() if isinstance(found, Config | ConfigDict) else found
    if not isinstance(tree, Mapping):
        raise ConfigError(f"config is {given!r:.80}; expected the name of a config, a Python file, or a ConfigDict")
    if not isinstance(knobs, Mapping | None):
        raise ConfigError(f'knobs is {knobs!r:.80}; expected a dict like {{"rl.num_steps": 5}}')
    tree = configs.completed(tree)
    for knob, value in (knobs or {}).items():
        if knob not in configs.knobs():
            raise configs.unknown_knob(str(knob))
        section, _, name = knob.rpartition(".")
        into = tree.get(section) if section else tree
        if isinstance(into, dict):  # else `load` says what is missing
            into[name] = value
    return command_line.named(configs.load(tree))


def sized(cfg: Config, workdir: Place, names: Collection[str]) -> Config:
    """`cfg` with the sizes of the model in model.checkpoint, if it names one; of a run that goes on, with its own.

    Args:
      names: knobs of `model` that are set, which must agree with the checkpoint.

    Raises:
      ConfigError: there are no weights, or one of `names` has another value than they.
    """
    if not cfg.model.checkpoint:
        return cfg
    from t1jax.host.workdir import read
    from t1jax.weights import load as weights

    saved = workdir / "config.json"
    model = read(saved).get("model") if saved.exists() else None
    if isinstance(model, dict) and model.get("checkpoint") == cfg.model.checkpoint:
        kept = {name: value for name, value in model.items() if name not in {*names, *weights.NOT_STORED}}
        return configs.load({**cfg.to_dict(), "model": {**dataclasses.asdict(cfg.model), **kept}})
    return weights.with_sizes(cfg, names)


def reward_knobs(reward: Reward | Sequence[Reward], weights: Sequence[float]) -> dict[str, Any]:
    """The knobs of the section `reward`.

    Raises:
      ConfigError: a function has no name at the top of a file, or a weight is no number.
    """
    several = [reward] if isinstance(reward, str) or callable(reward) else listed(reward, "reward", "functions")
    names = [one if isinstance(one, str) else named(one) for one in several]
    try:
        numbers = tuple(map(float, weights))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"weights is {weights!r:.80}; expected a number for each reward") from error
    return {"reward.function": ",".join(names) or CORRECT, "reward.weights": numbers}


def listed(given: Any, what: str, of: str) -> list[Any]:
    """The items of the argument `what`. ConfigError: it has none; `of`: what they should be."""
    if not isinstance(given, Iterable):
        raise ConfigError(f"{what} is {given!r:.80}; expected a list of {of}")
    return list(given)


def problem_knobs(problems: Sequence[Row], held_out: Sequence[Row] | None, folder: Place) -> dict[str, Any]:
    """The knobs data.train and data.eval; the rows are written to `folder`/problems, anew until a run has begun there.

    Args:
      problems: rows as those of a file, to train on.
      held_out: those that training never sees; None: every tenth of `problems`, which then is not trained on.

    Raises:
      ConfigError: there are too few, a row is no mapping or no JSON, or the folder's run has other problems.
    """
    train = listed(problems, "problems", "rows")
    rest = listed(() if held_out is None else held_out, "held_out", "rows")
    if held_out is None:
        rest = train[HELD_OUT - 1 :: HELD_OUT]
        train = [row for place, row in enumerate(train) if place % HELD_OUT != HELD_OUT - 1]
    if not train or not rest:
        raise ConfigError(
            f"problems has {len(train)} rows to train on and {len(rest)} held out; expected some of both: give "
            f"held_out=[...], or {HELD_OUT} problems and more"
        )
    found = {}
    for knob, rows in (("train", train), ("eval", rest)):
        path = folder / "problems" / f"{knob}.jsonl"
        found[f"data.{knob}"] = write_rows(path, rows, folder / "config.json")
    return found


def write_rows(path: Place, rows: Sequence[Row], begun: Place) -> str:
    """The file of these rows, written unless it has them.

    Args:
      begun: a file that is there once something depends on the rows.

    Raises:
      ConfigError: something depends on other rows, or a row is no mapping or no JSON.
    """
    text = "".join(f"{line(number, row)}\n" for number, row in enumerate(rows, 1))
    same = path.exists() and path.read_text(encoding="utf-8") == text
    if not same and path.exists() and begun.exists():
        raise ConfigError(f"{path} holds other problems than are given; expected the same: give another folder")
    if not same:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, text)
    return str(path)


def refuse_reward_process(what: str) -> None:
    """ConfigError: a process that calls reward functions came here by loading the program that defines one."""
    if os.environ.get(REWARD_PROCESS):
        raise ConfigError(
            f"{what} is called while its file is loaded for a reward function; expected it to be under "
            'if __name__ == "__main__":'
        )


def line(number: int, row: Row) -> str:
    """A row as a line of a file. ConfigError: it is no mapping, or JSON cannot hold it."""
    if not isinstance(row, Mapping):
        raise ConfigError(f"problem {number} is a {type(row).__name__}; expected a dict of columns, such as problem")
    try:
        return json.dumps(dict(row), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"problem {number}: {error}; expected columns that JSON can hold") from error


def named(function: Callable[..., Any]) -> str:
    """FILE.py:NAME of a function: the processes that call it load its file anew.

    Raises:
      ConfigError: it has no name at the top of a file.
    """
    name = getattr(function, "__name__", "")
    try:
        file = inspect.getsourcefile(function)
    except TypeError:  # an object that can be called
        file = None
    if file is None or not Path(file).is_file() or not name.isidentifier() or function.__qualname__ != name:
        raise ConfigError(
            f"reward is {function!r:.80}; expected a function that a .py file defines at its top, or FILE.py:NAME: "
            "other processes load it from there (in a notebook: %%writefile my_reward.py)"
        )
    return f"{file}:{name}"
