# SPDX-License-Identifier: Apache-2.0
"""The results of a study: a table with 95 % intervals, tests of its claims, a plot.

... -> evaluate -> **report**, over several runs. The unit is a run: intervals are over seeds, by Student's
distribution, and two arms are compared seed by seed, because runs with the same seed start from the same weights and
answer the same problems. With one seed there is no interval, and no claim is tested.
Source: statistics.py. Deliberately not here: which arms and claims (studies/claims.py), figures (studies/plots.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from t1jax.config import Config, ConfigError
from t1jax.evaluation.statistics import mean_interval
from t1jax.host import files
from t1jax.host.place import Place
from t1jax.studies import plots as study_plots
from t1jax.studies.claims import STUDIES, Arm, Contrast

Trial = Mapping[str, Any]  # what trial.json holds
COLUMNS = (  # name, heading, shown as
    ("accuracy", "accuracy", "percent"),
    ("response_length", "length, tokens", "number"),
    ("overlong", "overlong", "percent"),
    ("gave_up", "gave up", "percent"),
    ("false_claims", "false claims", "percent"),
    ("kl_start", "KL from the start, nats", "number"),
    ("entropy", "entropy in training, nats", "number"),
)
YES, NO, OPEN = "reproduced", "the other way", "not told apart"


def write(name: str, base: Config, seeds: Sequence[int], out: Path) -> None:
    """Writes results.json, table.md and plot.png of a study whose runs lie in `out`, to `out`/NAME.

    Raises:
      ConfigError: a run is missing or damaged.
    """
    study = STUDIES[name]
    trials = {arm.label: _same_steps(out, arm, {seed: _read(out, arm, seed) for seed in seeds}) for arm in study.arms}
    results = {
        "study": name,
        "title": study.title,
        "seeds": list(seeds),
        "arms": {label: summarise(runs) for label, runs in trials.items()},
        "contrasts": [judge(contrast, trials) for contrast in study.contrasts],
    }
    if name == "inference_scaling":
        results["thinking"] = thinking(trials["base"])
    files.write_json(out / name / "results.json", results)
    files.write_text(out / name / "table.md", markdown(results))
    files.write_bytes(out / name / "plot.png", study_plots.draw(name, study.measure, trials, results))


def write_summary(out: Path) -> Place:
    """Writes summary.md from the results of all studies in `out`: every claim and what became of it."""
    rows = []
    for name in STUDIES:
        path = out / name / "results.json"
        if path.exists():
            results = json.loads(path.read_text(encoding="utf-8"))
            seeds = len(results["seeds"])
            rows += [
                f"| {name} | {c['claim']} | {_difference(c)} | {c['verdict']} | {seeds} |" for c in results["contrasts"]
            ]
    head = "| study | claim | difference | | seeds |\n|---|---|---|---|---|\n"
    return files.write_text(out / "summary.md", head + "\n".join(rows) + "\n")


def measure(trial: Trial, name: str) -> float:
    """A figure of a run after RL: one of DERIVED, or a column of its last mark."""
    return float(DERIVED[name](trial) if name in DERIVED else trial["marks"][-1][name])


def _nats_saved(more: Trial, less: Trial) -> float:
    """KL from where RL began that `less` has spent, less what `more` has, at the highest accuracy both come to."""
    common = min(max(mark["accuracy"] for mark in trial["marks"]) for trial in (more, less))
    return _kl_at(less["marks"], common) - _kl_at(more["marks"], common)


def _kl_at(marks: Sequence[Mapping[str, Any]], accuracy: float) -> float:
    """KL where `accuracy` is first reached, on straight lines between the marks. It must be reached."""
    before = marks[0]
    for mark in marks:
        if mark["accuracy"] >= accuracy:
            step = mark["accuracy"] - before["accuracy"]
            share = (accuracy - before["accuracy"]) / step if step > 0 else 1.0
            return float(before["kl_start"] + share * (mark["kl_start"] - before["kl_start"]))
        before = mark
    raise ValueError(f"an accuracy of {accuracy} is reached at no mark")


def _rise(mark: Mapping[str, Any]) -> float:
    return mark["scaling"][-1]["accuracy"] - mark["scaling"][0]["accuracy"]


def _vote_at(votes: Sequence[Mapping[str, float]], tokens: float) -> float:
    """The best accuracy of the votes that cost no more than `tokens`, and of the next larger one."""
    within = [v for v in votes if v["tokens"] <= tokens]
    beyond = next((v for v in votes if v["tokens"] > tokens), votes[-1])
    return max([beyond["accuracy"], *(v["accuracy"] for v in within)])


DERIVED: Mapping[str, Callable[[Trial], float]] = {
    "entropy": lambda trial: trial["training"]["entropy"],
    "rise": lambda trial: _rise(trial["marks"][-1]),  # from the smallest to the largest budget of thinking
    "rise_gain": lambda trial: _rise(trial["marks"][-1]) - _rise(trial["marks"][0]),
    # thinking after RL, less a vote before RL that spends as many tokens
    "over_vote": lambda trial: (
        trial["marks"][-1]["accuracy"] - _vote_at(trial["marks"][0]["votes"], trial["marks"][-1]["response_length"])
    ),
}

PAIRED: Mapping[str, Callable[[Trial, Trial], float]] = {"nats_saved": _nats_saved}  # of two runs with the same seed


def summarise(trials: Sequence[Trial]) -> dict[str, Any]:
    """column -> {mean, low, high, values}, over seeds; low and high are None for one seed."""
    return {name: _over_seeds([measure(trial, name) for trial in trials]) for name, _, _ in COLUMNS}


def judge(contrast: Contrast, trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """What became of a claim: {claim, measure, mean, low, high, values, verdict} of the difference, seed by seed."""
    more, name = trials[contrast.more], contrast.measure
    if not contrast.less:
        values = [measure(trial, name) for trial in more]
    elif name in PAIRED:
        values = [PAIRED[name](a, b) for a, b in zip(more, trials[contrast.less], strict=True)]
    else:
        values = [measure(a, name) - measure(b, name) for a, b in zip(more, trials[contrast.less], strict=True)]
    found = _over_seeds(values)
    if found["low"] is None:
        verdict = "one seed"
    else:
        verdict = YES if found["low"] > 0 else NO if found["high"] < 0 else OPEN
    return {"claim": contrast.claim, "measure": contrast.measure, **found, "verdict": verdict}


def thinking(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """[{step, scaling: [{budget, mean, low, high}], votes: [{k, tokens, mean, low, high}]}], over seeds."""
    found = []
    for marks in zip(*(trial["marks"] for trial in trials), strict=True):
        curve = [
            {"budget": points[0]["budget"], **_over_seeds([p["accuracy"] for p in points])}
            for points in zip(*(mark["scaling"] for mark in marks), strict=True)
        ]
        votes = [
            {
                "k": points[0]["k"],
                "tokens": sum(p["tokens"] for p in points) / len(points),
                **_over_seeds([p["accuracy"] for p in points]),
            }
            for points in zip(*(mark["votes"] for mark in marks), strict=True)
        ]
        found.append({"step": marks[0]["step"], "scaling": curve, "votes": votes})
    return found


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of a study."""
    seeds = results["seeds"]
    lines = [
        f"# {results['title']}",
        "",
        f"Seeds {', '.join(map(str, seeds))}. Brackets: 95 % intervals over seeds.",
        "",
    ]
    lines += ["| | " + " | ".join(heading for _, heading, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for label, arm in results["arms"].items():
        lines.append(f"| {label} | " + " | ".join(_cell(arm[name], kind) for name, _, kind in COLUMNS) + " |")
    lines += ["", "| claim | difference | |", "|---|---|---|"]
    lines += [f"| {c['claim']} | {_difference(c)} | {c['verdict']} |" for c in results["contrasts"]]
    if marks := results.get("thinking"):
        shares = [f"{100 * mark['step'] / marks[-1]['step']:.0f} % of RL" for mark in marks]
        head = ["", "| {} | " + " | ".join(shares) + " |", "|---" * (len(shares) + 1) + "|"]
        lines += [line.format("thinking tokens: accuracy") for line in head]
        for row in zip(*(mark["scaling"] for mark in marks), strict=True):
            lines.append(f"| {row[0]['budget']} | " + " | ".join(_cell(p, "percent") for p in row) + " |")
        lines += [line.format("voters: accuracy (tokens of all)") for line in head]
        for row in zip(*(mark["votes"] for mark in marks), strict=True):
            cells = " | ".join(f"{_cell(p, 'percent')} ({p['tokens']:.0f})" for p in row)
            lines.append(f"| {row[0]['k']} | {cells} |")
    return "\n".join(lines) + "\n"


# measures with a unit; all others are shares
NUMBERS = {"response_length": "tokens", "kl_start": "nats", "entropy": "nats", "nats_saved": "nats"}


def _difference(contrast: Mapping[str, Any]) -> str:
    """`+9.3 [+3.4, +15.1] points`."""
    name = contrast["measure"]
    if name in NUMBERS:
        return f"{_cell(contrast, 'number', '+')} {NUMBERS[name]}"
    return f"{_cell(contrast, 'percent', '+').replace(' %', '')} points"


def _cell(found: Mapping[str, Any], kind: str, sign: str = "") -> str:
    """`12.3 % [10.1, 14.5]`."""
    scale, digits, unit = (100, 1, " %") if kind == "percent" else (1, 2 if abs(found["mean"]) < 10 else 1, "")
    text = f"{scale * found['mean']:{sign}.{digits}f}{unit}"
    if found["low"] is None:
        return text
    return f"{text} [{scale * found['low']:{sign}.{digits}f}, {scale * found['high']:{sign}.{digits}f}]"


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    mean, low, high = mean_interval(values)
    known = not math.isnan(low)
    return {"mean": mean, "low": low if known else None, "high": high if known else None, "values": list(values)}


def _same_steps(out: Path, arm: Arm, runs: Mapping[int, Trial]) -> list[Trial]:
    """The runs. ConfigError: one was measured at other steps than the first, so a mean would mix them."""
    steps = {seed: [mark["step"] for mark in run["marks"]] for seed, run in runs.items()}
    first = next(iter(steps.values()))
    for seed, found in steps.items():
        if found != first:
            raise ConfigError(
                f"{_path(out, arm, seed)}: measured at steps {found}; expected {first}: delete this folder, and the "
                "same command makes the run again"
            )
    return list(runs.values())


def _path(out: Path, arm: Arm, seed: int) -> Path:
    return out / "runs" / arm.folder / f"seed{seed}"


def _read(out: Path, arm: Arm, seed: int) -> Trial:
    path = _path(out, arm, seed) / "trial.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: {error}; expected a finished run; delete it, and the same command repeats it"
        ) from error
