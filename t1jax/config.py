# SPDX-License-Identifier: Apache-2.0
"""The configuration as frozen, typed views, with checks that tell the user which knob to change.

configs/base.py documents each knob; `load` returns the same sections and names, typed.
Deliberately not here: defaults (configs/), reading trees (typed.py), validation.py, flags (host/command_line.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from t1jax import typed
from t1jax.sections import (
    BenchmarkConfig,
    CheckpointConfig,
    DataConfig,
    EndpointConfig,
    EvalConfig,
    MeshConfig,
    MetricsConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    ScalingConfig,
    SftConfig,
    SynthesisConfig,
    TaskConfig,
    TokenizerConfig,
    VerifierConfig,
)  # fmt: skip
from t1jax.typed import ConfigError, completed

__all__ = [  # sections and errors are imported from here
    "BenchmarkConfig", "CheckpointConfig", "Config", "ConfigError", "DataConfig", "EndpointConfig",
    "EvalConfig", "MeshConfig", "MetricsConfig", "ModelConfig", "RewardConfig", "RlConfig", "ScalingConfig",
    "SftConfig", "SynthesisConfig", "TaskConfig", "TokenizerConfig", "VerifierConfig", "completed", "knobs",
    "load", "unknown_knob",
]  # fmt: skip


@dataclass(frozen=True)
class Config:
    seed: int
    compilation_cache: bool
    compilation_cache_mib: int
    tensorboard_mib: int
    model: ModelConfig
    tokenizer: TokenizerConfig
    task: TaskConfig
    data: DataConfig
    mesh: MeshConfig
    sft: SftConfig
    rl: RlConfig
    reward: RewardConfig
    eval: EvalConfig
    scaling: ScalingConfig
    verifier: VerifierConfig
    benchmarks: Mapping[str, BenchmarkConfig] = field(hash=False)
    synthesis: SynthesisConfig
    checkpoint: CheckpointConfig
    metrics: MetricsConfig

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dicts, as results.json and checkpoints hold them; `load` takes them back."""
        return asdict(self)


def load(tree: Mapping[str, Any]) -> Config:
    """The typed view of a ConfigDict or of nested dicts; those of older versions are `completed`.

    Raises ConfigError: a knob is unknown, missing, of the wrong type or not finite.
    """
    return typed.read(Config, completed(tree))


def unknown_knob(name: str) -> ConfigError:
    """The error for a knob that does not exist, with the nearest one that does."""
    return typed.unknown(Config, name)


def knobs() -> list[str]:
    """The dotted name of every knob; those of a benchmark only as `benchmarks`."""
    return typed.names(Config)
