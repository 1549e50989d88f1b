# SPDX-License-Identifier: Apache-2.0
"""Histories with one counter that only rises, as those of Weights & Biases and Trackio; in the process of worker.py.

Each thing has a place on it: a step of the cold start its number; a step of RL, after sft.num_steps, as many places as
there are kinds of things. So nothing is at two places, and a place that is taken says what the service has.
"""

from __future__ import annotations

from typing import Any

from t1jax.host.loggers.worker import KINDS

PLACES = KINDS[1:]  # of a step of RL


class Counter:
    """What both have in common of worker.Logger: rows, and places."""

    address: str

    def __init__(self, ahead: int, sft_steps: int) -> None:
        """`ahead`: the first place that is not taken."""
        self._sft = sft_steps
        self.last = {kind: (ahead - 1 - sft_steps - place) // len(PLACES) for place, kind in enumerate(PLACES)}
        self.last["sft"] = ahead - 1

    def log(self, values: dict[str, Any], place: int) -> None:
        """Hands values to the service, at a place."""
        raise NotImplementedError

    def row(self, kind: str, step: int, values: dict[str, float]) -> None:
        self.log({f"{kind}/{name}": value for name, value in values.items()}, self.place(kind, step))

    def place(self, kind: str, step: int) -> int:
        return step if kind == "sft" else self._sft + len(PLACES) * step + PLACES.index(kind)
