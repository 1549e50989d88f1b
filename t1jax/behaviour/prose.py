# SPDX-License-Identifier: Apache-2.0
"""Finds attempts and behaviours in free text by keywords (phrases.py).

... -> evaluate -> **behaviour**, for problems from files. Keywords show what is written, not what is meant: they count
a "wait" that means a queue, and miss a doubt that uses none of them. So use the figures to compare checkpoints on the
same problems.

A text is split into sentences, at line ends and at . ! ? before a space. Its attempts:
  * The first begins with the text. A sentence with a BACKTRACK keyword begins another one, if there was a sentence
    without such a keyword since the last one began.
  * A candidate answer is the content of a box or <answer>, or the number, letter or formula after "answer is" or
    "answer:". An attempt's answer is its first candidate. A different candidate begins another attempt, with its
    sentence, or with itself if that sentence has given an answer already.
  * An attempt without a candidate has the number after its last "=" as its answer. Without that it has none: wrong.
Source: T1 (arXiv 2501.11651) section 3 counts such words: "wait", "perhaps", "alternate".
Deliberately not here: figures over many responses (behaviour.py), the embedded tasks, which have exact rules
(tasks/honesty.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from t1jax.behaviour.phrases import WORDS, opening
from t1jax.rewards import answers
from t1jax.rewards.answers import RIGHT, WRONG, Outcome

LONGEST = 1000  # characters of a candidate answer

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n\s*")  # linear in the text, as all of these are
_VALUE = (
    r"(\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)|\([A-J]\)|[A-J](?![\w'])(?! [a-z])"
    r"|[-+]?\\?\$?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?(?:\\?%)?)"
)
_STATED = re.compile(
    r"(?:(?<!\w)(?i:answer)(?:(?i: is| must be| should be| would be):?|:|\*\*:|:\*\*)|答案(?:是|为|：|:)[：:]?)"
    rf"\s{{0,2}}(?:\*\*)?\s{{0,2}}{_VALUE}"
)
_EQUALS = re.compile(r"=\s{0,2}+(-?[0-9][0-9,]*+(?:\.[0-9]+)?+(?:/[0-9]+)?+)(?!\s?[-+*/^(\\])(?![A-Za-z])")
_TAGGED = re.compile(r"<answer>([^<]{1,1000})</answer>")


@dataclass(frozen=True)
class Attempt:
    """A stretch of the text, and the answer that it comes to."""

    start: int  # characters before it
    end: int
    answer: str | None  # None: it comes to nothing
    stated: bool = False  # the answer is a candidate, not the number behind the last "="
    right: bool | None = None  # None: only algebra could tell


@dataclass(frozen=True)
class Reading:
    """What a text does."""

    attempts: tuple[Attempt, ...]
    reflections: int  # places with such a word
    backtracks: int
    verifications: int
    repeated: int  # attempts that come to the answer of an earlier one
    verified: bool  # a word of VERIFICATION stands in the last attempt with a candidate answer, or behind it
    gave_up: bool  # no candidate at all, or a word of GIVING_UP in the last attempt with one, or behind it
    turns: tuple[str, ...]  # of a right response: how each attempt that follows a wrong one begins


def read(text: str, gold: str | None, outcome: Outcome) -> Reading:
    """What `text` does, as the answer to a problem with the right answer `gold`, judged `outcome` as a whole.

    The candidate that is the final answer is as right as the whole. Others are compared as text and as exact numbers.
    """
    places = {kind: [match.start() for match in words.finditer(text)] for kind, words in WORDS.items()}
    sentences = _sentences(text)
    attempts = _judged(_attempts(text, sentences, places["backtrack"]), text, gold, outcome)
    stated = [attempt for attempt in attempts if attempt.stated]
    end = stated[-1].start if stated else len(text)

    def late(kind: str) -> bool:
        return any(place >= end for place in places[kind])

    return Reading(
        attempts=attempts,
        reflections=len(places["reflection"]),
        backtracks=len(places["backtrack"]),
        verifications=len(places["verification"]),
        repeated=_repeated(attempts),
        verified=bool(stated) and late("verification"),
        gave_up=not stated or late("giving up"),
        turns=tuple(
            opening(text[after.start : after.end])
            for before, after in zip(attempts, attempts[1:], strict=False)
            if outcome == RIGHT and before.right is False
        ),
    )


def _sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence that is not empty."""
    found, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        found.append((start, match.start()))
        start = match.end()
    return [(start, end) for start, end in [*found, (start, len(text))] if text[start:end].strip()]


def _candidates(text: str) -> list[tuple[int, str]]:
    """(place, answer) of all candidate answers, in order."""
    found = [(start, held) for start, _, held in answers.boxes(text) if len(held) <= LONGEST]
    found += [
        (match.start(1), match[1])
        for words in (_STATED, _TAGGED)
        for match in words.finditer(text)
        if answers.final_answer(match[1]) is None  # a box within is found already
    ]
    return sorted((place, answer.strip()) for place, answer in found if answer.strip())


def _attempts(text: str, sentences: Sequence[tuple[int, int]], backtracks: Sequence[int]) -> list[Attempt]:
    """The attempts, not judged yet."""
    candidates, found = _candidates(text), list[Attempt]()
    turning, answering = iter([*backtracks, len(text) + 1]), iter([*candidates, (len(text) + 1, "")])
    turn, (place, answer) = next(turning), next(answering)
    start, tried, current, since = 0, False, None, -1  # `since`: where the sentence with the current answer begins
    for begin, end in sentences:
        turns = turn < end
        while turn < end:
            turn = next(turning)
        if turns and tried:
            found.append(Attempt(start, begin, current))
            start, current, tried = begin, None, False
        tried = tried or not turns
        while place < end:
            if current is not None and not _same(current, answer):
                border = place if since == begin else begin
                found.append(Attempt(start, border, current))
                start, current = border, None
            if current is None:
                current, since, tried = answer, begin, True
            place, answer = next(answering)
    return [*found, Attempt(start, len(text), current)]


def _judged(attempts: Sequence[Attempt], text: str, gold: str | None, outcome: Outcome) -> tuple[Attempt, ...]:
    """Each attempt with whether it is right."""
    final = answers.final_answer(text)

    def right(answer: str | None) -> bool | None:
        if answer is None:
            return False
        if final is not None and _same(answer, final):
            return outcome == RIGHT if outcome in (RIGHT, WRONG) else None
        return None if gold is None else answers.quick(answer, gold)

    judged = []
    for one in attempts:
        answer = one.answer
        if answer is None and (results := _EQUALS.findall(text, one.start, one.end)):
            answer = results[-1]
        judged.append(Attempt(one.start, one.end, answer, one.answer is not None, right(answer)))
    return tuple(judged)


def _repeated(attempts: Sequence[Attempt]) -> int:
    """How many come to the answer of an earlier one, as a text: comparing all numbers would be quadratic."""
    found = [answers.tidy(attempt.answer) for attempt in attempts if attempt.answer is not None]
    return len(found) - len(set(found))


def _same(left: str, right: str) -> bool:
    """Whether two answers are one, as far as text and exact numbers tell."""
    return left == right or answers.quick(left, right) is True
