# SPDX-License-Identifier: Apache-2.0
"""Reads runs from their workdirs, checks them, and gives each a short name.

An unfinished run has no results.json; its measured/*.json and metrics.jsonl are used instead.
Deliberately not here: the checks of what was read (checks.py), what is said of them (run_page.py, comparison.py), who
may write to a workdir (workdir.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t1jax.config import ConfigError
from t1jax.host import metrics, place
from t1jax.host.place import Place
from t1jax.reports.checks import EXPECTED, STAGES, check_results, is_row, is_share

Results = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

MOST = 12  # runs that one page can tell apart
LONGEST = 28  # characters of a run's name on the page


@dataclass(frozen=True)
class Run:
    """What one workdir holds."""

    name: str  # short, unique among the runs on a page
    workdir: Place
    results: Results  # of an unfinished run: the parts that are known
    rows: Rows
    finished: bool


def read(workdirs: Sequence[str]) -> list[Run]:
    """The runs in these workdirs, 1 to MOST.

    Raises:
      ConfigError: one is no workdir, is given twice, or holds a file that no run wrote.
    """
    if not 1 <= len(workdirs) <= MOST:
        raise ConfigError(f"got {len(workdirs)} workdirs; expected 1 to {MOST}")
    paths = [place.of(workdir, "WORKDIR") for workdir in workdirs]
    seen: dict[Place, Place] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder; expected the --workdir of a run")
        if path.resolve() in seen:
            raise ConfigError(f"{path} is the same run as {seen[path.resolve()]}; give each run once")
        seen[path.resolve()] = path
    return [_read(path, name) for path, name in zip(paths, names(paths), strict=True)]


def names(workdirs: Sequence[Place]) -> list[str]:
    """Short names: the last part of each path, with as many parts before it as are needed to tell all apart."""
    parts = [path.resolve().parts for path in workdirs]
    found = []
    for mine in parts:
        depth = 1
        while depth < len(mine) and sum(other[-depth:] == mine[-depth:] for other in parts) > 1:
            depth += 1
        found.append("/".join(mine[-depth:]))
    short = [_shorten(name) for name in found]
    return [name if short.count(name) == 1 else f"{i} {name}" for i, name in enumerate(short, 1)]


def held_out(run: Run) -> list[tuple[int, Mapping[str, Any]]]:
    """[(RL steps done, measurement on held-out problems)], in order: before, during and after RL."""
    rl = [row["step"] for row in run.rows if row["stage"] == "rl"]
    last = max(rl, default=0)
    found: dict[int, Mapping[str, Any]] = {}
    for row in run.rows:
        if row["stage"] == "evaluate" and is_share(row):
            found[row["step"]] = row
    if run.results.get("sft"):
        found[0] = run.results["sft"]
    if run.results.get("rl"):
        found[max(last, *found, 1)] = run.results["rl"]
    return sorted(found.items())


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 1]}…{name[-LONGEST // 2 :]}"


def _read(path: Place, name: str) -> Run:
    if not (path / "config.json").is_file() and not (path / "results.json").is_file():
        raise ConfigError(f"{path} holds no run: no config.json; expected the --workdir of a run")
    finished = (path / "results.json").is_file()
    if finished:
        results = _json(path / "results.json")
        check_results(path / "results.json", results)
    else:
        results = {"config": _json(path / "config.json")}
        for stage in STAGES:
            file = path / "measured" / f"{stage}.json"
            if file.is_file():
                _add(results, stage, _json(file), file)
        check_results(path / "measured", results, [stage for stage in STAGES if stage in results])
    try:
        rows = metrics.read_rows(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for number, row in enumerate(rows, 1):
        if row["stage"] not in (*STAGES, "evaluate") or not is_row(row):
            raise ConfigError(f"{path / 'metrics.jsonl'} line {number} is no row of a run; {EXPECTED}")
    return Run(name, path, results, rows, finished)


def _json(path: Place) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path}: {error}; {EXPECTED}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: got a {type(tree).__name__}; {EXPECTED}")
    return tree


def _add(results: dict[str, Any], stage: str, measured: Mapping[str, Any], file: Place) -> None:
    """Adds the measurements of a stage to `results`, laid out as in results.json."""
    try:
        results[stage] = measured["summary"]
        results.setdefault("greedy", {})[stage] = measured["greedy"]
        results.setdefault("skills", {})[stage] = measured["summary"].get("skills", {})
        for name in ("by_difficulty", "scaling", "samples"):
            results.setdefault(name, []).extend(measured[name])
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: {type(error).__name__} {error}; {EXPECTED}") from error
