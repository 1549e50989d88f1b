# SPDX-License-Identifier: Apache-2.0
"""Renders a page of chains with their sources: attempts coloured by verdict, notes, merge and rewrite.

problems -> attempts -> notes -> chains, to judge their quality by eye. The page is one HTML file without scripts
(reports/page.py); all text from models and files is escaped.
Deliberately not here: the style of pages (reports/assets/), the contents of rows (record.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t1jax.reports.page import details, escape, page, section, table
from t1jax.reports.transcript import mark
from t1jax.rewards.answers import RIGHT, UNSCORABLE, Outcome
from t1jax.synthesis.record import Attempt, Piece, Story

SHOWN = 30  # chains on the page; those with wrong attempts come first
SHOWN_REJECTED = 10
OPEN = 3  # chains whose attempts are expanded
LONGEST = 20_000  # characters shown of a text
COLOURS = {"right": "yes", "wrong": "bad", "unscorable": "faint"}
PILLS = {"right": "yes", "wrong": "no", "unscorable": "tag"}


def render(stories: Sequence[Story], found: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
      stories: of all problems.
      found: their summary, from `record.summary`.
    """
    made = [story for story in stories if story.response is not None]
    made = [story for story in made if story.wrong] + [story for story in made if not story.wrong]
    rejected = [story for story in stories if story.response is None]
    shown = "".join(_chain(story, number < OPEN) for number, story in enumerate(made[:SHOWN]))
    others = "".join(_rejected(story) for story in rejected[:SHOWN_REJECTED])
    body = (
        _head(found)
        + section("writers", "Who wrote, and what it cost", _writers(found))
        + section("chains", "Chains", shown or "<p>None.</p>")
        + section("rejected", "Rejected", _reasons(found) + others)
    )
    return page("Synthesised chains", body + f"<footer>Templates {escape(found['templates'])}</footer>")


def _head(found: Mapping[str, Any]) -> str:
    chains, problems = found["chains"], found["problems"]
    attempts = found["attempts"]
    tiles = [
        ("chains", f"{chains}", f"of {problems} problems"),
        ("with wrong attempts", _share(found["with_wrong_attempts"], chains), "of the chains"),
        ("wrong attempts", _number(found["wrong_attempts_per_chain"]), "a chain, on average"),
        ("length", _number(found["tokens_per_chain"]), "tokens a chain, on average"),
        ("attempts", _share(attempts["right"], sum(attempts.values())), f"right, of {sum(attempts.values())}"),
        ("cost", f"{sum(row['cost'] for row in found['writers'].values()):.2f}", "in the endpoints' currency"),
    ]
    boxes = "".join(
        f'<div class="tile"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="hint">{hint}</div></div>'
        for name, value, hint in tiles
    )
    return (
        '<header><div class="kicker">t1jax · cold start</div><h1>Chains out of real attempts</h1>'
        '<p class="lead">Each chain was merged from the attempts below it. The first ones with a wrong attempt are '
        "shown; nothing was chosen by hand.</p>"
        f'<div class="tiles">{boxes}</div>'
        '<nav><a href="#writers">Writers</a><a href="#chains">Chains</a><a href="#rejected">Rejected</a></nav></header>'
    )


def _writers(found: Mapping[str, Any]) -> str:
    rows = [
        (
            escape(name),
            escape(", ".join(row["models"])),
            f"{row['requests']:,}",
            f"{row['prompt_tokens']:,}",
            f"{row['completion_tokens']:,}",
            f"{row['cost']:.4f}",
        )
        for name, row in found["writers"].items()
    ]
    return table(("writer", "model", "texts", "tokens in", "tokens out", "cost"), rows)


def _reasons(found: Mapping[str, Any]) -> str:
    if not found["rejected"]:
        return "<p>None.</p>"
    return table(("reason", "problems"), [(escape(reason), str(n)) for reason, n in found["rejected"].items()])


def _chain(story: Story, opened: bool) -> str:
    last = story.rewrite or story.merge
    writer = f"{escape(last.writer)} · {escape(last.model)}" if last else ""
    pieces = _pieces(story)
    count = f"{len(story.attempts)} attempts and their notes"
    return (
        f'<div class="pair">{_question(story)}'
        '<div class="answer after" style="margin-top:10px"><div class="head"><h3>The chain</h3>'
        f'<span class="pill yes">right</span><span class="count">{writer} · {story.tokens} tokens</span></div>'
        f"{_text(story.response or '')}</div>"
        + (f'<div class="grid">{pieces}</div>' if opened else details(count, f'<div class="grid">{pieces}</div>'))
        + "</div>"
    )


def _rejected(story: Story) -> str:
    written = story.rewrite or story.merge
    chain = (
        f'<div class="answer before"><div class="head"><h3>What was written</h3></div>{_text(written.text)}</div>'
        if written
        else ""
    )
    why = f'<p><span class="pill no">{escape(story.stage)}</span> {escape(story.reason)}</p>'
    shown = details("Its attempts", f'<div class="grid">{_pieces(story)}</div>')
    return f'<div class="pair">{_question(story)}{why}{chain}{shown}</div>'


def _question(story: Story) -> str:
    prompt = story.item.prompt.removesuffix("\n").removesuffix("<think>").strip()
    facts = f"row {story.item.row} · a right answer: {escape(story.item.gold)}"
    return f'<div class="ask">{escape(_cut(prompt))}</div><div class="interval">{facts}</div>'


def _pieces(story: Story) -> str:
    return "".join(_attempt(number, attempt) for number, attempt in enumerate(story.attempts, 1)) + (
        _card("Merged", story.merge) if story.merge and story.rewrite else ""
    )


def _attempt(number: int, attempt: Attempt) -> str:
    verdict = _verdict(attempt.outcome)
    note = f'<div class="head"><h3>Note</h3>{_by(attempt.note)}</div>{_text(attempt.note.text)}' if attempt.note else ""
    pill = f'<span class="pill {PILLS[verdict]}">{verdict}</span>'
    return (
        f'<div class="answer" style="border-top-color:var(--{COLOURS[verdict]})" data-verdict="{verdict}">'
        f'<div class="head"><h3>Attempt {number}</h3>{pill}{_by(attempt.piece)}</div>'
        f"{_text(attempt.piece.text)}{note}</div>"
    )


def _card(title: str, piece: Piece) -> str:
    return f'<div class="answer"><div class="head"><h3>{title}</h3>{_by(piece)}</div>{_text(piece.text)}</div>'


def _by(piece: Piece | None) -> str:
    return f'<span class="count">{escape(piece.writer)}</span>' if piece else ""


def _text(text: str) -> str:
    return f'<div class="chain">{mark(_cut(text))}</div>'


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text) - LONGEST} more characters)"


def _verdict(outcome: Outcome) -> str:
    return "right" if outcome == RIGHT else "unscorable" if outcome == UNSCORABLE else "wrong"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
