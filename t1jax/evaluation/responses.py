# SPDX-License-Identifier: Apache-2.0
"""One sampled and judged response, and its line in a file: JSON in ASCII, the same for a run and for every command.

    problem     its number in the list of problems      outcome   right, wrong, unscorable; scored: neither, a reward
    response    its number among those to the problem   tokens    how many, the stop token included
    answer      what the last box holds; null: no box   overlong  no stop token within the limit
    gold        a right answer; null: there is none     text      of the response

Columns that are not known are left out:

    row         of the problem in its file              stage     sft or rl, of a run
    ids         of the tokens                           step      updates of RL before it
    difficulty  of the problem, as the task names it    prompt    that the response continues
    lenient     the outcome if its last number counts, of a response without a box, where that is another
    reward      of reward.function, before penalties; null: unscorable

Runs used to write `response` for the text, with neither `answer` nor a number; such lines are read as well.
Deliberately not here: files (journal.py grows by batches, saved.py is whole), figures (figures.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t1jax.host import files
from t1jax.rewards.answers import RIGHT, SCORED, UNSCORABLE, Outcome
from t1jax.tasks.honesty import Analysis

KNOWN: dict[str, type] = {"problem": int, "outcome": str, "tokens": int, "overlong": bool}  # in every line
SOMETIMES: dict[str, type] = {"row": int, "prompt": str, "stage": str, "step": int}
LARGEST = 2**31 - 1  # of numbers in a line
OUTCOMES = {outcome.name.lower(): outcome for outcome in Outcome}


@dataclass(frozen=True, kw_only=True)
class Response:
    """One sampled and judged response."""

    problem: int
    text: str
    outcome: Outcome
    tokens: int
    overlong: bool
    answer: str | None = None
    gold: str | None = None
    response: int = 0
    row: int = 0  # from 1; 0: not of a file
    difficulty: Any = None  # None: not known
    prompt: str | None = None  # None: not known
    stage: str = ""  # "": not of a run
    step: int | None = None
    reward: float | None = None  # of reward.function, NaN where unscorable; None: 1 if right, else 0
    graded: bool = True  # whether it could be right or wrong; never in a file
    lenient: Outcome | None = None  # if an answer outside of a box counts (answers.loose); None: as `outcome`
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32), compare=False)  # int32[tokens], or not known
    analysis: Analysis | None = None  # never in a file; None: the task cannot tell what was tried and claimed

    @property
    def right(self) -> bool:
        return self.outcome == RIGHT

    @property
    def worth(self) -> float | None:
        """The reward before penalties; None: unscorable."""
        if self.outcome == UNSCORABLE:
            return None
        return float(self.right) if self.reward is None else self.reward

    @property
    def leniently(self) -> Outcome:
        """The outcome for a reader who does not ask for a box."""
        return self.outcome if self.lenient is None else self.lenient

    def line(self) -> bytes:
        """Its JSON line."""
        of_run = {"stage": self.stage, "step": self.step} if self.stage else {}
        row = of_run | {
            "problem": self.problem,
            "row": self.row or None,
            "difficulty": files.json_ready(self.difficulty),
            "prompt": self.prompt,
            "response": self.response,
            "outcome": self.outcome.name.lower(),
            "lenient": None if self.lenient is None else self.lenient.name.lower(),
            "answer": self.answer,
            "gold": self.gold,
            "tokens": self.tokens,
            "overlong": self.overlong,
            "text": self.text,
            "ids": self.ids.tolist() or None,
        }
        known = {name: value for name, value in row.items() if value is not None or name in ("answer", "gold")}
        if self.reward is not None:
            known["reward"] = files.json_ready(self.reward)
        return json.dumps(known).encode() + b"\n"

    @staticmethod
    def parse(row: Any) -> Response:
        """The response of a line's JSON. ValueError, KeyError or TypeError: it is none."""
        if not isinstance(row, dict):
            raise TypeError(f"a {type(row).__name__}; expected an object")
        for name in (name for name, value in row.items() if isinstance(value, int) and abs(value) > LARGEST):
            raise ValueError(f"{name} has {len(str(row[name]))} digits; expected at most {LARGEST}")
        for name, kind in KNOWN.items():
            if type(row[name]) is not kind:
                raise ValueError(f"{name} is {row[name]!r}; expected {kind.__name__}")
        before = "text" not in row  # a line of a run as they used to be
        text, number = (row["response"], 0) if before else (row["text"], row["response"])
        try:
            ids = np.asarray(row.get("ids", ()), np.int32)
        except OverflowError as error:
            raise ValueError(f"ids: {error}") from error
        if type(text) is not str or type(number) is not int or row["tokens"] < 0:
            raise ValueError("expected a text, a number and tokens")
        if any(name in row and type(row[name]) is not kind for name, kind in SOMETIMES.items()):
            raise ValueError(f"expected other types of {', '.join(SOMETIMES)}")
        if "ids" in row and len(ids) != row["tokens"]:
            raise ValueError(f"{row['tokens']} tokens, {len(ids)} ids")
        gold, reward = row.get("gold"), row.get("reward", math.nan)
        if not isinstance(reward, int | float | None) or isinstance(reward, bool):
            raise ValueError(f"reward is {reward!r}")
        return Response(
            problem=row["problem"], text=text, outcome=OUTCOMES[row["outcome"]], tokens=row["tokens"],
            overlong=row["overlong"], answer=row.get("answer"), gold=gold if isinstance(gold, str) else None,
            response=number, row=row.get("row", 0), difficulty=row.get("difficulty"), prompt=row.get("prompt"),
            stage=row.get("stage", ""), step=row.get("step"), ids=ids,
            lenient=OUTCOMES[row["lenient"]] if "lenient" in row else None,
            reward=None if "reward" not in row else math.nan if reward is None else float(reward),
            graded=OUTCOMES[row["outcome"]] != SCORED,
        )  # fmt: skip
