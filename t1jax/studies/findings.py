# SPDX-License-Identifier: Apache-2.0
"""The results of studies: means with 95 % intervals, tests of their claims, tables, plots.

... -> evaluate -> **report**, over several runs. The unit is a run: intervals are over seeds, by Student's
distribution, and two arms are compared seed by seed, because runs with the same seed start from the same weights and
answer the same problems. With one seed there is no interval, and no claim is tested. Claims are judged together: p is
corrected for all claims whose results are in one folder.
Deliberately not here: which arms and claims (claims.py), measures (measures.py), tests (significance.py), Markdown
(tables.py), figures (plots.py, curves.py).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t1jax.config import Config, ConfigError
from t1jax.host import files
from t1jax.host.place import Place
from t1jax.studies import curves, measures, shapes, significance, tables
from t1jax.studies import plots as study_plots
from t1jax.studies.claims import STUDIES, Arm, Contrast
from t1jax.studies.measures import COLUMNS, Trial, measure

YES, NO, OPEN, ONE = "holds", "the other way", "not told apart", "one seed"


def write(name: str, base: Config, seeds: Sequence[int], out: Path) -> None:
    """Writes results.json and the plots of a study whose runs lie in `out`, to `out`/NAME. `write_summary` judges it.

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
        "contrasts": [compare(contrast, trials) for contrast in study.contrasts],
    }
    if name == "inference_scaling":
        results["thinking"] = thinking(trials["base"])
    if name == "oversampling":
        results["steps"] = over_steps(trials)
    files.write_json(out / name / "results.json", results)
    files.write_bytes(out / name / "plot.png", study_plots.draw(name, study.measure, trials, results))
    if (beside := curves.draw(results)) is not None:
        files.write_bytes(out / name / "paper.png", beside)


def write_summary(out: Path) -> Place:
    """Judges the claims of all studies in `out` together: writes results.json and table.md of each, and summary.md."""
    paths = [path for name in STUDIES if (path := out / name / "results.json").exists()]
    studies = [dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    judged = iter(conclude([claim for results in studies for claim in results["contrasts"]]))
    for path, results in zip(paths, studies, strict=True):
        results["contrasts"] = list(itertools.islice(judged, len(results["contrasts"])))
        files.write_json(path, results)
        files.write_text(path.with_name("table.md"), tables.markdown(results))
    return files.write_text(out / "summary.md", tables.summary(studies))


def summarise(trials: Sequence[Trial]) -> dict[str, Any]:
    """column -> {mean, low, high, values}, over seeds; low and high are None for one seed."""
    return {name: _over_seeds([measure(trial, name) for trial in trials]) for name, _, _ in COLUMNS}


def compare(contrast: Contrast, trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """{claim, measure, mean, low, high, values, paper} of the difference, seed by seed."""
    found = _over_seeds(measures.values(contrast, trials))
    return {"claim": contrast.claim, "measure": contrast.measure, **found, "paper": contrast.paper}


def conclude(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What became of claims that are tested together.

    Each with {p, p_holm, verdict, effect, seeds_needed, seeds_needed_holm}. p is None for one seed. `effect` is the
    paper's or else what was seen; seeds_needed tell it apart with a power of 80 %, seeds_needed_holm after the
    strictest step of Holm's correction: None if that is unknown, or more than significance.MOST.
    """
    tested = [claim for claim in claims if len(claim["values"]) > 1]
    corrected = iter(significance.holm([significance.p_value(claim["values"]) for claim in tested]))
    found = []
    for claim in claims:
        told: dict[str, Any] = {"p": None, "p_holm": None, "verdict": ONE}
        if len(claim["values"]) > 1:
            p_holm = next(corrected)
            apart = YES if claim["mean"] > 0 else NO
            verdict = apart if p_holm < significance.LEVEL else OPEN
            told = {"p": significance.p_value(claim["values"]), "p_holm": p_holm, "verdict": verdict}
        paper = claim.get("paper")  # which results of older versions do not have
        effect = claim["mean"] if paper is None else paper
        s = significance.spread(claim["values"])
        told["seeds_needed"] = significance.seeds_needed(effect, s)
        told["seeds_needed_holm"] = significance.seeds_needed(effect, s, len(tested))
        found.append({**claim, **told, "paper": paper, "effect": effect})
    return found


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


def over_steps(trials: Mapping[str, Sequence[Trial]]) -> dict[str, Any]:
    """{at, curves: {arm: [{mean, low, high}]}, crossings: [{arms, values}]} of accuracy at the steps of all arms.

    `values` of two arms holds, for each seed, the steps where they change places.
    """
    at = sorted(set.intersection(*({mark["step"] for mark in runs[0]["marks"]} for runs in trials.values())))
    curve = {  # arm -> seed -> accuracy at each of these steps
        label: [[mark["accuracy"] for mark in run["marks"] if mark["step"] in at] for run in runs]
        for label, runs in trials.items()
    }
    crossings = [
        {"arms": [a, b], "values": [shapes.crossings(at, x, y) for x, y in zip(curve[a], curve[b], strict=True)]}
        for a, b in itertools.combinations(curve, 2)
    ]
    means = {label: [_over_seeds(points) for points in zip(*runs, strict=True)] for label, runs in curve.items()}
    return {"at": at, "curves": means, "crossings": crossings}


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    mean, low, high = significance.mean_interval(values)
    known = not math.isnan(low)
    return {"mean": mean, "low": low if known else None, "high": high if known else None, "values": list(values)}


def _same_steps(out: Path, arm: Arm, runs: Mapping[int, Trial]) -> list[Trial]:
    """The runs. ConfigError: one was measured at other steps than the one with most, so a mean would mix them."""
    steps = {seed: [mark["step"] for mark in run["marks"]] for seed, run in runs.items()}
    first = max(steps.values(), key=len)  # a run of an older version has fewer
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
