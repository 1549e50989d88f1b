# SPDX-License-Identifier: Apache-2.0
"""The command line of evaluation: a checkpoint and files of problems -> responses, figures, tables, plots.

    python -m t1jax.evaluate --checkpoint=DIR --data=math500.jsonl --samples=4 --out=DIR

checkpoint -> prompts -> rollouts -> rewards -> **evaluate** -> report. In --out:

    NAME/responses.jsonl   every response and verdict of a benchmark, see responses.py
    NAME/budget-N.jsonl    likewise, of those whose thinking was cut after N tokens; with the answerer's name if it is
                           not the model itself; budget-N-box.jsonl where the answer had to be asked for a box
    results.json           all figures; results.md the same as tables
    samples.png, scaling.png, NAME/groups.png

Deliberately not here: how any of it is done (evaluation/, reports/plots.py).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from t1jax.checks import reward_terms
from t1jax.config import BenchmarkConfig, Config, ConfigError, RewardConfig
from t1jax.host import command_line, place
from t1jax.host.place import Place

if TYPE_CHECKING:
    from t1jax.evaluation.opened import Opened

USAGE = """\
usage: python -m t1jax.evaluate --checkpoint=DIR --data=FILE --out=DIR [--samples=N] [--temperature=T] ...
       python -m t1jax.evaluate --config=configs/eval_t1.py --checkpoint=DIR --out=DIR ...

Evaluates a model: pass@1, pass@k and maj@k with 95 % intervals, by subject, level and thinking budget. With
--config.reward.function=FILE.py:NAME: the mean reward of that function.

  --checkpoint=DIR    weights, local or gs://: OWNER/NAME of the Hugging Face hub, such a model's folder, output of
                      t1jax.convert, or a workdir (default: model.checkpoint of the config)
  --data=FILE         problems: JSON lines, a JSON array, CSV or Parquet, local, gs:// or s3://, or OWNER/NAME:SPLIT of
                      the Hugging Face hub (default: all benchmarks of the config)
  --out=DIR           output, local or gs://, which the same command resumes from
  --samples=N         responses per problem (default: 1, or as the benchmark says)
  --temperature=T     sampling temperature; 0 is greedy (default: 1)
  --budgets=N,N,...   for each N, cut the thinking after N tokens and have it answered: by the model itself, or with
                      --config.scaling.answerer=base by the model that the run began with, or =DIR by another one
  --limit=N           only the first N problems of each file
  --config=FILE       a Python file with get_config() (default: that of the run, if --checkpoint is a workdir, else
                      configs/base.py); the sizes of the model come from the checkpoint
  --config.KNOB=...   set any other knob, such as --config.rl.max_new_tokens=4096 (maximum response length),
                      --config.data.prompt_length=512, --config.eval.batch_size=64
  --help              show this text

Exit codes: 0 success, 1 failure (names the file of its traceback), 2 error in flags or files, 3 disk full,
130 interrupted.
"""
DEFAULT_CONFIG = "configs/base.py"
MOST_SAMPLES = 1000  # see statistics.majority_at_k


def cli() -> None:
    """What `python -m t1jax.evaluate` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.evaluate", USAGE, _run, argv)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("checkpoint", None, "", values)
    flags.DEFINE_string("data", None, "", values)
    flags.DEFINE_string("out", None, "", values)
    flags.DEFINE_integer("samples", None, "", 1, MOST_SAMPLES, flag_values=values)
    flags.DEFINE_float("temperature", 1.0, "", 0.0, flag_values=values)
    flags.DEFINE_string("budgets", "", "", values)
    flags.DEFINE_integer("limit", None, "", 1, flag_values=values)


def _run(argv: list[str]) -> None:
    cfg, values, extra = command_line.read_config(argv, _define, DEFAULT_CONFIG)
    if extra:
        raise ConfigError(f"unexpected argument {extra[0]!r}; flags start with --, see --help")
    budgets = _budgets(values.budgets)
    benchmarks = _benchmarks(cfg, values)
    with _given_back(place.of(values.out or "", "--out")):
        _evaluate_all(cfg, values, argv, budgets, benchmarks, _folder(values.out))


@contextmanager
def _given_back(out: Place) -> Iterator[None]:
    """A folder that the body makes goes again if it fails before it writes there."""
    there = out.exists()
    try:
        yield
    except BaseException:
        if not there and isinstance(out, Path):
            with suppress(OSError):  # it holds something
                out.rmdir()
        raise


def _evaluate_all(
    cfg: Config,
    values: flags.FlagValues,
    argv: list[str],
    budgets: Sequence[int],
    benchmarks: Mapping[str, BenchmarkConfig],
    out: Place,
) -> None:
    """Evaluates on each of the benchmarks, and writes the files of `out`."""
    from t1jax.devices import multihost
    from t1jax.evaluation import benchmark
    from t1jax.evaluation.opened import open_checkpoint
    from t1jax.evaluation.tables import sheets, show
    from t1jax.host.progress import Progress
    from t1jax.rewards.verifier import Verifier
    from t1jax.tasks.files.task import FileGrader
    from t1jax.tasks.rewarded import rewarded

    opened = open_checkpoint(cfg, values.checkpoint, argv)
    if budgets:
        opened = opened.with_base()
    tokens = opened.for_files(budgets)

    found: dict[str, Any] = {}
    with Progress() as progress, Verifier(cfg.verifier) as verifier, ExitStack() as stack:
        task = FileGrader(opened.cfg, tokens, verifier)
        read = {}
        for name, asked in benchmarks.items():
            try:
                read[name] = task.read(asked.data, values.limit)
            except ConfigError as error:
                if values.data:
                    raise
                raise ConfigError(f"{error}; set --config.benchmarks.{name}.data=FILE") from error
            for note in read[name][1]:
                progress.note(note)
        judging = stack.enter_context(rewarded(task, opened.cfg, lambda: next(iter(read.values()))[0][0]))
        evaluator, params, origin = opened.evaluator(judging, progress)
        for name, (problems, _) in read.items():
            found[name] = benchmark.evaluate(
                evaluator, params, origin, name, benchmarks[name], problems, out / name, values.temperature, budgets
            )
            if multihost.is_main():
                notes = [note for _, others in read.values() for note in others]
                _report(out, opened, values.temperature, found, notes)
        if multihost.is_main():
            tables = sheets(found)
    if multihost.is_main():
        show(tables, progress.console)
        print(f"results: {(out / 'results.md').resolve()}")


def _report(out: Place, opened: Opened, temperature: float, found: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Writes results.json, results.md and the plots of the benchmarks so far."""
    from t1jax.evaluation.tables import markdown, sheets
    from t1jax.host import files
    from t1jax.reports import plots

    settings = {
        "checkpoint": opened.where,
        "temperature": temperature,
        "max_new_tokens": opened.cfg.rl.max_new_tokens,
        "seed": opened.cfg.seed,
        "reward": _reward(opened.cfg.reward),
    } | ({"answerer": opened.cfg.scaling.answerer} if any(result["budgets"] for result in found.values()) else {})
    files.write_json(out / "results.json", {**settings, "benchmarks": found, "notes": notes})
    said = [f"{name}: {value}" for name, value in settings.items()]
    files.write_text(out / "results.md", markdown(sheets(found), [*said, *notes]))
    several = {name: result for name, result in found.items() if result["samples"] > 1 and result["pass_at_k"]}
    if several:
        files.write_bytes(out / "samples.png", plots.draw_samples(several, plots.LIGHT))
    points = [
        {"stage": name, "budget": point["budget"], figure: point[column]["value"], **point[column]}
        for name, result in found.items()
        for point in result["budgets"]
        for figure, column in (("accuracy", "pass@1"), ("mean_reward", "mean_reward"))
        if column == ("pass@1" if "pass@1" in point else "mean_reward") and point[column]["value"] is not None
    ]
    if points:
        files.write_bytes(out / "scaling.png", plots.draw_scaling(points, plots.LIGHT))
    for name, result in found.items():
        if result["by"] and "pass@1" in result:
            files.write_bytes(out / name / "groups.png", plots.draw_groups(name, result["by"], plots.LIGHT))


def _reward(reward: RewardConfig) -> str:
    """What responses are judged by: `correct`, FILE.py:NAME, or several with their weights."""
    terms = reward_terms(reward)
    return terms[0][0] if len(terms) == 1 and terms[0][1] == 1 else ", ".join(f"{w:g} x {name}" for name, w in terms)


def _budgets(text: str) -> list[int]:
    """The numbers of --budgets, smallest first."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and len(part) <= 10 and 0 < int(part) < 2**31 for part in parts):
        raise ConfigError(f"--budgets={text}; expected positive whole numbers like 512,1024")
    return sorted(set(map(int, parts)))


def _benchmarks(cfg: Config, values: flags.FlagValues) -> dict[str, BenchmarkConfig]:
    """name -> what to sample: the file of --data, or the config's, with --samples if that is given."""
    if values.data is not None:
        data = place.data(values.data, "--data", "test")
        name = re.sub(r"[^\w-]", "_", Path(data).name.split(".")[0]) or "data"
        found = {name: BenchmarkConfig(data, values.samples or 1)}
    else:
        found = {
            name: dataclasses.replace(benchmark, samples=values.samples or benchmark.samples)
            for name, benchmark in cfg.benchmarks.items()
        }
    if not found:
        raise ConfigError("--data is missing; expected a file of problems, or --config=configs/eval_t1.py")
    for name, benchmark in found.items():
        if benchmark.samples > MOST_SAMPLES:
            raise ConfigError(f"benchmarks.{name}.samples is {benchmark.samples}; expected at most {MOST_SAMPLES}")
        if benchmark.samples > 1 and values.temperature == 0:
            raise ConfigError(
                f"--temperature=0 with {benchmark.samples} samples of {name}, which would all be the same; expected "
                "--samples=1, or a temperature above 0"
            )
    return found


def _folder(out: str | None) -> Place:
    """The folder --out, made if need be."""
    if not out:
        raise ConfigError("--out is missing; expected a folder for the output")
    return command_line.out_folder(place.of(out, "--out"))


command_line.callable_module(__name__)
if __name__ == "__main__":
    cli()
