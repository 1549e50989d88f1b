# SPDX-License-Identifier: Apache-2.0
"""Command line: how responses reach their answers. Prints tables, draws plots, writes a page to browse them.

    python -m t1jax.analyze workdirs/tiny

... -> evaluate -> **behaviour** -> report. Source: T1 (arXiv 2501.11651) section 3.
Deliberately not here: reading files (saved.py), what counts as what (behaviour.py, prose.py), the page (page.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from t1jax.config import Config, ConfigError
from t1jax.host import command_line, place
from t1jax.host.place import Place
from t1jax.typed import inert

if TYPE_CHECKING:
    from t1jax.behaviour.behaviour import Behaviour
    from t1jax.evaluation.saved import Evaluation
    from t1jax.evaluation.tables import Sheet
    from t1jax.tasks.task import Task

USAGE = """\
usage: python -m t1jax.analyze DIR [--out=DIR]

Analyses how responses reach their answers: attempts, reflections, backtracks, verifications, repeated attempts; how
often the first attempt is right, and how often the model recovers from a wrong one; how they end; their length.
Prints a table and writes behaviour.json, behaviour.md, PNGs over training, and behaviour.html, a self-contained page
to browse all responses.

  DIR         a run's workdir, a file of responses, or a folder of such files: saved by a run (eval.keep_responses), by
              t1jax.evaluate in --out, or by t1jax.filter beside its --out
  --out=DIR   where to write (default: DIR, or the folder of the file)
  --help      show this text

Responses to the embedded task are parsed by its rules, with the knobs in the workdir's config.json; all others are
searched for keywords. Exit codes: 0 success, 1 failure (names the file of its traceback), 2 error in flags or files,
3 disk full, 130 interrupted.
"""
COLUMNS = 6  # evaluations that a table shows


def cli() -> None:
    """What `python -m t1jax.analyze` calls."""
    command_line.leave(main(sys.argv))


def main(argv: list[str]) -> int:
    """Runs the command line `argv` (program name first); returns the exit code."""
    return command_line.call("t1jax.analyze", USAGE, _run, argv, "interrupted; no file is left half-written")


def behaviours_of(evaluation: Evaluation, task: Task | None) -> list[Behaviour]:
    """What each response of an evaluation does: by the rules of the embedded `task`, or by words where that is None.

    Raises:
      ConfigError: the responses do not belong to the task, or it has no rules.
    """
    from t1jax.behaviour.behaviour import of_lines, of_text

    if task is None:
        return [of_text(r.text, r.gold, r.outcome, r.tokens, r.overlong) for r in evaluation.responses]
    found = []
    for record in evaluation.responses:
        problem = task.problem(record.problem, "held_out")
        if task.prompt(problem) != record.prompt:
            raise ConfigError(
                f"{evaluation.path}: problem {record.problem} is not the one that the config.json beside it describes; "
                "expected the config of the run that saved these responses"
            )
        analysis = task.analyse(problem, record.text)
        if analysis is None:
            return behaviours_of(evaluation, None)
        found.append(of_lines(analysis, record.outcome, record.tokens, record.overlong))
    return found


def embedded_task(path: Place) -> tuple[Task | None, str]:
    """(the embedded task that the config.json of `path` names, how the responses are read, in words).

    Args:
      path: a workdir, its folder of responses, or one of their files.

    Raises:
      ConfigError: config.json cannot be read.
    """
    from t1jax.config import load
    from t1jax.tasks.countdown.task import CountdownTask
    from t1jax.tasks.pairs.task import PairsTask

    for folder in (path, *path.absolute().parents[:2]):
        file = folder / "config.json"
        if file.is_file():
            break
    else:
        return None, "by keywords: no config.json is beside the responses"
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        cfg: Config = load(tree)
    except (OSError, ValueError) as error:  # ConfigError is a ValueError
        raise ConfigError(f"{file}: {error}; expected the knobs of a run, as this version writes them") from error
    if cfg.data.train or cfg.task.name == "gym":
        return None, "by keywords"
    task: Task = CountdownTask(cfg.task) if cfg.task.name == "countdown" else PairsTask(cfg.task)
    return task, "by the rules of the embedded task"


def sheets(summaries: Sequence[Mapping[str, Any]], columns: int = COLUMNS) -> list[Sheet]:
    """The tables: measures in rows, evaluations in columns: the first, the last, and as many between as there is room.

    Args:
      columns: at most so many evaluations, 2 or more.
    """
    from t1jax.behaviour.behaviour import MEANS, STOPS
    from t1jax.evaluation.tables import Sheet, percent

    last = len(summaries) - 1
    places = {round(i * last / (columns - 1)) for i in range(columns)} if last >= columns else range(last + 1)
    shown = [summaries[place] for place in sorted(places)]

    def row(name: str, cell: Any) -> list[str]:
        return [name, *(cell(s) for s in shown)]

    def number(figure: Mapping[str, Any]) -> str:
        if figure["value"] is None:
            return "-"
        value, low, high = (None if figure[n] is None else f"{figure[n]:,.1f}" for n in ("value", "low", "high"))
        return f"{value}" if low is None else f"{value} [{low}, {high}]"

    rows = [
        row("responses", lambda s: f"{s['responses']:,}"),
        row("unscorable", lambda s: f"{s['unscorable']:,}"),
        row("right %", lambda s: percent(s["accuracy"])),
        row("first attempt right %", lambda s: percent(s["first_attempt"])),
        row("recovered after a wrong one %", lambda s: percent(s["recovery"])),
        row("lost after a right one %", lambda s: percent(s["loss"])),
        *(row(f"{name} %", lambda s, n=name: percent(s["habits"][n])) for name in shown[0]["habits"]),
        row("repeated of all attempts %", lambda s: percent(s["repeated"])),
    ]
    if shown[0]["false_claims"] is not None:
        rows.append(row("false claim %", lambda s: percent(s["false_claims"])))
    rows += [row(f"{stop} %", lambda s, n=stop: percent(s["stops"][n])) for stop in STOPS]
    rows += [row(f"{name} a response", lambda s, n=name: number(s["means"][n])) for name in MEANS]
    rows += [
        row("tokens", lambda s: number(s["length"])),
        row("tokens of right ones", lambda s: number(s["length_right"])),
        row("tokens of wrong ones", lambda s: number(s["length_wrong"])),
    ]
    found = [Sheet("Behaviour, 95 % intervals", ["", *(s["name"] for s in shown)], rows)]
    turns = [(s["name"], s["turns"]) for s in shown if s["turns"]]
    if turns:
        lines = [[name, ", ".join(f"{words} {count}" for words, count in listed)] for name, listed in turns]
        found.append(Sheet("How steps begin that follow a wrong attempt, in right responses", ["", "words"], lines))
    return found


def pictures(summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bytes, bytes]]:
    """(name, caption, PNG in light, in dark) of each plot; those over training only if there are two steps."""
    from t1jax.behaviour import plots as over
    from t1jax.reports.plots import DARK, LIGHT

    timed = over.over_training(summaries)
    ends = summaries[:1] if len(summaries) == 1 else [summaries[0], summaries[-1]]
    lengths = (over.LENGTHS_NAME, over.LENGTHS_CAPTION, over.draw_lengths(ends, LIGHT), over.draw_lengths(ends, DARK))
    if len(timed) < 2:
        return [lengths]
    found = [
        (plot.name, plot.caption, over.draw_lines(plot, timed, LIGHT), over.draw_lines(plot, timed, DARK))
        for plot in over.PLOTS
    ]
    stops = (over.draw_stops(timed, LIGHT), over.draw_stops(timed, DARK))
    return [*found, (over.STOPS_NAME, over.STOPS_CAPTION, *stops), lengths]


def analyze(path: Place, out: Place) -> tuple[list[dict[str, Any]], list[str]]:
    """Writes all files of the analysis of `path` to `out`; returns the figures of each evaluation, and notes.

    Raises:
      ConfigError: there are no responses, or they or their config cannot be used.
    """
    from t1jax.behaviour import page as browse
    from t1jax.behaviour.behaviour import summarise
    from t1jax.evaluation.saved import collect
    from t1jax.evaluation.tables import markdown
    from t1jax.host import files

    evaluations, notes = collect(path)
    task, way = embedded_task(path)
    done = [behaviours_of(evaluation, task) for evaluation in evaluations]
    summaries = [
        {"name": e.name, "stage": e.stage, "step": e.step, "final": e.final, **summarise(behaviours)}
        for e, behaviours in zip(evaluations, done, strict=True)
    ]
    tables, plots = sheets(summaries), pictures(summaries)
    notes = [f"read {way}", *notes]
    if len(summaries) > COLUMNS:
        notes.append(f"tables show {len(tables[0].header) - 1} of {len(summaries)} evaluations, behaviour.json all")
    out.mkdir(parents=True, exist_ok=True)
    for name, _, light, _ in plots:
        files.write_bytes(out / f"{name}.png", light)
    files.write_json(out / "behaviour.json", {"read": way, "notes": notes, "evaluations": summaries})
    files.write_text(out / "behaviour.md", markdown(tables, notes, "Behaviour"))
    page = browse.page(path.absolute().name, evaluations, done, tables, plots, notes, by_rules=task is not None)
    files.write_text(out / "behaviour.html", page)
    return summaries, notes


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("out", None, "", values)


def _run(argv: list[str]) -> None:
    values, extra = command_line.read_flags(argv, _define)
    if len(extra) != 1 or not extra[0]:
        raise ConfigError(f"{len(extra)} arguments; expected one: a workdir, a folder or a file, see --help")
    path = place.of(extra[0], "PATH")
    out = place.of(values.out, "--out") if values.out else path if path.is_dir() else path.parent
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out={out} is a file; expected a folder")

    from rich.console import Console

    from t1jax.evaluation.tables import show

    try:
        summaries, notes = analyze(path, out)
    except PermissionError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; expected a writable folder") from error
    console = Console()
    show(sheets(summaries, min(COLUMNS, max(2, (console.width - 34) // 21))), console)
    for note in notes:
        print(inert(note))
    print(f"page: {(out / 'behaviour.html').resolve()}")


if __name__ == "__main__":
    cli()
