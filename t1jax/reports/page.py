# SPDX-License-Identifier: Apache-2.0
"""How the report looks: the page, its style, and a few building blocks. Everything is in one file of HTML.

The page loads nothing, and runs nothing but the one script that it was made with, if any: a Content-Security-Policy in
its head names that script's hash and forbids the rest, so that even a mistake in escaping could not bring a sampled
text to life. Light and dark follow the reader's system, or a `data-theme` on the root; narrow screens get one column.
Deliberately not here: what the report says (run_page.py), that script (hover.py).
"""

from __future__ import annotations

import base64
import hashlib
import html
import unicodedata
from collections.abc import Iterable, Sequence

KEEP = "\n\t"  # control characters that a page may hold


def visible(text: str) -> str:
    """`text` with every character that could act instead of being seen (escapes, direction marks) made visible."""

    def show(c: str) -> str:
        acts = c not in KEEP and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")
        return f"⟨U+{ord(c):04X}⟩" if acts else c

    return "".join(show(c) for c in text)


def escape(text: object) -> str:
    """`text` as HTML that shows it and does nothing else."""
    return html.escape(visible(str(text)), quote=True)


def picture(light: bytes, dark: bytes, alt: str) -> str:
    """A PNG inside the page, in two themes."""
    day, night = (base64.b64encode(png).decode("ascii") for png in (light, dark))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{night}">'
        f'<img src="data:image/png;base64,{day}" alt="{escape(alt)}"></picture>'
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first column names the row."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in headings)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def section(name: str, title: str, body: str) -> str:
    """A part of the page with a heading that can be linked to."""
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>'


def details(summary: str, body: str) -> str:
    """A part that stays closed until asked for."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def page(title: str, body: str, *, script: str = "", style: str = "") -> str:
    """The whole document.

    Args:
      body: HTML.
      script: the one script that may run; "" for none.
      style: CSS beside STYLE.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    allowed = f"script-src 'sha256-{digest}'; " if script else ""
    run = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; {allowed}img-src data:; '
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}{style}</style></head>\n<body><main>{body}</main>{run}</body></html>\n"
    )


LIGHT = """
  --page: #f4f6f8; --card: #ffffff; --ink: #1f2933; --faint: #5f6b78; --line: #e1e5ea;
  --before: #c2570c; --before-soft: #fbe9dc; --after: #1d5fd1; --after-soft: #e2ecfb;
  --small: #0b7285; --small-soft: #e0f4f7; --big: #9a4a00; --big-soft: #fdeed9;
  --yes: #17753a; --yes-soft: #def5e5; --check: #7a3db8; --check-soft: #f1e7fb;
  --box: #1f2933; --box-soft: #fff3bf; --bad: #b42318; --bad-soft: #fde4e1;
  --s1: #1d5fd1; --s2: #c2570c; --s3: #0b7f60; --s4: #8e44c9; --s5: #b0332a; --s6: #5b6673;
"""
DARK = """
  --page: #0e1217; --card: #171c24; --ink: #dfe4ea; --faint: #94a0ae; --line: #2b333f;
  --before: #f59e4b; --before-soft: #3a2818; --after: #6ea8ff; --after-soft: #1a2c4a;
  --small: #66d9e8; --small-soft: #10333a; --big: #ffb866; --big-soft: #3d2a12;
  --yes: #69db8f; --yes-soft: #14361f; --check: #d0a8ff; --check-soft: #30204a;
  --box: #ffe066; --box-soft: #3b3414; --bad: #ff8a80; --bad-soft: #431d1a;
  --s1: #6ea8ff; --s2: #f59e4b; --s3: #3fcf9f; --s4: #c48bf5; --s5: #ff8278; --s6: #aab4c0;
"""
STYLE = (
    f"""
:root {{ color-scheme: light; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ color-scheme: dark; {DARK} }} }}
:root[data-theme="dark"] {{ color-scheme: dark; {DARK} }}
"""
    + """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: clamp(1.65rem, 4.6vw, 2.6rem); line-height: 1.15; letter-spacing: -.02em; margin: 6px 0 10px; }
h1 span { white-space: nowrap; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 0 0 6px; }
h3 { font-size: 1rem; margin: 0; }
p { margin: 0 0 14px; max-width: 84ch; }
a { color: var(--after); }
.lead { color: var(--faint); }
.kicker { color: var(--faint); font-size: .82rem; font-weight: 600; letter-spacing: .07em; text-transform: uppercase; }
.before { color: var(--before); } .after { color: var(--after); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .92rem; margin: 16px 0 0; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 24px 26px;
  margin: 0 0 20px; }
.bars { margin: 18px 0 20px; }
.bar { display: grid; grid-template: "name rail figure" / 12.5em 1fr 10.5em; gap: 2px 14px; align-items: center;
  margin: 8px 0; }
.bar .name { grid-area: name; line-height: 1.25; } .bar .rail { grid-area: rail; } .bar .figure { grid-area: figure; }
.bars .rail { position: relative; height: 22px; border-radius: 6px; background: var(--page); }
.bars .fill { position: absolute; inset: 0 auto 0 0; border-radius: 6px; background: currentColor; }
.bars .hollow { opacity: .38; }
.bars .range { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--ink); }
.bars .range::before, .bars .range::after { content: ""; position: absolute; top: -4px; height: 10px; width: 2px;
  background: var(--ink); } .bars .range::after { right: 0; }
.bars b { font-size: 1.08rem; } .interval { color: var(--faint); font-size: .84rem; white-space: nowrap; }
.tiles { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.tile .name { color: var(--faint); font-size: .84rem; }
.tile .value { font-size: 1.22rem; font-weight: 650; letter-spacing: -.01em; white-space: nowrap; }
.tile .hint { color: var(--faint); font-size: .78rem; line-height: 1.35; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 18px; }
figure { margin: 0; } figcaption { color: var(--faint); font-size: .86rem; line-height: 1.4; margin-top: 4px; }
img { display: block; width: 100%; height: auto; border-radius: 8px; }
.split { display: grid; grid-template-columns: minmax(0, 4fr) minmax(0, 8fr); gap: 8px 28px; align-items: start; }
.scroll { overflow-x: auto; margin: 6px 0 12px; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; font-weight: 500; padding-left: 0; white-space: normal; }
thead th { color: var(--faint); font-size: .84rem; font-weight: 600; }
td .interval { display: block; line-height: 1.2; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--after); font-weight: 600; }
details > *:not(summary) { margin-top: 12px; }
pre, .chain, code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono",
  monospace; font-size: .86rem; }
pre { overflow-x: auto; background: var(--page); border-radius: 8px; padding: 12px 14px; margin: 0; line-height: 1.45; }
.pair { border-top: 1px solid var(--line); padding-top: 16px; margin-top: 18px; }
.pair .ask { font-weight: 650; margin-bottom: 2px; overflow-wrap: anywhere; white-space: pre-wrap; }
.pair .grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); margin-top: 10px;
  align-items: start; }
.answer { border: 1px solid var(--line); border-top: 3px solid currentColor; border-radius: 10px; min-width: 0; }
.answer .head { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: baseline; padding: 8px 14px 0; }
.answer .head .count { color: var(--faint); font-size: .84rem; margin-left: auto; }
.chain { color: var(--ink); padding: 8px 14px 14px; max-height: 560px; overflow: auto; counter-reset: attempt; }
.line { display: block; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.62; padding-left: 2.6em;
  position: relative; min-height: 1.62em; }
.attempt-line { counter-increment: attempt; }
.attempt-line::before { content: counter(attempt); position: absolute; left: 0; width: 1.9em; text-align: right;
  color: var(--faint); opacity: .75; font-size: .86em; }
.tag { color: var(--faint); }
.mark { border-radius: 5px; padding: 1px 6px; font-weight: 600; white-space: pre-wrap; }
.small { color: var(--small); background: var(--small-soft); } .big { color: var(--big); background: var(--big-soft); }
.yes { color: var(--yes); background: var(--yes-soft); } .no { color: var(--bad); background: var(--bad-soft); }
.check { color: var(--check); background: var(--check-soft); }
.box { color: var(--box); background: var(--box-soft); }
.pill { border-radius: 99px; padding: 1px 10px; font-size: .82rem; font-weight: 650; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 10px; margin: 10px 0 0; font-size: .9rem; }
.legend .mark { font-size: .84rem; }
footer { color: var(--faint); font-size: .86rem; padding: 4px 6px; }
@media (max-width: 620px) {
  main { padding: 12px 10px 40px; } header, section { padding: 18px 16px; border-radius: 12px; }
  .bar { grid-template: "name figure" "rail rail" / 1fr max-content; margin: 12px 0; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); } .tile .value { font-size: 1.08rem; }
  .split { grid-template-columns: minmax(0, 1fr); } th, td { padding: 7px 6px; } th:first-child { min-width: 8.5em; }
}
@media (max-width: 420px) { .tiles { gap: 8px; } .tile { padding: 10px; } .tile .value { font-size: .96rem; } }
"""
)
