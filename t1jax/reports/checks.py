# SPDX-License-Identifier: Apache-2.0
"""Checks of results and rows that were read from a workdir: can the report show them?

Deliberately not here: reading them (runs.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.config import ConfigError
from t1jax.host.place import Place
from t1jax.reports.wording import knob

STAGES = ("sft", "rl")
SHARE = ("low", "high", "n")  # and accuracy, or mean_reward
EXPECTED = "expected what a run wrote; let the same command train it again, or leave this run out"


NUMBERS = (
    "response_length", "gave_up", "false_claims", "unscorable", "strict_accuracy", "lenient_accuracy", "boxed",
    "attempts", "mean_reward",
)  # fmt: skip


def check_results(path: Place, results: Mapping[str, Any], stages: Sequence[str] = STAGES) -> None:
    """Checks that shares are whole, that lists hold such shares, and that everything else has its type.

    Raises:
      ConfigError: it is not so; the message names `path`.
    """

    def refuse(what: str) -> None:
        raise ConfigError(f"{path}: {what}; {EXPECTED}")

    for stage in stages:
        summary = results.get(stage)
        if stage == "sft" and summary is None and not was_measured_before(results):
            continue
        if not isinstance(summary, Mapping) or not is_share(summary):
            refuse(f"{stage} lacks accuracy, low, high or n")
            continue
        for name in NUMBERS:
            if not _is_number(summary.get(name)):
                refuse(f"{stage}.{name} is {summary[name]!r}")
        if not _are_numbers(summary.get("orders")):
            refuse(f"{stage}.orders is no table of numbers")
        if summary.get("forbidden_to_give_up") and not is_share(summary["forbidden_to_give_up"]):
            refuse(f"{stage}.forbidden_to_give_up lacks accuracy, low, high or n")
    for name, whole in (("scaling", _is_point), ("by_difficulty", _is_level), ("samples", _is_sample)):
        points = results.get(name) or []
        if not isinstance(points, list):
            refuse(f"{name} is a {type(points).__name__}")
        for point in points:
            if not (isinstance(point, Mapping) and point.get("stage") in STAGES and whole(point)):
                refuse(f"{name} has {str(point)[:60]}")
    for name in ("greedy", "skills", "seconds", "versions", "config"):
        if not isinstance(results.get(name) or {}, Mapping):
            refuse(f"{name} is a {type(results[name]).__name__}")
    for stage, share in (results.get("greedy") or {}).items():
        if not is_share(share):
            refuse(f"greedy.{stage} lacks accuracy, low, high or n")
    for stage, skills in (results.get("skills") or {}).items():
        if not _are_numbers(skills):
            refuse(f"skills.{stage} has what is no number")
    if not _are_numbers(results.get("seconds")):
        refuse("seconds holds what is no number")


def was_measured_before(results: Mapping[str, Any]) -> bool:
    """Whether the run measures before RL; eval.before = False says that it does not."""
    return knob(results.get("config"), "eval.before") is not False


def is_share(share: Any) -> bool:
    """Whether it has an accuracy or a mean reward, its interval and its n."""
    if not isinstance(share, Mapping):
        return False
    names = (
        "accuracy" if share.get("mean_reward") is None or share.get("accuracy") is not None else "mean_reward",
        *SHARE,
    )
    return all(share.get(name) is not None and _is_number(share[name]) for name in names)


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row of metrics.jsonl has values that a chart can show."""
    return isinstance(row["step"], int) and all(_is_number(v) or isinstance(v, str) for v in row.values())


def _is_point(point: Mapping[str, Any]) -> bool:
    return is_share(point) and point.get("budget") is not None and _is_number(point["budget"])


def _is_level(share: Mapping[str, Any]) -> bool:
    return is_share(share) and isinstance(share.get("difficulty"), int | float | str)


def _is_sample(sample: Mapping[str, Any]) -> bool:
    return all(isinstance(sample.get(name), str) for name in ("prompt", "response"))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _are_numbers(table: Any) -> bool:
    return not table or (isinstance(table, Mapping) and all(map(_is_number, table.values())))
