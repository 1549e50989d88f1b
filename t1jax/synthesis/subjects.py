# SPDX-License-Identifier: Apache-2.0
"""What the pipeline asks about a kind of problem, and its answers for problems of files.

problems -> attempts -> notes -> chains. For each text, a subject gives the messages for a writer or, if a program
writes it, the text itself. So problems of files and the embedded task (rules.py) share one pipeline.
For problems of files, a response is <think>, the chain up to its last paragraph, </think>, and that paragraph, which
has the box. t1jax samples responses of this form and can cut their thinking at a budget.
Deliberately not here: the texts of prompts (templates/), who is asked (pipeline.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, Outcome
from t1jax.synthesis import checks, prompts
from t1jax.synthesis.prompts import Messages
from t1jax.synthesis.record import Attempt, Item, Story
from t1jax.tasks.files.problems import Checker, judge

OPEN, CLOSE = "<think>", "</think>"


class Subject(Protocol):
    """A kind of problem."""

    @property
    def words(self) -> checks.Words:
        """The phrases of its chains, for checks.py."""
        ...

    def attempt(self, item: Item) -> Messages:
        """The messages that ask for an attempt."""
        ...

    def said(self, text: str) -> str:
        """The part of a writer's text that other writers read."""
        ...

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[tuple[Outcome, str | None]]:
        """(outcome, final answer or None) of each text, as a response to the item with the same index."""
        ...

    def note(self, item: Item, attempt: Attempt) -> Messages | str:
        """The messages that ask for a note on a usable attempt, or the note itself."""
        ...

    def merge(self, story: Story) -> Messages | str:
        """The messages that ask to merge the usable attempts and their notes, or the chain itself."""
        ...

    def rewrite(self, item: Item, chain: str) -> Messages | str:
        """The messages that ask for a fluent rewrite, or the chain itself."""
        ...

    def response(self, chain: str) -> tuple[str, str]:
        """Splits a written chain: (thinking, whole response)."""
        ...


class FileSubject:
    """Problems of a file: models write everything."""

    words = checks.ENGLISH

    def __init__(self, verifier: Checker) -> None:
        self._verifier = verifier

    def attempt(self, item: Item) -> Messages:
        return prompts.message("attempt", problem=item.prompt)

    def said(self, text: str) -> str:
        """`text` without the writer's own thinking."""
        return text.rpartition(CLOSE)[2].replace(OPEN, "").strip()

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[tuple[Outcome, str | None]]:
        outcomes = judge([(text, item.gold) for item, text in zip(items, texts, strict=True)], self._verifier)
        return [(outcome, answers.final_answer(text)) for outcome, text in zip(outcomes, texts, strict=True)]

    def note(self, item: Item, attempt: Attempt) -> Messages | str:
        shown = {"problem": item.prompt, "attempt": self.said(attempt.piece.text), "answer": attempt.answer or ""}
        if attempt.outcome == RIGHT:
            return prompts.message("critic_right", **shown)
        return prompts.message("critic_wrong", **shown, gold=item.gold)

    def merge(self, story: Story) -> Messages | str:
        tries = [
            prompts.render(
                "try", number=str(number), verdict="right" if attempt.outcome == RIGHT else "wrong",
                answer=attempt.answer or "", attempt=self.said(attempt.piece.text),
                note=self.said(attempt.note.text) if attempt.note else "",
            )
            for number, attempt in enumerate((*story.wrong, *story.right), start=1)
        ]  # fmt: skip
        return prompts.message("merge", problem=story.item.prompt, gold=story.item.gold, attempts="\n\n".join(tries))

    def rewrite(self, item: Item, chain: str) -> Messages | str:
        return prompts.message("rewrite", problem=item.prompt, chain=self.said(chain))

    def response(self, chain: str) -> tuple[str, str]:
        chain = self.said(chain)
        box = max(chain.rfind("\\boxed"), chain.rfind("\\fbox"), 0)
        cut = max(chain.rfind("\n\n", 0, box), 0) or max(chain.rfind("\n", 0, box), 0)
        thinking, answer = chain[:cut].strip(), chain[cut:].strip()
        return thinking, f"{OPEN}\n{thinking}\n{CLOSE}\n\n{answer}"
