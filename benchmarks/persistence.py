# SPDX-License-Identifier: Apache-2.0
"""Did RL learn more than not to give up? A study's cold starts, forbidden to give up, against its policies after RL.

    python -m benchmarks.persistence STUDY [ARM]

STUDY is what `t1jax.study inference_scaling ... --out=STUDY` wrote, ARM one of the folders in its runs (default: base).
The policies of this arm and the cold starts that it began with are sampled again, on the study's held-out problems at
temperature 1, the cold starts with the end of thinking banned except after a line that claims "yes". Prints a table of
means over seeds with 95 % intervals, and of the differences seed by seed.

Deliberately not here: claims of the paper (t1jax.study).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = {  # name -> heading; shares in percent
    "accuracy": "right, %",
    "false_claims": "false claims, %",
    "gave_up": "gave up, %",
    "overlong": "overlong, %",
    "arithmetic": "sums right, %",
    "response_length": "length, tokens",
}


def measured(evaluator: Any, params: Any, questions: Sequence[Any], ban: bool) -> dict[str, float]:
    """The columns, of one response to each question."""
    from t1jax.evaluation import figures

    responses = evaluator.respond(params, "forbidden" if ban else "held_out", questions, forbid_giving_up=ban)
    found = figures.summary(responses)
    found |= {
        "overlong": sum(response.overlong for response in responses) / len(responses),
        "arithmetic": found["skills"]["arithmetic"],
    }
    return {name: float(found[name]) * (1 if name == "response_length" else 100) for name in COLUMNS}


def table(banned: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> str:
    """Markdown. `banned`, `after`: the columns of each seed, in the same order."""
    from t1jax.studies.significance import mean_interval

    differences = [{name: b[name] - a[name] for name in COLUMNS} for a, b in zip(banned, after, strict=True)]
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    rows = {"cold start, forbidden to give up": (banned, ""), "after RL": (after, ""), "difference": (differences, "+")}
    for label, (of_seeds, sign) in rows.items():
        cells = []
        for name in COLUMNS:
            mean, low, high = mean_interval([seed[name] for seed in of_seeds])
            cells.append(f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        print(__doc__)
        raise SystemExit(0 if sys.argv[1:] == ["--help"] else 2)
    from t1jax.config import load
    from t1jax.evaluation.evaluator import Evaluator
    from t1jax.evaluation.questions import ask_held_out
    from t1jax.studies.claims import cold_start_name
    from t1jax.studies.trial import opened

    study, arm = Path(sys.argv[1]), (*sys.argv[2:], "base")[0]
    runs = sorted(trial.parent for trial in study.glob(f"runs/{arm}/seed*/trial.json"))
    if not runs:
        arms = ", ".join(sorted({path.parts[-3] for path in study.glob("runs/*/seed*/trial.json")}))
        expected = f"one of {arms}" if arms else "what t1jax.study inference_scaling wrote"
        raise SystemExit(f"{study}: no finished run in runs/{arm}; expected {expected}")
    banned, after = [], []
    for run in runs:
        cfg = load(json.loads((run / "trial.json").read_text(encoding="utf-8"))["config"])
        with opened(cfg, study) as work:
            evaluator = Evaluator(cfg, work.mesh, work.task, work.tokenizer)
            questions = ask_held_out(work.task, work.tokenizer, cfg.eval.num_problems)
            cold = study / "cold" / cold_start_name(cfg) / "checkpoints/sft"
            banned.append(measured(evaluator, work.params(cold), questions, True))
            after.append(measured(evaluator, work.params(run / "checkpoints/rl"), questions, False))
        print(json.dumps({"seed": cfg.seed, "banned": banned[-1], "after": after[-1]}), flush=True)
    print(table(banned, after))


if __name__ == "__main__":
    main()
