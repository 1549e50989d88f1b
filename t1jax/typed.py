# SPDX-License-Identifier: Apache-2.0
"""Nested dicts as frozen dataclasses: every knob is there, known, and of its type, or the error names it.

    cfg = typed.read(Config, {"seed": 0, "rl": {...}, ...})

Where: below sections.py and config.py, which have the dataclasses. A knob is named by its path: `rl.num_steps`.
Deliberately not here: which knobs there are (sections.py), what may stand together (validation.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

YOUNGER: dict[str, Any] = {  # knobs that saved configs may lack -> what was done before there were such knobs
    "compilation_cache_mib": 8192, "checkpoint.keep_damaged": 3, "rl.entropy_target": 0.0, "rl.kl_reduction": "sum",
    "rl.anchor_every": 1, "rl.advantage_floor": False, "rl.max_perplexity": 0.0, "eval.before": True,
    "tensorboard_mib": 256, "scaling.answerer": "self", "scaling.answer_temperature": -1.0, "data.choice_seed": 0,
    "model.post_norms": False, "model.rope_share": 1.0, "model.rope_interleaved": False,
    "model.num_experts": 0, "model.experts_per_token": 0, "model.norm_topk_prob": False,
    "model.lora_rank": 0, "model.lora_alpha": 32.0, "model.lora_targets": "all",
    "reward": {"function": "correct", "weights": []}, "rl.overdraw": 1.0, "data.weights": [], "rl.profile": "",
    "metrics": {"wandb": "", "mlflow": "", "trackio": ""},
}  # fmt: skip


class ConfigError(ValueError):
    """The user's mistake. The message is one line: the knob or file, what was found, what was expected."""


def inert(text: str) -> str:
    """`text` with U+FFFD for each character that would command a terminal instead of being shown."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def read(kind: type[T], tree: Mapping[str, Any]) -> T:
    """A dataclass from a ConfigDict or nested dicts that have exactly its fields.

    Raises:
      ConfigError: a knob is unknown, missing, of the wrong type or not finite.
    """
    return _section(kind, tree, "", kind)


def names(kind: type) -> list[str]:
    """The dotted name of every knob; of a mapping, like `benchmarks`, only its own."""
    sections = typing.get_type_hints(kind)
    return [
        f"{name}.{field.name}" if field else name
        for name, kind in sections.items()
        for field in (dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else (None,))
    ]


def unknown(kind: type, name: str) -> ConfigError:
    """The error for a knob that `kind` does not have, with the nearest one that it has."""
    known = names(kind)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not near:  # the right knob in the wrong section, or without one
        near = [knob for knob in known if knob.rpartition(".")[2] == name.rpartition(".")[2]]
    hint = f"did you mean {near[0]}?" if near else "configs/base.py lists them"
    return ConfigError(f"unknown knob {name}; {hint}")


def expected(kind: Any, knob: str) -> str:
    """What the value of a knob must be, in words."""
    for name in knob.split("."):
        kind = typing.get_args(kind)[1] if typing.get_origin(kind) is Mapping else typing.get_type_hints(kind)[name]
    return _words(kind)


def _section(kind: Any, tree: Any, prefix: str, root: type) -> Any:
    """A dataclass of type `kind` from a mapping that has exactly its fields; `root` is the whole config's type."""
    if not hasattr(tree, "keys"):  # a ConfigDict is no Mapping
        raise ConfigError(f"{prefix[:-1] or 'the config'} is {tree!r}; expected a section of knobs")
    hints = typing.get_type_hints(kind)
    for name in tree:
        if name not in hints:
            raise unknown(root, f"{prefix}{name}")
    if missing := [f"{prefix}{name}" for name in hints if name not in tree]:
        raise ConfigError(f"missing knob {', '.join(missing)}; start from configs/base.py, which has them all")
    return kind(**{name: _value(hint, tree[name], f"{prefix}{name}", root) for name, hint in hints.items()})


def _value(kind: Any, value: Any, knob: str, root: type) -> Any:
    """`value` as `kind`; an int may stand for a float, a list for a tuple, nothing else for anything else."""
    if dataclasses.is_dataclass(kind):
        return _section(kind, value, f"{knob}.", root)
    if typing.get_origin(kind) is Mapping and hasattr(value, "keys"):
        of = typing.get_args(kind)[1]
        return {name: _value(of, value[name], f"{knob}.{name}", root) for name in sorted(value)}
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_value(typing.get_args(kind)[0], item, knob, root) for item in value)
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError as error:
            raise ConfigError(f"{knob} is a number of {value.bit_length()} bits; expected a finite number") from error
    if type(value) is not kind:
        raise ConfigError(f"{knob} is {value!r}; expected {_words(kind)}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{knob} is {value}; expected a finite number")
    return value


def _words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    if kind == tuple[str, ...]:
        return 'names in brackets, like ("one", "two")'
    if kind == tuple[float, ...]:
        return "numbers in brackets, like (1.0, 0.2)"
    return words.get(kind, "whole numbers in brackets, like (1, 2, 4)")


def completed(tree: Mapping[str, Any], values: Mapping[str, Any] = YOUNGER) -> dict[str, Any]:
    """Nested dicts, such as a saved config, with the `values` (dotted name -> value) that they lack.

    A section that is not there stays away, unless it is one of the values.
    """
    found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}
    for knob, value in values.items():
        section, _, name = knob.rpartition(".")
        into = found.get(section) if section else found
        if isinstance(into, dict):
            into.setdefault(name, dict(value) if isinstance(value, Mapping) else value)
    return found
