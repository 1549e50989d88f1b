# SPDX-License-Identifier: Apache-2.0
"""The report of a run: report.html, one self-contained file, and its figures as PNGs beside it.

prompts -> rollouts -> rewards -> advantages -> update -> checkpoint -> evaluate -> **report**.
It says what RL changed: the story in words, accuracy before and after with 95 % intervals, accuracy against the budget
of thinking, sampled responses side by side, linked curves over steps, accuracy by difficulty, and how honest the
responses are. Every text from a model or a config goes through `page.escape`.
Deliberately not here: what the page says (headline.py, sections.py, transcript.py), how it looks (page.py, assets/),
PNGs (plots.py, training_plots.py), several runs (comparison.py), measuring (evaluation/).
"""

from __future__ import annotations

from t1jax.host import files, place
from t1jax.host.place import Place
from t1jax.reports import columns, plots, sections
from t1jax.reports.charts import SCRIPTS, STYLES
from t1jax.reports.checks import was_measured_before
from t1jax.reports.headline import headline
from t1jax.reports.page import escape, footer, page, section
from t1jax.reports.runs import Results, Rows, Run
from t1jax.reports.training_plots import draw_curve
from t1jax.reports.transcript import side_by_side
from t1jax.reports.wording import graded, measure


def write_report(workdir: str | Place, results: Results, rows: Rows) -> Place:
    """Writes report.html and the PNGs of a finished run to `workdir`; returns the path of report.html.

    `results`: what results.json holds; `rows`: metrics.read_rows(workdir). Raises ValueError where `results` lacks the
    accuracy or mean reward of a stage that is measured. Sections without data (skills, greedy, ...) are left out.
    """
    results = files.json_ready(results)
    for stage in ("sft", "rl") if was_measured_before(results) else ("rl",):
        found = results.get(stage, {})
        for name in ("accuracy" if graded(found) else "mean_reward", "low", "high", "n"):
            if found.get(name) is None:
                raise ValueError(f"report: results lacks {stage}.{name}; evaluate both stages before the report")
    workdir = place.of(workdir, "workdir")
    return write(Run(workdir.name, workdir, results, rows, finished=True))


def write(run: Run, out: Place | None = None) -> Place:
    """Writes the report of a run, finished or not: to `out`, or to its workdir and then with the PNGs beside it."""
    if out is None:
        out = run.workdir / "report.html"
        for name, png in _pictures(run):
            files.write_bytes(run.workdir / f"{name}.png", png)
    return files.write_text(out, render(run))


def render(run: Run) -> str:
    """The page."""
    results = run.results
    both = results.get("sft") and results.get("rl")
    pairs = "The same problems, before and after RL" if both else "Sampled responses"
    what = measure(results.get("sft") or results.get("rl"))
    parts = [
        ("story", "The story of this run", sections.in_words(run)),
        ("thinking", "Does more thinking help?", sections.scaling(run)),
        ("responses", pairs, side_by_side(results.get("samples") or [])),
        ("training", "Over the steps of training", sections.training(run)),
        ("difficulty", f"{what.capitalize()} by difficulty", sections.difficulty(results)),
        ("honesty", "Is the gain honest?" if both else "Are responses honest?", sections.honesty(results)),
        ("run", "This run", sections.facts(run)),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name, _, _ in parts)
    body = headline(run, links) + "".join(section(name, escape(title), text) for name, title, text in parts)
    return page("T1 run report", body + footer(), scripts=SCRIPTS, styles=STYLES)


def _pictures(run: Run) -> list[tuple[str, bytes]]:
    """The PNGs beside the report: (name, bytes)."""
    found = []
    if run.results.get("scaling"):
        found.append(("scaling", plots.draw_scaling(run.results["scaling"], plots.LIGHT)))
    for curve in (*columns.CURVES, *columns.HEALTH):
        png = draw_curve(curve, run.rows, run.results, plots.LIGHT)
        if png is not None:
            found.append((curve.name, png))
    return found
