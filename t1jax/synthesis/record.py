# SPDX-License-Identifier: Apache-2.0
"""The data types of synthesis: problems, attempts, notes and chains with their writers, and the rows of the output.

problems -> attempts -> notes -> chains -> **rows**. A row has what data.sft reads (`prompt`, `response`) and everything
that the response was made from, so that each sentence can be traced to its writer.
Deliberately not here: how they are made (pipeline.py), the page (gallery.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from t1jax.rewards.answers import RIGHT, WRONG, Outcome

PROGRAM = "t1jax"  # the "model" of text that a program wrote


@dataclass(frozen=True)
class Item:
    """A problem to make a chain for."""

    index: int  # in the list of problems
    row: int  # in the file; equal to index if there is no file
    prompt: str  # the row's `prompt`
    gold: str
    problem: Any  # the task's own object


@dataclass(frozen=True)
class Piece:
    """A text, who wrote it, and what it cost."""

    key: str  # of the request
    writer: str  # name in the config
    model: str  # name that the server gave
    text: str
    finished: bool  # False: cut off at max_tokens
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def row(self) -> dict[str, Any]:
        """Its entry in a row's provenance."""
        return {"writer": self.writer, "model": self.model, "key": self.key, "text": self.text}


@dataclass
class Attempt:
    """One attempt at a problem; its note is added later."""

    piece: Piece
    outcome: Outcome
    answer: str | None  # content of its last box
    note: Piece | None = None

    @property
    def usable(self) -> bool:
        """Whether it has an answer that could be judged."""
        return self.answer is not None and self.outcome in (RIGHT, WRONG)


@dataclass
class Story:
    """A problem on its way through the pipeline; in the end it has a response, or the reason why there is none."""

    item: Item
    attempts: list[Attempt] = field(default_factory=list)
    merge: Piece | None = None
    rewrite: Piece | None = None
    response: str | None = None
    tokens: int = 0  # of the response
    reason: str | None = None  # why it was rejected
    stage: str = ""  # where it was rejected: attempt, note, merge or rewrite

    @property
    def wrong(self) -> list[Attempt]:
        """The usable attempts that are wrong."""
        return [attempt for attempt in self.attempts if attempt.usable and attempt.outcome == WRONG]

    @property
    def right(self) -> list[Attempt]:
        """The usable attempts that are right."""
        return [attempt for attempt in self.attempts if attempt.usable and attempt.outcome == RIGHT]

    @property
    def pieces(self) -> list[Piece]:
        """All texts that were written for it."""
        notes = [attempt.note for attempt in self.attempts if attempt.note is not None]
        chains = [piece for piece in (self.merge, self.rewrite) if piece is not None]
        return [*(attempt.piece for attempt in self.attempts), *notes, *chains]

    def reject(self, stage: str, reason: str) -> None:
        """Drops the response, and records why and where."""
        self.response, self.stage, self.reason = None, stage, reason

    def row(self, templates: str, seed: int) -> dict[str, Any]:
        """Its row in the file of chains, or in the file of rejected problems."""
        item = self.item
        attempts = [
            attempt.piece.row() | {"outcome": attempt.outcome.name.lower(), "answer": attempt.answer}
            for attempt in self.attempts
        ]
        notes = [attempt.note.row() if attempt.note else None for attempt in self.attempts]
        provenance = {
            "attempts": attempts,
            "notes": notes,
            "merge": self.merge.row() if self.merge else None,
            "rewrite": self.rewrite.row() if self.rewrite else None,
            "templates": templates,
            "seed": seed,
        }
        row: dict[str, Any] = {"problem": item.index, "row": item.row, "gold": item.gold, "prompt": item.prompt}
        if self.response is None:
            return row | {"reason": self.reason, "stage": self.stage, "provenance": provenance}
        return row | {"response": self.response, "tokens": self.tokens, "provenance": provenance}


def summary(stories: Sequence[Story], templates: str, seed: int) -> dict[str, Any]:
    """Counts of chains, attempts and rejections, and the cost by writer."""
    made = [story for story in stories if story.response is not None]
    outcomes = Counter(attempt.outcome.name.lower() for story in stories for attempt in story.attempts)
    rejected = Counter(story.reason for story in stories if story.reason is not None)
    return {
        "problems": len(stories),
        "chains": len(made),
        "with_wrong_attempts": sum(bool(story.wrong) for story in made),
        "wrong_attempts_per_chain": _mean(len(story.wrong) for story in made),
        "tokens_per_chain": _mean(story.tokens for story in made),
        "attempts": {name: outcomes[name] for name in ("right", "wrong", "unscorable")},
        "rejected": {str(reason): count for reason, count in sorted(rejected.items(), key=lambda x: (-x[1], x[0]))},
        "writers": _writers(piece for story in stories for piece in story.pieces),
        "templates": templates,
        "seed": seed,
    }


def _writers(pieces: Iterable[Piece]) -> dict[str, dict[str, Any]]:
    """Writer -> its models, requests, tokens and cost, including what earlier runs paid."""
    found: dict[str, dict[str, Any]] = {}
    for piece in pieces:
        empty: dict[str, Any] = {"models": [], "requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
        row = found.setdefault(piece.writer, empty)
        if piece.model not in row["models"]:
            row["models"].append(piece.model)
        row["requests"] += 1
        row["prompt_tokens"] += piece.prompt_tokens
        row["completion_tokens"] += piece.completion_tokens
        row["cost"] += piece.cost
    return dict(sorted(found.items()))


def _mean(values: Iterable[int]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
