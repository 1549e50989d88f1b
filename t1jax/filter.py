# SPDX-License-Identifier: Apache-2.0
"""Command line: T1's problem filter, which keeps the problems that the model rarely solves.

    python -m t1jax.filter --checkpoint=DIR --data=train.jsonl --out=kept.jsonl

It selects the prompts of RL. A problem that the model nearly always solves teaches nothing, because the leave-one-out
reward of a group of right answers is zero. Sampling uses RL's temperature, so the pass rate is the one that training
will see.
Source: T1 (arXiv 2501.11651) section 3: solved in at most 30 % of 16 attempts.
Deliberately not here: sampling and judging (evaluation/evaluator.py).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from t1jax import checks
from t1jax.config import ConfigError
from t1jax.host import command_line, place
from t1jax.host.place import Place

if TYPE_CHECKING:
    from t1jax.evaluation.responses import Response

USAGE = """\
usage: python -m t1jax.filter --checkpoint=DIR --data=FILE --out=FILE.jsonl [--samples=N] ...

T1's filter: keeps the problems of a file that the model rarely solves, with their pass rates.

  --checkpoint=DIR      weights: OWNER/NAME of the Hugging Face hub, such a model's folder, output of t1jax.convert,
                        or a workdir (default: model.checkpoint of the config)
  --data=FILE           problems: JSON lines, a JSON array, CSV or Parquet, or OWNER/NAME:SPLIT of the Hugging Face hub
                        (default: data.train of the config)
  --out=FILE.jsonl      the rows that are kept, in order, with all their columns and `pass_rate`;
                        FILE.responses.jsonl beside it has every response: the same command resumes from it
  --samples=N           responses per problem (default: 16)
  --max_pass_rate=X     keep a problem if at most this share of its responses is right, or its mean reward is at
                        most this where reward.function knows no right and wrong (default: 0.3)
  --min_pass_rate=X     ... and at least this share; 0 keeps problems that were never solved (default: 0)
  --temperature=T       sampling temperature (default: rl.temperature)
  --limit=N             only the first N problems
  --config=FILE         a Python file with get_config() (default: that of the run, if --checkpoint is a workdir, else
                        configs/base.py); the sizes of the model come from the checkpoint
  --config.KNOB=...     set any other knob, such as --config.rl.max_new_tokens=4096 (maximum response length)
  --help                show this text

Exit codes: 0 success, 1 failure (names the file of its traceback), 2 error in flags or files, 3 disk full,
130 interrupted.
"""
DEFAULT_CONFIG = "configs/base.py"
COLUMN = "pass_rate"


def cli() -> None:
    """What `python -m t1jax.filter` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.filter", USAGE, _run, argv)


def pass_rates(responses: Sequence[Response]) -> dict[int, float | None]:
    """row of the file -> share of right responses among the scorable ones, or mean reward; None if there is none."""
    from t1jax.evaluation import figures

    return figures.pass_rates(responses, lambda response: response.row)


def verdict(rate: float | None, lowest: float, highest: float) -> str:
    """What becomes of a problem: kept, too easy, too hard or unscorable."""
    if rate is None:
        return "unscorable"
    return "too easy" if rate > highest else "too hard" if lowest and rate < lowest else "kept"  # 0: no floor


def write_kept(path: str, out: Place, rates: Mapping[int, float | None], lowest: float, highest: float) -> Counter[str]:
    """Writes the rows of `path` that are kept to `out`, whole or not at all; returns how many rows met each verdict.

    All columns stay as they are, and pass_rate is set. What JSON cannot hold, such as a date of Parquet, becomes text.
    Rows without a rate are those that no problem could be made of.
    """
    from t1jax.host import files
    from t1jax.tasks.files.rows import read_rows

    counts, lines = Counter[str](), []
    for number, row in read_rows(path):
        if number not in rates:
            counts["not asked"] += 1
            continue
        counts[found := verdict(rates[number], lowest, highest)] += 1
        if found == "kept":
            lines.append(json.dumps({**row, COLUMN: rates[number]}, default=str) + "\n")
    files.write_text(out, "".join(lines))
    return counts


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("checkpoint", None, "", values)
    flags.DEFINE_string("data", None, "", values)
    flags.DEFINE_string("out", None, "", values)
    flags.DEFINE_integer("samples", 16, "", 1, 1000, flag_values=values)
    flags.DEFINE_float("max_pass_rate", 0.3, "", 0.0, 1.0, flag_values=values)
    flags.DEFINE_float("min_pass_rate", 0.0, "", 0.0, 1.0, flag_values=values)
    flags.DEFINE_float("temperature", None, "", 0.0, flag_values=values)
    flags.DEFINE_integer("limit", None, "", 1, flag_values=values)


def _run(argv: list[str]) -> None:
    cfg, values, extra = command_line.read_config(argv, _define, DEFAULT_CONFIG)
    if extra:
        raise ConfigError(f"unexpected argument {extra[0]!r}; flags start with --, see --help")
    data, out = values.data or cfg.data.train, command_line.out_file(values.out)
    temperature = cfg.rl.temperature if values.temperature is None else values.temperature
    if not data:
        raise ConfigError("--data is missing; expected a file of problems")
    if len(checks.train_files(data)) > 1:
        raise ConfigError(f"--data={data}; expected one file: filter them one after the other")
    data = place.data(data, "--data")
    if place.same(data, out):
        raise ConfigError(f"--out={out} is --data; expected another file: the problems are never overwritten")
    if values.min_pass_rate > values.max_pass_rate:
        raise ConfigError(
            f"--min_pass_rate={values.min_pass_rate}; expected at most --max_pass_rate={values.max_pass_rate}"
        )
    if temperature == 0 and values.samples > 1:
        raise ConfigError(f"--temperature=0 with {values.samples} samples, which would all be the same; expected more")

    from t1jax.devices import multihost
    from t1jax.evaluation.journal import Journal
    from t1jax.evaluation.opened import open_checkpoint
    from t1jax.evaluation.questions import ask_file
    from t1jax.host.progress import Progress
    from t1jax.rewards.verifier import Verifier
    from t1jax.tasks.files.task import FileGrader
    from t1jax.tasks.rewarded import rewarded

    opened = open_checkpoint(cfg, values.checkpoint, argv)
    cfg, tokens = opened.cfg, opened.for_files()
    with Progress() as progress, Verifier(cfg.verifier) as verifier:
        task = FileGrader(cfg, tokens, verifier)
        problems, notes = task.read(data, values.limit)
        for note in notes:
            progress.note(note)
        with rewarded(task, cfg, lambda: problems[0]) as judging:
            evaluator, params, origin = opened.evaluator(judging, progress)
            responses = evaluator.respond(
                params, "filter", ask_file(task, tokens, problems), samples=values.samples, temperature=temperature,
                truncate=True, journal=Journal(out.with_suffix(".responses.jsonl"), {**origin, "data": data}),
            )  # fmt: skip
    if multihost.is_main():
        counts = write_kept(data, out, pass_rates(responses), values.min_pass_rate, values.max_pass_rate)
        words = (f"{counts[name]} {name}" for name in ("kept", "too easy", "too hard", "unscorable", "not asked"))
        print(f"{out}: {', '.join(words)}")


if __name__ == "__main__":
    cli()
