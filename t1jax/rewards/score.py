# SPDX-License-Identifier: Apache-2.0
"""Sampled tokens -> right, wrong, a reward or unscorable, and the penalties that apply.

rollouts -> REWARDS -> advantages; the host side of the compiled step. NumPy in, NumPy out: nothing here imports jax.
A response that cannot be scored, because its problem has no right answer or the check failed, is neither right nor
wrong: it must never enter a baseline (advantages.py keeps it out).
Deliberately not here: penalties as numbers; they enter in advantages.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from t1jax.config import ConfigError, RlConfig
from t1jax.rewards import penalties
from t1jax.rewards.answers import RIGHT, UNSCORABLE, Outcome
from t1jax.text.tokenizer import Tokenizer
from t1jax.validation import cores

logger = logging.getLogger(__name__)


class HostScores(NamedTuple):
    """One entry a response; types.Scores on the host, field for field."""

    outcome: np.ndarray  # int8[n] an Outcome
    overlong: np.ndarray  # bool[n] no stop token within the limit
    repetition: np.ndarray  # bool[n] degenerate repetition
    garbled: np.ndarray  # bool[n] broken characters or mixed scripts
    reward: np.ndarray | None = None  # float32[n] before penalties, 0 where unscorable; None: 1 if right, else 0


class Judged(NamedTuple):
    """What a task that has rewards of its own says of a response; the others say an Outcome."""

    outcome: Outcome
    reward: float  # NaN where unscorable

    @staticmethod
    def of(found: Outcome | Judged) -> Judged:
        """The same of an outcome: 1 if it is right, else 0."""
        if isinstance(found, Judged):
            return found
        return Judged(Outcome(found), math.nan if found == UNSCORABLE else float(found == RIGHT))


P = TypeVar("P")  # a problem


class Task(Protocol[P]):
    """What scoring needs of a task, see tasks/task.py."""

    def problem(self, index: int, split: str) -> P: ...

    def score(self, problems: Sequence[P], responses: Sequence[str]) -> Sequence[Outcome | Judged]: ...


Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], HostScores]


def make_scorer(task: Task[P], split: str, tokenizer: Tokenizer, cfg: RlConfig) -> Scorer:
    """A function (problem int32[n], tokens int32[n, T], sampled bool[n, T], stopped bool[n]) -> HostScores.

    Rows do not depend on each other, so any shard of a batch can be scored alone. As many threads as cores read them.
    """
    pool = ThreadPoolExecutor(cores(), "t1jax-scorer")  # enough: decoding and NumPy let go of Python's lock
    reported = False  # the first failure of the check is logged with its traceback, the others are only counted

    def check(indices: list[int], texts: list[str]) -> list[Outcome | Judged]:
        """All rows at once; where that fails, halves, so that only the rows at fault are unscorable."""
        nonlocal reported
        try:
            return list(task.score([task.problem(index, split) for index in indices], texts))
        except ConfigError:  # no row's fault: nothing can be checked on this machine
            raise
        except Exception:  # whatever the check trips over, the row is unscorable and the run goes on
            half = len(texts) // 2
            if half:
                return check(indices[:half], texts[:half]) + check(indices[half:], texts[half:])
            if not reported:
                reported = True
                logger.exception(
                    "checking a response to problem %d failed (%s); the response is unscorable", indices[0], split
                )
            return [UNSCORABLE]

    def read(row: np.ndarray, mask: np.ndarray) -> tuple[str, bool, bool]:
        """A response's text, whether it is repetitive, and whether it is garbled."""
        text = tokenizer.decode(row[mask])
        repetitive = penalties.repetitive(text, cfg.repeat_length, cfg.repeat_count)
        return text, repetitive, penalties.garbled(text, cfg.garbled_share)

    def score(problem: np.ndarray, tokens: np.ndarray, sampled: np.ndarray, stopped: np.ndarray) -> HostScores:
        texts, repetition, garbled = zip(*pool.map(read, tokens, sampled), strict=True)
        judged = [Judged.of(one) for one in check([int(index) for index in problem], list(texts))]
        return HostScores(
            outcome=np.array([one.outcome for one in judged], np.int8),
            overlong=~np.asarray(stopped, bool),
            repetition=np.array(repetition, bool),
            garbled=np.array(garbled, bool),
            reward=np.nan_to_num(np.array([one.reward for one in judged], np.float32)),
        )

    return score
