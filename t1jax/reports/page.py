# SPDX-License-Identifier: Apache-2.0
"""The HTML document around every page, and its building blocks. A page is one file, with its CSS and JavaScript inside.

A page loads nothing and runs at most one script. A Content-Security-Policy in its head allows that script by its hash
and forbids the rest, so sampled text could not run even if escaping failed. Light and dark follow the reader's system,
or a `data-theme` on the root; narrow screens get one column.
Deliberately not here: what the report says (run_page.py), CSS and JavaScript (assets/).
"""

from __future__ import annotations

import base64
import hashlib
import html
import unicodedata
from collections.abc import Iterable, Sequence
from importlib import resources

KEEP = "\n\t"  # control characters that a page may hold
STYLES = ("colours.css", "page.css", "summary.css", "blocks.css", "responses.css", "narrow.css")  # of every page
THEME_BUTTON = '<button class="theme" type="button" hidden></button>'  # charts.js shows it


def assets(*names: str, package: str = "t1jax.reports") -> str:
    """The text of these files in the package's assets/ folder, joined."""
    folder = resources.files(package) / "assets"
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def visible(text: str) -> str:
    """`text` with control characters, direction marks and the like replaced by their code points."""

    def show(c: str) -> str:
        acts = c not in KEEP and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn")
        return f"⟨U+{ord(c):04X}⟩" if acts else c

    return "".join(show(c) for c in text)


def escape(text: object) -> str:
    """`text` as inert HTML."""
    return html.escape(visible(str(text)), quote=True)


def picture(light: bytes, dark: bytes, alt: str) -> str:
    """An inlined PNG, in a light and a dark version."""
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
    """A section with a heading and an anchor."""
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>'


def details(summary: str, body: str) -> str:
    """A part that is closed at first."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def digest(text: str) -> str:
    """The name of a script or a style in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def page(title: str, body: str, *, scripts: Sequence[str] = (), styles: Sequence[str] = ()) -> str:
    """The whole document.

    Args:
      body: HTML.
      scripts: files in assets/ that are joined to the one script that may run; () for none.
      styles: CSS files in assets/, after STYLES.
    """
    script = assets(*scripts)
    allowed = f"script-src '{digest(script)}'; " if script else ""
    run = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; {allowed}img-src data:; '
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{assets(*STYLES, *styles)}</style></head>\n<body><main>{body}</main>{run}</body></html>\n"
    )


def footer() -> str:
    """The foot of a report."""
    return (
        "<footer>The method: Hou et al., “Advancing Language Model Reasoning through Reinforcement Learning and "
        'Inference Scaling”, <a href="https://arxiv.org/abs/2501.11651" rel="noreferrer">arXiv 2501.11651</a>.</footer>'
    )
