# SPDX-License-Identifier: Apache-2.0
"""Curriculum, easy problems first: the training problem at a position of the stream, by the progress of RL.

PROMPTS -> rollouts -> ... It depends only on the position in the stream, so it is the same after a resume and for any
number of processes. Held-out problems are not affected.
Deliberately not here: difficulty (defined by the task), selecting problems by pass rate (selection.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t1jax.config import Config
from t1jax.tasks.task import Task

TRIES = 1000  # problems that are looked at for one that is easy enough


def hardest(difficulties: Sequence[Any], step: int, over: float) -> int:
    """The place among `difficulties`, easiest first, of the hardest that step `step` (from 0 on) may ask.

    It rises in equal parts, and is the last from step `over` on.
    """
    last = len(difficulties) - 1
    return last if step >= over else int(last * step / over)


def choose(cfg: Config, task: Task, split: str, step: int, index: int, size: int) -> int:
    """The problem for one that the order of the data names: itself, or the next of `size` that is easy enough.

    Where no problem within TRIES is, itself: of problems that a filter kept, all may be hard.
    """
    allowed = set(task.difficulties[: hardest(task.difficulties, step, cfg.task.curriculum * cfg.rl.num_steps) + 1])
    if len(allowed) == len(task.difficulties):
        return index
    places = ((index + tried) % size for tried in range(min(size, TRIES)))
    return next((place for place in places if task.problem(place, split).difficulty in allowed), index)
