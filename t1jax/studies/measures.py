# SPDX-License-Identifier: Apache-2.0
"""What is measured of the runs of a study: columns of its table, and the figures that its claims are about.

... -> evaluate -> **report**. A run is what trial.json holds: marks, the evaluations after some steps of RL, the first
one before it; and training, means over its last steps.
Deliberately not here: what a run measures (trial.py), the shapes of curves (shapes.py), tests of claims (findings.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t1jax.studies import shapes
from t1jax.studies.claims import Contrast

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
# measures with a unit; all others are shares
NUMBERS = {"response_length": "tokens", "kl_start": "nats", "entropy": "nats", "nats_saved": "nats"}


def values(contrast: Contrast, trials: Mapping[str, Sequence[Trial]]) -> list[float]:
    """The figure of a contrast, one a seed. `trials`: arm -> its runs, in the order of the seeds."""
    name = contrast.measure
    if name in ACROSS:
        return [ACROSS[name](runs) for runs in zip(*trials.values(), strict=True)]
    if not contrast.less:
        return [measure(run, name) for run in trials[contrast.more]]
    of = PAIRED.get(name, lambda a, b: measure(a, name) - measure(b, name))
    return [of(a, b) for a, b in zip(trials[contrast.more], trials[contrast.less], strict=True)]


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


def budget_curves(trial: Trial) -> list[list[float]]:
    """Accuracy at each budget of thinking, a curve for each mark."""
    return [[point["accuracy"] for point in mark["scaling"]] for mark in trial["marks"]]


def accuracies(trial: Trial) -> list[float]:
    """Accuracy at each mark."""
    return [mark["accuracy"] for mark in trial["marks"]]


def _vote_at(votes: Sequence[Mapping[str, float]], tokens: float) -> float:
    """The best accuracy of the votes that cost no more than `tokens`, and of the next larger one."""
    within = [v for v in votes if v["tokens"] <= tokens]
    beyond = next((v for v in votes if v["tokens"] > tokens), votes[-1])
    return max([beyond["accuracy"], *(v["accuracy"] for v in within)])


DERIVED: Mapping[str, Callable[[Trial], float]] = {
    "entropy": lambda trial: trial["training"]["entropy"],
    "rise": lambda trial: shapes.rise(budget_curves(trial)[-1]),
    "rise_gain": lambda trial: shapes.rise(budget_curves(trial)[-1]) - shapes.rise(budget_curves(trial)[0]),
    # thinking after RL, less a vote before RL that spends as many tokens
    "over_vote": lambda trial: (
        trial["marks"][-1]["accuracy"] - _vote_at(trial["marks"][0]["votes"], trial["marks"][-1]["response_length"])
    ),
    "flat_before": lambda trial: shapes.flat_before(budget_curves(trial)),
    "equal_at_smallest": lambda trial: shapes.equal_at_smallest(budget_curves(trial)),
    "fans_out": lambda trial: shapes.fans_out(budget_curves(trial)),
}

PAIRED: Mapping[str, Callable[[Trial, Trial], float]] = {"nats_saved": _nats_saved}  # of two runs with the same seed
ACROSS: Mapping[str, Callable[[Sequence[Trial]], float]] = {  # of the runs of all arms with the same seed, in order
    "ordered_at_end": lambda runs: shapes.ordered_at_end([accuracies(run) for run in runs]),
}
SHAPES = ("flat_before", "equal_at_smallest", "fans_out", "ordered_at_end")  # margins: above 0 where a run has it
