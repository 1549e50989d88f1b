# SPDX-License-Identifier: Apache-2.0
"""Reads RoPE from config.json: its scaling, and the length that the model was trained for.

Where: before the prompts. Unknown keys are rejected, as in all of config.json.
Source: transformers 5.23, modeling_rope_utils.py.
Deliberately not here: RoPE itself (attention.py), the rest of config.json (families.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from t1jax.config import ConfigError, ModelConfig
from t1jax.weights.strict import Section

MAX_LENGTH = 2**31 - 1  # positions are int32


@dataclass(frozen=True)
class Rope:
    """How config.json spells one value of model.rope_scaling."""

    type: str  # its rope_type
    knobs: dict[str, str]  # key of the rope section -> knob
    defaults: dict[str, float] = dataclasses.field(default_factory=dict)  # knob -> its value if the file has no key


ROPES = {
    "none": Rope("default", {}),
    "linear": Rope("linear", {"factor": "rope_factor"}),
    "yarn": Rope(
        "yarn",
        {
            "factor": "rope_factor",
            "original_max_position_embeddings": "rope_original_length",
            "beta_slow": "rope_low",
            "beta_fast": "rope_high",
            "attention_factor": "rope_attention_factor",
        },
        {"rope_low": 1.0, "rope_high": 32.0, "rope_attention_factor": 0.0},
    ),
    "llama3": Rope(
        "llama3",
        {
            "factor": "rope_factor",
            "original_max_position_embeddings": "rope_original_length",
            "low_freq_factor": "rope_low",
            "high_freq_factor": "rope_high",
        },
    ),
}
DEFAULT_THETA = 10_000.0  # of all families, if the file has none


def trained_length(hf: Mapping[str, Any], file: str) -> int | None:
    """The length that the model of a config.json was trained for, in tokens; None if the file does not say.

    This is max_position_embeddings, except with linear scaling and YaRN: there it is the length before scaling times
    the factor, as in vLLM (vllm/config/model.py). Llama 3's files give the length after scaling, not that product.

    Raises:
      ConfigError: the length or the scaling is invalid.
    """
    if hf.get("max_position_embeddings") is None:
        return None
    section = Section(hf, file)
    rope = read_rope(section)
    if rope["rope_scaling"] in ("linear", "yarn"):
        return round(rope["rope_original_length"] * rope["rope_factor"])
    return section.whole("max_position_embeddings", MAX_LENGTH)


def configured_length(cfg: ModelConfig) -> int | None:
    """The same by the knobs, for a model whose config.json is not here; None for Llama 3, whose knobs do not say."""
    if cfg.rope_scaling == "llama3":
        return None
    return round(cfg.rope_original_length * (1 if cfg.rope_scaling == "none" else cfg.rope_factor))


def read_rope(section: Section, share: float | None = None) -> dict[str, Any]:
    """The RoPE knobs, from `rope_parameters` (transformers 5) or from `rope_theta` and `rope_scaling` (before).

    Args:
      section: the whole file.
      share: the share of a head that rotates, if the file may not say another.

    Returns:
      the knobs; rope_share only if the file has partial_rotary_factor.

    Raises:
      ConfigError: an unknown scaling or key, or a value out of range.
    """
    name = "rope_scaling" if section.values.get("rope_parameters") is None else "rope_parameters"
    if name == "rope_parameters":
        section.fixed("rope_scaling", None)  # with both, one would be ignored
    written = section.values.get(name)
    if not isinstance(written, dict | None):
        section.refuse(name, "an object with rope_type")
    rope = Section({k: v for k, v in (written or {}).items() if v is not None}, section.file, f"{name}.")
    named = "type" if "type" in rope.values and "rope_type" not in rope.values else "rope_type"
    scaling = next((s for s, kind in ROPES.items() if kind.type == rope.values.get(named, "default")), None)
    if scaling is None:
        rope.refuse(named, "one of " + ", ".join(kind.type for kind in ROPES.values()))
    kind = ROPES[scaling]
    known = {"rope_type": kind.type, "type": kind.type, "partial_rotary_factor": share}
    for key, expected in known.items():
        if expected is not None:
            rope.fixed(key, expected)
    for key in rope.values:
        if key not in (*known, *kind.knobs, "rope_theta"):
            rope.refuse(key, f"only {', '.join((*kind.knobs, 'rope_theta'))} with rope_type {kind.type}")
    for key in ("rope_theta", "partial_rotary_factor"):
        if section.values.get(key) is not None:
            rope.fixed(key, section.values[key])

    values: dict[str, Any] = {"rope_scaling": scaling, "rope_theta": DEFAULT_THETA, **kind.defaults}
    values["rope_original_length"] = section.whole("max_position_embeddings", MAX_LENGTH)
    for place in (section, rope):
        if place.values.get("rope_theta") is not None:
            values["rope_theta"] = place.number("rope_theta", 2, 1e12)
        if place.values.get("partial_rotary_factor") is not None:
            values["rope_share"] = place.number("partial_rotary_factor", 1e-3, 1)
    for key, knob in kind.knobs.items():
        if knob in values and key not in rope.values:
            continue
        if knob == "rope_original_length":
            values[knob] = rope.whole(key, MAX_LENGTH)
        else:
            values[knob] = rope.number(key, 1 if knob == "rope_factor" else 1e-3, 1e6)
    if "rope_low" in values and values["rope_low"] >= values["rope_high"]:
        low, high = (key for key, knob in kind.knobs.items() if knob in ("rope_low", "rope_high"))
        found = f"{low} {values['rope_low']:g} and {high} {values['rope_high']:g}"
        raise ConfigError(f"{section.file}: {name} has {found}; expected {low} to be less")
    return values
