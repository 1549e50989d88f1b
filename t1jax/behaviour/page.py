# SPDX-License-Identifier: Apache-2.0
"""The page to read responses in: behaviour.html, one file that opens offline, with filters and keys.

... -> behaviour -> **report**. Its one script is named by its hash in the Content-Security-Policy, so nothing else
runs; nothing is loaded. Responses lie in a block of JSON in which no "<" is left, and the script shows them as text
only: no sampled text can come to life. Characters that act instead of being seen are made visible (page.visible).
Deliberately not here: script and style (browse_script.py), what counts as what (behaviour.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from t1jax.behaviour import prose
from t1jax.behaviour.behaviour import HABITS, STOPS, Behaviour
from t1jax.behaviour.page_script import SCRIPT, STYLE
from t1jax.evaluation.responses import OUTCOMES, Response
from t1jax.evaluation.saved import Evaluation
from t1jax.evaluation.tables import Sheet
from t1jax.reports.page import STYLE as HOUSE
from t1jax.reports.page import details, escape, picture, section, table, visible
from t1jax.tasks.pairs import chains

MOST = 12_000_000  # characters of all responses on the page, shared out over the evaluations
LONGEST = 200_000  # characters of a response; the middle of a longer one is left out
Line = list[Any]  # 1 for an attempt, else 0; then pieces: text, or [kind, text]

_STEP = re.compile(rf"(check )?(.*: )({'|'.join((*chains.VERDICTS, 'no'))})")
_BOX = re.compile(r"(\\boxed\{[^{}\n]*\}|</?think>)")
_VERDICTS = {"too small": "small", "too big": "big", "yes": "yes", "no": "no"}
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
    kept = [evaluation.responses[:count] for evaluation, count in zip(evaluations, _counts(evaluations), strict=True)]
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
        **_records(kept, behaviours, by_rules),
    }
    data = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    total = sum(map(len, kept))
    body = (
        f'<header><div class="kicker">Behaviour</div><h1>{escape(name)}</h1>'
        f'<p class="lead">{total:,} responses of {len(evaluations)} evaluation{"s" * (len(evaluations) != 1)}. '
        f"{'. '.join(escape(note[:1].upper() + note[1:]) for note in (*notes, *left_out))}.</p></header>"
        + _figures(tables, pictures)
        + _browser([evaluation.name for evaluation in evaluations], by_rules)
        + f'<script type="application/json" id="data">{data}</script>'
        f"<script>{SCRIPT}</script>"
    )
    style = HOUSE + STYLE
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src '{_digest(style)}'; script-src '{_digest(SCRIPT)}'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(name)}: behaviour</title>\n'
        f"<style>{style}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def lines_of(text: str, by_rules: bool) -> list[Line]:
    """A response as lines of marked pieces, every character of it shown."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        missing = f"\n[{len(text) - 2 * half:,} characters are left out here]\n"
        text = text[:half] + missing + text[-half:]
    return [_ruled(line) for line in text.rstrip("\n").split("\n")] if by_rules else _worded(text.rstrip("\n"))


def _ruled(line: str) -> Line:
    """A line of the embedded task."""
    if step := _STEP.fullmatch(line):
        check, words, verdict = step.groups()
        start = [["check", "check"], " "] if check else []
        return [0 if check else 1, *start, visible(words), [_VERDICTS[verdict], verdict]]
    pieces = _BOX.split(line)  # odd ones are boxes and tags
    return [0, *(
        [("box" if piece.startswith("\\") else "tag"), visible(piece)] if place % 2 else visible(piece)
        for place, piece in enumerate(pieces) if piece
    )]  # fmt: skip


def _worded(text: str) -> list[Line]:
    """Lines of running text, its phrases marked."""
    lines: list[Line] = [[0]]

    def add(piece: str, kind: str | None) -> None:
        for number, part in enumerate(piece.split("\n")):
            if number:
                lines.append([0])
            if part:
                lines[-1].append([kind, visible(part)] if kind else visible(part))

    end = 0
    for start, stop, kind in prose.marks(text):
        add(text[end:start], None)
        add(text[start:stop], "box" if kind == "answer" else kind)
        end = stop
    add(text[end:], None)
    return lines


def _counts(evaluations: Sequence[Evaluation]) -> list[int]:
    """How many responses of each evaluation the page has room for: at least one."""
    room, counts = MOST // max(1, len(evaluations)), []
    for evaluation in evaluations:
        used = count = 0
        for record in evaluation.responses:
            used += min(len(record.text), LONGEST) + len(record.prompt or "")
            if used > room and count:
                break
            count += 1
        counts.append(count)
    return counts


def _records(
    kept: Sequence[Sequence[Response]], behaviours: Sequence[Sequence[Behaviour]], by_rules: bool
) -> dict[str, Any]:
    """{prompts, records}: what the script reads; a record names its evaluation, prompt, outcome and stop by number."""
    prompts: dict[str, int] = {}
    outcomes = list(OUTCOMES.values())
    found = []
    for evaluation, records in enumerate(kept):
        for number, (record, does) in enumerate(zip(records, behaviours[evaluation], strict=False)):
            prompt = record.prompt if record.prompt is not None else f"problem {record.problem}"
            shown = visible(prompt.removesuffix("\n").removesuffix("<think>").strip())
            found.append(
                {
                    "e": evaluation,
                    "i": number,
                    "p": record.problem,
                    "q": prompts.setdefault(shown, len(prompts)),
                    "d": None if record.difficulty in (None, "") else visible(str(record.difficulty)),
                    "g": None if record.gold is None else visible(record.gold),
                    "o": outcomes.index(record.outcome),
                    "s": STOPS.index(does.stop),
                    "h": sum(1 << place for place, habit in enumerate(HABITS.values()) if habit(does)),
                    "t": record.tokens,
                    "c": [does.attempts, does.reflections, does.backtracks, does.verifications, does.repeated],
                    "x": lines_of(record.text, by_rules),
                }
            )
    return {"prompts": list(prompts), "records": found}


def _figures(tables: Sequence[Sheet], pictures: Sequence[tuple[str, str, bytes, bytes]]) -> str:
    """Tables and plots, closed until they are asked for."""
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
    """Filters, list and reader, which the script fills."""
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


def _digest(text: str) -> str:
    """How a Content-Security-Policy names a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
