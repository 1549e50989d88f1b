# SPDX-License-Identifier: Apache-2.0
"""How a knob is held to what it may be: one function a kind of bound, and the words of the error.

Deliberately not here: which bounds a knob has (validation.py), its type (typed.py).
"""

from __future__ import annotations

import difflib
from typing import Any

from t1jax.config import Config, ConfigError


def get(cfg: Config, knob: str) -> Any:
    """The value of a knob by its dotted name."""
    section, _, name = knob.rpartition(".")
    return getattr(getattr(cfg, section) if section else cfg, name)


def check(cfg: Config, knob: str, holds: bool, expected: str) -> None:
    """ConfigError unless `holds`: the knob, its value, and what was expected."""
    if not holds:
        raise ConfigError(f"{knob} is {get(cfg, knob)}; expected {expected}")


def multiple(what: str, found: int, of: str, divisor: int) -> None:
    """ConfigError unless `found`, which is `what`, is a multiple of `divisor`, which is `of`."""
    if found % divisor:
        raise ConfigError(f"{what} is {found}; expected a multiple of {of} = {divisor}")


def one_of(cfg: Config, knob: str, *choices: str) -> None:
    """ConfigError unless the knob is one of the choices; names the nearest."""
    hint = "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(get(cfg, knob), choices, n=1))
    check(cfg, knob, get(cfg, knob) in choices, f"one of {', '.join(choices)}{hint}")


def at_least(cfg: Config, least: int, section: str, names: str) -> None:
    """ConfigError unless each of the section's knobs, words in `names`, is at least `least`."""
    for knob in (f"{section}.{name}" for name in names.split()):
        check(cfg, knob, get(cfg, knob) >= least, f"at least {least}")


def positive(cfg: Config, section: str, names: str) -> None:
    """ConfigError unless each of the section's knobs, words in `names`, is more than 0."""
    for knob in (f"{section}.{name}" for name in names.split()):
        check(cfg, knob, get(cfg, knob) > 0, "more than 0")


def share(cfg: Config, section: str, names: str) -> None:
    """ConfigError unless each of the section's knobs, words in `names`, is 0 to 1."""
    for knob in (f"{section}.{name}" for name in names.split()):
        check(cfg, knob, 0 <= get(cfg, knob) <= 1, "0 to 1")
