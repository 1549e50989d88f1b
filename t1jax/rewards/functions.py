# SPDX-License-Identifier: Apache-2.0
"""Rewards from the functions of reward.function: each response's weighted sum, from worker processes.

    with Functions(cfg) as functions:
        rewards = functions.rewards(prompts, responses, rows)      # float or None each

A function runs in processes that are killed when a response takes more CPU time than verifier.deadline, or more memory
than verifier.memory (pool.py). A response is unscorable (None) where a function returns None, raises, returns what is
no finite number, hangs or dies; each of these is told once, with the function's name.

A function that takes lists is called with neighbours of one row: the responses to a problem that are scored together.

Where: rollouts -> rewards. Host only. Called from several threads at once.
Deliberately not here: calling the functions (function_worker.py), right and wrong (answers.py, verifier.py), how a task
is rewarded (tasks/rewarded.py).
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t1jax.checks import CORRECT, reward_terms
from t1jax.config import Config, ConfigError
from t1jax.rewards.answers import UNSCORABLE
from t1jax.rewards.pool import Pool, Question

PROGRAM = Path(__file__).with_name("function_worker.py")
Row = dict[str, Any]
LOST = "takes longer than verifier.deadline, needs more than verifier.memory, or ends its process"

logger = logging.getLogger(__name__)


class Functions(Pool):
    """The processes of all functions of the config. They are loaded, and refused if need be, with the first call.

    Raises:
      ConfigError: from `begin` and `rewards`: a function cannot be loaded, or takes other arguments.
    """

    kept = 0  # a function may be random, and a response is long

    def __init__(self, cfg: Config) -> None:
        terms = [(name, weight) for name, weight in reward_terms(cfg.reward) if name != CORRECT]
        self.names, self.weights = [name for name, _ in terms], [weight for _, weight in terms]
        super().__init__(cfg.verifier, (str(PROGRAM), json.dumps(self.names)))
        self._most_failed = 1  # what fails to load will fail again
        self.package = ", ".join(self.names)
        self._batched: list[bool] | None = None
        self._told: set[tuple[str, str]] = set()
        self._telling = threading.Lock()

    def begin(self, prompt: str, response: str, row: Row) -> None:
        """Loads the functions and calls each once, so that what is wrong with them is told before anything is trained.

        Raises:
          ConfigError: one of them cannot be loaded, raises, hangs, or returns no number.
        """
        for number, name in enumerate(self.names):
            (found,) = self._of_function(number, [prompt], [response], [row])
            if isinstance(found, str):
                columns = ", ".join(row) or "no columns"
                raise ConfigError(
                    f"reward.function: {name} {found}, on the first problem, whose row has {columns}; expected a "
                    "reward, or None where there is none"
                )

    def rewards(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> list[float | None]:
        """The weighted sum of all functions for each response; None where one of them has no reward.

        Args:
          prompts: what each response continues.
          responses: texts.
          rows: the columns of each response's problem; JSON makes text of what it cannot hold.

        Raises:
          ConfigError: a function cannot be loaded.
        """
        total: list[float | None] = [0.0] * len(responses)
        for number, (name, weight) in enumerate(zip(self.names, self.weights, strict=True)):
            for i, found in enumerate(self._of_function(number, prompts, responses, rows)):
                if isinstance(found, str):
                    self._tell(name, found)
                    found = None
                before = total[i]
                total[i] = None if found is None or before is None else before + weight * found
        return total

    def times(self, question: Question) -> int:
        """Deadlines that a question may take: one for each of its responses."""
        return int(question[2])

    def cannot_start(self, problem: str) -> str:
        """The words for the user when the file of a function ends its process, or never ends."""
        return (
            f"reward.function: the process that loads {self.package} does not start: {problem}; expected files that "
            f"load within a minute, with verifier.memory = {self._cfg.memory} MiB, and do not end the process"
        )

    def _of_function(
        self, number: int, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]
    ) -> list[float | None | str]:
        """A reward, None, or what went wrong, for each response."""
        parts = list(_neighbours(rows) if self._takes_lists()[number] else ((i, i + 1) for i in range(len(rows))))
        asked = [(str(number), _packed(prompts[a:b], responses[a:b], rows[a:b]), str(b - a)) for a, b in parts]
        found: list[float | None | str] = []
        for (a, b), said in zip(parts, self.ask(asked), strict=True):
            if said == UNSCORABLE:
                found += [LOST] * (b - a)
            else:
                found += [one["error"] if isinstance(one, dict) else one for one in said]
        return found

    def _takes_lists(self) -> list[bool]:
        if self._batched is None:
            (said,) = self.ask([("describe", "", "1")])
            if said == UNSCORABLE:
                raise ConfigError(self.cannot_start("it ended"))
            if "error" in said:
                raise ConfigError(f"reward.function: {said['error']}")
            self._batched = said["batched"]
        return self._batched

    def _tell(self, name: str, problem: str) -> None:
        kind = problem.partition(":")[0].partition(";")[0][:60]
        with self._telling:
            known = (name, kind) in self._told
            self._told.add((name, kind))
        if not known:
            logger.warning("reward.function: %s %s; such responses are unscorable (told once)", name, problem)


def _neighbours(rows: Sequence[Row]) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of one and the same row: the responses to a problem."""
    start = 0
    for _, run in itertools.groupby(rows, key=id):
        end = start + len(list(run))
        yield start, end
        start = end


def _packed(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[Row]) -> str:
    return json.dumps({"prompts": list(prompts), "responses": list(responses), "rows": list(rows)}, default=str)
