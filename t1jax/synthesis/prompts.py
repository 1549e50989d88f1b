# SPDX-License-Identifier: Apache-2.0
"""The prompts for writers: versioned template files, filled in with problems and texts.

problems -> attempts -> notes -> chains. A template is templates/VERSION/NAME.txt with fields such as {problem}; it
becomes one user message. Values may contain braces: they are not expanded again.
Deliberately not here: who is asked what, and when (subjects.py, pipeline.py).
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib import resources

VERSION = "v1"
# Template -> its fields. try.txt is one attempt with its note, for {attempts} in merge.txt.
FIELDS = {
    "attempt": {"problem"},
    "critic_wrong": {"problem", "gold", "attempt", "answer"},
    "critic_right": {"problem", "attempt", "answer"},
    "merge": {"problem", "gold", "attempts"},
    "try": {"number", "verdict", "answer", "attempt", "note"},
    "rewrite": {"problem", "chain"},
}

Messages = tuple[dict[str, str], ...]


def render(name: str, **values: str) -> str:
    """Fills in all fields of the template `name`.

    Raises:
      KeyError: a field has no value.
    """
    fields = "|".join(sorted(FIELDS[name]))
    return re.sub(rf"\{{({fields})\}}", lambda match: values[match[1]], _text(name)).strip()


def message(name: str, **values: str) -> Messages:
    """`render` as one user message."""
    return ({"role": "user", "content": render(name, **values)},)


@functools.cache
def digest() -> str:
    """A hash of all templates, 12 hex digits."""
    total = hashlib.sha256()
    for name in sorted(FIELDS):
        total.update(f"{name}\n{_text(name)}\n".encode())
    return total.hexdigest()[:12]


@functools.cache
def _text(name: str) -> str:
    return (resources.files("t1jax.synthesis") / "templates" / VERSION / f"{name}.txt").read_text(encoding="utf-8")
