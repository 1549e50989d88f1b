# SPDX-License-Identifier: Apache-2.0
"""Checks that a finished workdir holds all that it should: `check_run.py WORKDIR`. One line a fault, exit code 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

STAGE = ("accuracy", "n", "low", "high", "response_length", "false_claims", "gave_up")
RESULTS = ("sft", "rl", "scaling", "seconds", "versions", "config", "by_difficulty", "greedy", "skills", "samples")
POINT = ("stage", "budget", "accuracy", "low", "high", "n")
ROW = (
    *("stage", "step", "loss", "reward", "accuracy", "response_length", "entropy", "kl_anchor", "overlong"),
    *("repetition", "garbled", "unscorable", "grad_norm", "learning_rate", "logprob_gap", "tokens_per_second"),
    "seconds",
)


def faults(workdir: Path) -> list[str]:
    """What is missing or wrong."""
    found = [
        f"{name}: missing"
        for name in ("results.json", "metrics.jsonl", "report.html")
        if not (workdir / name).is_file()
    ]
    if found:
        return found
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    found += [f"results.json: no {name}" for name in RESULTS if name not in results]
    for stage in ("sft", "rl"):
        found += [f"results.json: no {stage}.{name}" for name in STAGE if name not in results.get(stage, {})]
    for point in results.get("scaling", []):
        found += [f"results.json: no {name} in {point}" for name in POINT if name not in point]
    if not {point.get("stage") for point in results.get("scaling", [])} == {"sft", "rl"}:
        found.append("results.json: scaling lacks a stage")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        found += [
            f"metrics.jsonl: no {name} at {row.get('stage')} {row.get('step')}" for name in ROW if name not in row
        ]
    for stage in ("sft", "rl"):
        steps = [row["step"] for row in rows if row.get("stage") == stage]
        if not steps or steps != list(range(steps[0], steps[0] + len(steps))):
            found.append(f"metrics.jsonl: steps of {stage} are {steps}, expected one row each")
    gaps = [row["logprob_gap"] for row in rows if row.get("stage") == "rl"]
    if not all(gap is not None and gap <= 1e-3 for gap in gaps):
        found.append(f"metrics.jsonl: logprob_gap {gaps}, expected at most 1e-3 in float32")
    if not list(workdir.glob("*.png")):
        found.append("no PNG beside the report")
    return found


if __name__ == "__main__":
    problems = faults(Path(sys.argv[1]))
    print("\n".join(problems) or "results.json and metrics.jsonl are complete")
    sys.exit(bool(problems))
