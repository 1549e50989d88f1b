# SPDX-License-Identifier: Apache-2.0
"""What results.json says of a finished run, from its metrics rows and its two measurements.

Deliberately not here: the measurements (stages.py), the page (reports/).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from t1jax.checks import weighed
from t1jax.config import Config, ConfigError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "numpy")
LISTS = ("by_difficulty", "scaling", "samples")  # of a measurement; those of both stages are put together
FATES = ("trained", "skipped", "unscorable", "no_advantage")  # columns of RL, after `tokens_` (step_report.py)
NOT_KEPT = "not_kept"  # likewise, with rl.overdraw


def tokens(
    rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any] | None, last: Mapping[str, Any], filtered: int
) -> dict[str, int] | None:
    """All tokens that were sampled, and what became of them: `generated` is the sum of the others.

    Those of steps that a kill undid are counted once, and apart (usage.py). None: older versions did not count.
    `first` is None where nothing was measured before RL.
    """
    steps = [row for row in rows if row["stage"] == "rl"]
    measured = [*(x for x in (first, last) if x is not None), *(row for row in rows if row["stage"] == "evaluate")]
    if any(f"tokens_{FATES[0]}" not in row for row in steps) or any("tokens" not in each for each in measured):
        return None
    names = FATES + (NOT_KEPT,) * any(f"tokens_{NOT_KEPT}" in row for row in steps)
    found = {name: sum(int(row.get(f"tokens_{name}") or 0) for row in steps) for name in names}
    found |= {"evaluation": sum(int(each["tokens"] or 0) for each in measured), "filter": filtered}
    return {"generated": sum(found.values()), **found}


def sources(cfg: Config, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """file, weight and share of the prompts that RL drew, of each of several files of data.train; else []."""
    files = weighed(cfg.data)
    shares = [[row[f"source_{n}"] for row in rows if f"source_{n}" in row] for n, _ in enumerate(files, 1)]
    return [
        {"file": name, "weight": weight, "share": sum(share) / len(share)}
        for (name, weight), share in zip(files, shares, strict=True)
        if share
    ]


def collect(
    cfg: Config,
    rows: Sequence[Mapping[str, Any]],
    first: Mapping[str, Any] | None,
    last: Mapping[str, Any],
    filtered: int = 0,
) -> dict[str, Any]:
    """The content of results.json from what was measured before and after RL.

    Where `first` is None (eval.before is False), `sft` is null and nothing else is of that stage. `filtered`: tokens
    that the filter sampled.
    """
    seconds = dict.fromkeys(("sft", "rl", "evaluate"), 0.0)
    for row in rows:
        if row["stage"] not in seconds or not isinstance(row.get("seconds"), int | float):
            raise ConfigError(f"metrics.jsonl: step {row['step']} of {row['stage']!r} is no row of a run; delete it")
        seconds[row["stage"]] += row["seconds"]
    measured = ({"sft": first} if first else {}) | {"rl": last}
    seconds |= {f"measure_{stage}": found["seconds"] for stage, found in measured.items()}
    return {
        "sft": first["summary"] if first else None,
        "rl": last["summary"],
        "greedy": {stage: found["greedy"] for stage, found in measured.items()},
        "skills": {stage: found["summary"].get("skills", {}) for stage, found in measured.items()},
        **{name: [x for found in measured.values() for x in found[name]] for name in LISTS},
        "tokens": tokens(rows, first, last, filtered),
        **({"sources": found} if (found := sources(cfg, rows)) else {}),
        "seconds": seconds | {"total": sum(seconds.values())},
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "config": cfg.to_dict(),
    }
