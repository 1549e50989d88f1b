# SPDX-License-Identifier: Apache-2.0
"""What must be known of a kind of problem to make chains for it; and problems of files, where models write everything.

problems -> attempts -> notes -> chains. For each piece a subject gives the messages to send to a writer, or, where a
program writes it, the text itself. So problems of files and the embedded task (rules.py) share one pipeline.
A response to a problem of a file is <think>, the chain up to its last paragraph, </think>, and that paragraph, which
holds the box: what t1jax samples and cuts at a budget.
Deliberately not here: the texts of the prompts (templates/), who is asked (training/stages.py).
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
        """How its chains say things."""
        ...

    def attempt(self, item: Item) -> Messages:
        """What asks for an attempt."""
        ...

    def said(self, text: str) -> str:
        """What others read of a writer's text."""
        ...

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[tuple[Outcome, str | None]]:
        """(right, wrong or unscorable; the final answer, None without one) of each text to the item beside it."""
        ...

    def note(self, item: Item, attempt: Attempt) -> Messages | str:
        """What asks for the critic's note on a usable attempt; a str is the note."""
        ...

    def merge(self, story: Story) -> Messages | str:
        """What asks for one chain out of the usable attempts and their notes; a str is the chain."""
        ...

    def rewrite(self, item: Item, chain: str) -> Messages | str:
        """What asks for a fluent chain; a str is the chain."""
        ...

    def response(self, chain: str) -> tuple[str, str]:
        """(the thinking, the whole response) that a written chain is."""
        ...


class FileSubject:
    """Problems of a file: every piece is asked of a model."""

    words = checks.ENGLISH

    def __init__(self, verifier: Checker) -> None:
        self._verifier = verifier

    def attempt(self, item: Item) -> Messages:
        return prompts.message("attempt", problem=item.prompt)

    def said(self, text: str) -> str:
        """`text` without the writer's own thinking before it."""
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
