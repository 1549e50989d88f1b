# SPDX-License-Identifier: Apache-2.0
"""The page for reading responses: behaviour.html, one file that opens offline, with filters and keyboard shortcuts.

... -> behaviour -> **report**. Its Content-Security-Policy allows one script, by its hash, so nothing else runs. The
page loads nothing. Responses are in a block of JSON without any "<", and the script shows them as text only, so
sampled text cannot run.
Deliberately not here: CSS and JavaScript (assets/), the JSON (records.py), what counts as what (behaviour.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from t1jax.behaviour.behaviour import HABITS, STOPS, Behaviour
from t1jax.behaviour.records import counts, data_of
from t1jax.evaluation.responses import OUTCOMES
from t1jax.evaluation.saved import Evaluation
from t1jax.evaluation.tables import Sheet
from t1jax.reports import page as house
from t1jax.reports.page import assets, details, digest, escape, picture, section, table

SCRIPTS, STYLES = ("filters.js", "reader.js", "keys.js"), ("filters.css", "list.css", "reader.css")  # in assets/
LEGENDS = {
    True: (("yes", "yes"), ("small", "too small"), ("big", "too big"), ("check", "check"), ("box", "answer")),
    False: (("reflection", "reflection"), ("backtrack", "backtrack"), ("verification", "verification"),
            ("giving", "giving up"), ("box", "answer")),
}  # fmt: skip


def page(
    name: str,
    evaluations: Sequence[Evaluation],
    behaviours: Sequence[Sequence[Behaviour]],
    tables: Sequence[Sheet],
    pictures: Sequence[tuple[str, str, bytes, bytes]],
    notes: Sequence[str],
    *,
    by_rules: bool,
) -> str:
    """The whole document.

    Args:
      name: of what was analysed.
      behaviours: what each response of each evaluation does.
      tables: figures of all responses, on the page or not.
      pictures: (name, caption, PNG in light, in dark).
      notes: what the reader must know, a line each.
      by_rules: the responses are those of an embedded task.
    """
    kept = [evaluation.responses[:count] for evaluation, count in zip(evaluations, counts(evaluations), strict=True)]
    left_out = [
        f"{evaluation.name}: its first {len(records):,} of {len(evaluation.responses):,} responses are on this page"
        for evaluation, records in zip(evaluations, kept, strict=True)
        if len(records) < len(evaluation.responses)
    ]
    tree = {
        "evaluations": [evaluation.name for evaluation in evaluations],
        "outcomes": list(OUTCOMES),
        "stops": STOPS,
        "habits": list(HABITS),
        **data_of(kept, behaviours, by_rules),
    }
    script = assets(*SCRIPTS, package="t1jax.behaviour")
    data = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    total = sum(map(len, kept))
    body = (
        f'<header><div class="kicker">Behaviour</div><h1>{escape(name)}</h1>'
        f'<p class="lead">{total:,} responses of {len(evaluations)} evaluation{"s" * (len(evaluations) != 1)}. '
        f"{'. '.join(escape(note[:1].upper() + note[1:]) for note in (*notes, *left_out))}.</p></header>"
        + _figures(tables, pictures)
        + _browser([evaluation.name for evaluation in evaluations], by_rules)
        + f'<script type="application/json" id="data">{data}</script>'
        f"<script>{script}</script>"
    )
    style = assets(*house.STYLES) + assets(*STYLES, package="t1jax.behaviour")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src '{digest(style)}'; script-src '{digest(script)}'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(name)}: behaviour</title>\n'
        f"<style>{style}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def _figures(tables: Sequence[Sheet], pictures: Sequence[tuple[str, str, bytes, bytes]]) -> str:
    """Tables and plots, closed at first."""
    shown = "".join(
        f"<figure>{picture(light, dark, caption)}<figcaption>{escape(caption)}</figcaption></figure>"
        for _, caption, light, dark in pictures
    )
    sheets = "".join(
        f"<h3>{escape(sheet.title)}</h3>"
        + table([*map(escape, sheet.header)], [[_cell(cell) for cell in row] for row in sheet.rows])
        for sheet in tables
    )
    plots = details("Plots over training", f'<div class="grid">{shown}</div>') if shown else ""
    return section("figures", "Figures", plots + details("Tables, 95 % intervals", sheets))


def _cell(text: str) -> str:
    """A cell of a table as HTML, its interval below its figure."""
    figure, bracket, interval = text.partition(" [")
    return escape(figure) + (f' <span class="interval">[{escape(interval)}</span>' if bracket else "")


def _browser(names: Sequence[str], by_rules: bool) -> str:
    """Filters, list and reader, filled by the script."""
    options = "".join(f'<option value="{number}">{escape(name)}</option>' for number, name in enumerate(names))
    groups = "".join(
        f'<div class="facet" role="group" aria-labelledby="{facet}-name"><span class="facet-name" id="{facet}-name">'
        f'{name}</span><span class="chips" id="{facet}"></span></div>'
        for facet, name in (("outcome", "Outcome"), ("stop", "Ending"), ("habit", "Behaviour"))
    )
    legend = "".join(f'<span class="mark {kind}">{escape(word)}</span>' for kind, word in LEGENDS[by_rules])
    keys = (
        ("j / k", "next, previous response"), ("↓ / ↑", "the same, in the list"), ("g / G", "first, last response"),
        ("s", "same problem in the next evaluation"), ("/", "search"), ("f", "filters"), ("c", "clear all filters"),
        ("?", "this help"), ("Esc", "close, or leave a field"),
    )  # fmt: skip
    rows = "".join(f"<dt><kbd>{key}</kbd></dt><dd>{meaning}</dd>" for key, meaning in keys)
    return (
        '<section id="browser" aria-labelledby="browser-title"><div class="top"><h2 id="browser-title">Responses</h2>'
        '<button type="button" id="keys" aria-haspopup="dialog">Keys <kbd>?</kbd></button></div>'
        "<noscript><p>Reading responses needs the script of this page; the figures above do not.</p></noscript>"
        '<details id="filters" open><summary>Filters</summary><div class="fields">'
        f'<label>Evaluation <select id="evaluation"><option value="">all</option>{options}</select></label>'
        '<label class="wide">Search <input id="search" type="search" autocomplete="off" spellcheck="false" '
        'placeholder="text of prompt or response"></label>'
        f'<button type="button" id="clear">Clear</button></div>{groups}</details>'
        '<p class="status" id="count" role="status" aria-live="polite"></p><p class="strip" id="strip"></p>'
        '<div class="panes"><div id="list" role="listbox" tabindex="0" aria-label="Responses"><div id="rows" '
        'role="presentation"></div></div>'
        '<article id="reader" tabindex="0" aria-label="Response"></article></div>'
        f'<div class="legend" aria-label="Marks">{legend}</div></section>'
        f'<dialog id="help" aria-labelledby="help-title"><h2 id="help-title">Keys</h2><dl>{rows}</dl>'
        '<button type="button" id="close">Close</button></dialog>'
    )
