# SPDX-License-Identifier: Apache-2.0
"""What writers are told: templates in files, by version, filled in with problems and texts.

problems -> attempts -> notes -> chains. A template is templates/VERSION/NAME.txt, with {problem} and the like in it;
one message of the user is made of it. What is filled in may hold any braces: it is not looked at again.
Deliberately not here: who is asked what, and when (subjects.py, training/stages.py).
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib import resources

VERSION = "v1"
# The templates, and what each may name. try.txt is an attempt and its note, as merge.txt shows them.
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
    """The template `name` with its fields filled in, all at once.

    Raises:
      KeyError: a field has no value.
    """
    fields = "|".join(sorted(FIELDS[name]))
    return re.sub(rf"\{{({fields})\}}", lambda match: values[match[1]], _text(name)).strip()


def message(name: str, **values: str) -> Messages:
    """`render` as what a user says."""
    return ({"role": "user", "content": render(name, **values)},)


@functools.cache
def digest() -> str:
    """12 hex digits that differ when the text of any template does."""
    total = hashlib.sha256()
    for name in sorted(FIELDS):
        total.update(f"{name}\n{_text(name)}\n".encode())
    return total.hexdigest()[:12]


@functools.cache
def _text(name: str) -> str:
    return (resources.files("t1jax.synthesis") / "templates" / VERSION / f"{name}.txt").read_text(encoding="utf-8")
