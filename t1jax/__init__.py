# SPDX-License-Identifier: Apache-2.0
"""T1 (arXiv 2501.11651) in JAX: cold start, reinforcement learning in one compiled step, inference scaling.

    import t1jax

    run = t1jax.train("tiny", workdir="workdirs/mine", reward=my_reward)
    t1jax.sample(run.workdir, "Pick two of 4, 6, 12, 14, 20 that sum to 20.")

docs/python.md explains the functions. Importing this imports nothing heavy: they are found when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ("ConfigError", "evaluate", "load", "sample", "train")

if TYPE_CHECKING:
    from t1jax.api.model import evaluate, load, sample
    from t1jax.api.training import train
    from t1jax.typed import ConfigError

_HOMES = {"train": "api.training", "load": "api.model", "ConfigError": "typed"}
_MODULES = ("evaluate", "sample")  # commands of these names, which can be called (host/command_line.py)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"t1jax.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"t1jax.{name}")
    raise AttributeError(f"module 't1jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
